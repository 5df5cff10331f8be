"""Networks that leave the house: files for other runtimes and for the original code."""

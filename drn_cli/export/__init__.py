"""Export of networks to files for other runtimes and for the original code."""

"""Networks that were exported, run by their own runtimes."""

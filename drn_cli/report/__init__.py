"""What a run folder tells: a page of it, and a line in a list of runs."""

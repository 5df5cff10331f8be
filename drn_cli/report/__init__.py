"""Reports on runs and evaluations: HTML pages, figures, and the summary of a run."""

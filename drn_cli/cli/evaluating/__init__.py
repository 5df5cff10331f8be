"""What `drn eval` scores, and how it tells."""

"""Evaluation of `drn eval`, and output of its scores."""

"""Predictions of `drn predict`: maps of segmenters, classes of classifiers."""

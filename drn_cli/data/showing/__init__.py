"""A contact sheet of a data folder: what is on it, and how it is laid out."""

"""Checks of data folders: each file is read once, and all problems are reported together."""

"""Auditing data folders: everything is read once, and all that is wrong is told at once."""

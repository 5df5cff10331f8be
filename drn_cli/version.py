"""The version of this package; a leaf, so that any module can import it."""

__version__ = "0.1.0"

"""Versions of what is installed, by the name that it is imported under.

One module may come from several distributions: `cv2` from opencv-python and its headless kin,
`onnxruntime` from onnxruntime-gpu too.
"""

from functools import cache
from importlib.metadata import packages_distributions, version

_named = cache(packages_distributions)


def version_of(module: str) -> str:
    """Give a version as pip knows it; of a module that pip does not know, say so."""
    names = sorted(set(_named().get(module.partition(".")[0], ())))
    return ", ".join(map(version, names)) or "of unknown version"

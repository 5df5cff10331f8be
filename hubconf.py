"""The networks by `torch.hub.load`, from a checkout or from where it is hosted.

>>> torch.hub.load("path/to/checkout", "drn_d_22", source="local", task="segmentation", classes=19)
"""

from functools import partial as _partial

from drn_cli.networks import create_model as _create_model
from drn_cli.networks.catalog import ARCHITECTURES as _ARCHITECTURES

# What has no underscore in front is an entry point to torch.hub.
dependencies = ["torch", "torchvision", "numpy", "PIL", "cv2", "imagecodecs", "pydantic", "yaml"]
dependencies += ["safetensors"]


def _entry(arch: str) -> _partial[object]:
    """Return the entry point of an architecture: `create_model` with its name filled in."""
    entry = _partial(_create_model, arch)
    entry.__doc__ = f"""Build {arch}.

    Args:
        task: `classification` (the default) or `segmentation`.
        classes: Number of classes; by default 1000 and 19.
        weights: None for a fresh network, `imagenet` for the published weights, or a file.
    """
    return entry


globals().update({name: _entry(name) for name in _ARCHITECTURES})

"""Dilated Residual Networks (Yu, Koltun, Funkhouser, CVPR 2017).

>>> import drn_cli
>>> model = drn_cli.create_model("drn_d_22", task="segmentation", classes=19)

The names below are imported on first use, so that `import drn_cli` does not import torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from drn_cli.version import __version__

if TYPE_CHECKING:
    from drn_cli.api import Classification, Prediction, Predictor
    from drn_cli.errors import DrnError
    from drn_cli.networks import create_model, list_models
    from drn_cli.networks.weights import load_weights
    from drn_cli.recipe.schema import MULTI_SCALE

__all__ = [
    "MULTI_SCALE",
    "Classification",
    "DrnError",
    "Prediction",
    "Predictor",
    "__version__",
    "create_model",
    "list_models",
    "load_weights",
]

_HOMES = {
    "Classification": "drn_cli.api",
    "MULTI_SCALE": "drn_cli.recipe.schema",
    "Prediction": "drn_cli.api",
    "Predictor": "drn_cli.api",
    "DrnError": "drn_cli.errors",
    "create_model": "drn_cli.networks",
    "list_models": "drn_cli.networks",
    "load_weights": "drn_cli.networks.weights",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)

"""The networks of the paper and their weights."""

from pathlib import Path
from typing import TYPE_CHECKING, get_args

from drn_cli.errors import DrnError
from drn_cli.networks.catalog import Task, architecture, list_models

if TYPE_CHECKING:
    from drn_cli.networks.models import DRN

__all__ = ["Task", "create_model", "list_models"]

DEFAULT_CLASSES: dict[Task, int] = {"classification": 1000, "segmentation": 19}


def create_model(
    arch: str,
    task: Task = "classification",
    classes: int | None = None,
    weights: str | Path | None = None,
    *,
    width: float = 1.0,
) -> "DRN":
    """Build a network.

    Args:
        arch: One of `list_models()`, `drn_d_22` for instance.
        task: `forward` returns logits: `(N, classes)` for classification and
            `(N, classes, H, W)`, at the input's size, for segmentation.
        classes: Number of classes; 1000 for classification and 19 for segmentation if left out.
        weights: `None` for random initialization, `"imagenet"` for the published weights (cached,
            or else downloaded), or a checkpoint file of any known format.
        width: Channel multiplier, an extension that is not in the paper: channels are scaled and
            rounded to a multiple of 8, at least 8. Published weights need 1.0.

    Raises:
        DrnError: Unknown architecture or task, a width out of range, or a file that cannot be read
            or does not fit.
    """
    from drn_cli.networks.models import build  # torch takes a second: not for `drn --help`

    if task not in get_args(Task):
        raise DrnError(f"unknown task {task!r}", f"one of: {', '.join(get_args(Task))}")
    count = DEFAULT_CLASSES[task] if classes is None else classes
    if count < 1:
        raise DrnError(f"classes={count}: at least one class is needed")
    model = build(architecture(arch, width), task, count)
    if weights is not None:
        from drn_cli.networks.weights import load_weights, weights_file

        load_weights(model, weights_file(model.architecture, str(weights)))
    return model

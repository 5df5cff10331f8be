"""Weights into a network: from a file of any known format, all of them or none."""

import logging
from dataclasses import dataclass
from pathlib import Path

from drn_cli.errors import DrnError
from drn_cli.files import user_path
from drn_cli.networks.catalog import KEYWORDS, Architecture, Task, check_width
from drn_cli.networks.checkpoints import read_checkpoint
from drn_cli.networks.conversion import HEAD, Conversion, convert
from drn_cli.networks.download import download_weights
from drn_cli.networks.models import DRN
from drn_cli.networks.published import published

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class LoadReport:
    """What was loaded.

    Attributes:
        path: The file.
        format: As in `Conversion.format`.
        arch: The network's architecture.
        task: The file's task, if it tells.
        classes: Classes of the file's head, if it has one.
        new_head: Whether the network's head was left as it was.
        verified: Whether a checksum shows that the file is as it was written.
        message: The same in a line of plain words.
    """

    path: Path
    format: str
    arch: str
    task: Task | None
    classes: int | None
    new_head: bool
    verified: bool
    message: str

    def __str__(self) -> str:
        return self.message


def weights_file(arch: Architecture, weights: str) -> Path:
    """Find the file that `weights` means for an architecture.

    Args:
        arch: The architecture.
        weights: `imagenet` (as published by the authors), `imagenet-retrained` (trained again by
            others, with lower errors), or a file. The first two are looked for in the cache
            folder, then downloaded.

    Raises:
        DrnError: Nothing is published for the architecture or its width, no mirror answers, or no
            such file.
    """
    if weights in KEYWORDS:
        check_width(arch.width, weights)
        return download_weights(published(arch.name, weights))
    path = user_path(weights)
    if not path.exists():
        raise DrnError(f"{path}: no such file", f"give a file, {' or '.join(KEYWORDS)}")
    return path


def load_weights(model: DRN, path: str | Path) -> LoadReport:
    """Load a file into a network.

    The head is loaded if task and number of classes agree. Otherwise the backbone alone is, the
    head stays as it is, and a warning says so. On an error the network is left untouched.

    Raises:
        DrnError: The file cannot be read, holds another architecture, or does not fit.
    """
    path = Path(path)
    return load_converted(model, convert(read_checkpoint(path), path), path)


def load_converted(model: DRN, converted: Conversion, path: Path) -> LoadReport:
    """Load what was read from `path` already; otherwise as `load_weights`."""
    if model.arch not in converted.archs:
        raise DrnError(
            f"{path}: file holds {' or '.join(converted.archs)}, the network is {model.arch}"
        )
    if model.width != converted.width:
        raise DrnError(
            f"{path}: file holds {model.arch} of width {converted.width!r}, the network has width "
            f"{model.width!r}",
            f"set its width (model.width of a recipe) to {converted.width!r}",
        )
    new_head = converted.classes != model.classes or converted.task not in (None, model.task)
    # Keys that the file may lack (a head, batch norm's counters) keep their values.
    state = model.state_dict()
    state |= {
        key: value for key, value in converted.tensors.items() if not (new_head and key in HEAD)
    }
    model.load_state_dict(state)
    if new_head:
        message = (
            f"{path.name}: {_head_of(converted.classes, converted.task)}, this network has "
            f"{model.classes} for {model.task}: backbone loaded, head starts anew"
        )
        logger.warning("%s", message)
    else:
        message = (
            f"{path.name}: {model.architecture.label} for {model.task} with {model.classes} "
            f"classes loaded (format: {converted.format})"
        )
    return LoadReport(
        path=path,
        format=converted.format,
        arch=model.arch,
        task=converted.task,
        classes=converted.classes,
        new_head=new_head,
        verified=converted.verified,
        message=message,
    )


def _head_of(classes: int | None, task: Task | None) -> str:
    if classes is None:
        return "it has no head"
    return f"its head has {classes} classes" + (f" for {task}" if task else "")

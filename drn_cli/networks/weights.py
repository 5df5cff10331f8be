"""Load weights into a network, from a file of any known format."""

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
    """Result of loading a weight file."""

    path: Path
    format: str  # as in `Conversion.format`
    arch: str  # the network's architecture
    task: Task | None  # task of the file, if it states one
    classes: int | None  # number of classes of the file's head, if it has one
    new_head: bool  # whether the head was not loaded
    verified: bool  # whether a checksum confirms that the file is as it was written
    message: str  # summary in one line

    def __str__(self) -> str:
        return self.message


def weights_file(arch: Architecture, weights: str) -> Path:
    """Return the weight file for an architecture, downloading it if necessary.

    Args:
        arch: The architecture.
        weights: `imagenet` (as published by the authors), `imagenet-retrained` (retrained by
            others, with lower errors), or a file. The first two are cached, or else downloaded.

    Raises:
        DrnError: No weights are published for the architecture or its width, the download failed,
            or no such file.
    """
    if weights in KEYWORDS:
        check_width(arch.width, weights)
        return download_weights(published(arch.name, weights))
    path = user_path(weights)
    if not path.exists():
        raise DrnError(f"{path}: no such file", f"use a weight file, {' or '.join(KEYWORDS)}")
    return path


def load_weights(model: DRN, path: str | Path) -> LoadReport:
    """Load a weight file into a network.

    The head is loaded if task and number of classes match. Otherwise only the backbone is loaded,
    and a warning is logged. On errors the network is not changed.

    Raises:
        DrnError: The file cannot be read, contains another architecture, or does not fit.
    """
    path = Path(path)
    return load_converted(model, convert(read_checkpoint(path), path), path)


def load_converted(model: DRN, converted: Conversion, path: Path) -> LoadReport:
    """Load weights that have been read from `path`, as `load_weights` does."""
    if model.arch not in converted.archs:
        raise DrnError(
            f"{path}: contains {' or '.join(converted.archs)}, but the network is {model.arch}"
        )
    if model.width != converted.width:
        raise DrnError(
            f"{path}: contains {model.arch} of width {converted.width!r}, but the network has "
            f"width {model.width!r}",
            f"use width {converted.width!r} (model.width in a recipe)",
        )
    new_head = converted.classes != model.classes or converted.task not in (None, model.task)
    # Tensors that the file may lack (head, counters of batch norm) keep their values.
    state = model.state_dict()
    state |= {
        key: value for key, value in converted.tensors.items() if not (new_head and key in HEAD)
    }
    model.load_state_dict(state)
    if new_head:
        head = "no head"
        if converted.classes is not None:
            head = f"a head of {converted.classes} classes"
            head += f" for {converted.task}" if converted.task else ""
        message = (
            f"{path.name}: the file has {head}, the network {model.classes} classes for "
            f"{model.task}: loaded the backbone, not the head"
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

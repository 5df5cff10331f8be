"""`last.pt`: everything a run needs to go on, as plain data."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from drn_cli.errors import DrnError
from drn_cli.files import atomic

FORMAT = 1  # of this file; goes up when an older reader could not go on from it


@dataclass(slots=True)
class Progress:
    """How far a run has come.

    Attributes:
        epoch: The epoch that goes on, from 0.
        step_in_epoch: Steps of it that are done.
        steps: Steps done in all.
        best: Best validation mIoU so far; None before the first validation.
        loss, pixels: Sum of the loss since the last line of metrics, and over how many pixels.
    """

    epoch: int = 0
    step_in_epoch: int = 0
    steps: int = 0
    best: float | None = None
    loss: float = 0.0
    pixels: float = 0.0


def save_checkpoint(
    path: Path,
    model: torch.nn.Module,
    optimiser: torch.optim.Optimizer,
    progress: Progress,
    metadata: dict[str, str],
) -> None:
    """Write the checkpoint; the earlier one stays whole until the new one is.

    The metadata's strings lie at the top, where a reader of weights looks for them.
    """
    content = {
        **metadata,
        "training_format": FORMAT,
        "model": model.state_dict(),
        "optimiser": optimiser.state_dict(),
        "progress": asdict(progress),
    }
    with atomic(path) as temporary:
        torch.save(content, temporary)


def load_checkpoint(
    path: Path, model: torch.nn.Module, optimiser: torch.optim.Optimizer
) -> Progress:
    """Put a network and an optimiser where a run left them.

    Raises:
        DrnError: The file is missing, broken, or belongs to another network.
    """
    content = _read(path)
    try:
        model.load_state_dict(content["model"])
        optimiser.load_state_dict(content["optimiser"])
        return Progress(**content["progress"])
    except (RuntimeError, ValueError, KeyError, TypeError) as error:
        reason = " ".join(str(error).split())
        raise DrnError(f"{path}: does not fit this run: {reason[:200]}") from error


def _read(path: Path) -> dict[str, Any]:
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise DrnError(f"{path}: no such checkpoint") from error
    except OSError as error:
        raise DrnError(f"{path}: cannot be read: {error.strerror or error}") from error
    except Exception as error:  # what a damaged pickle raises has no bounds
        raise DrnError(f"{path}: broken, or not a checkpoint of a training run") from error
    if not isinstance(content, dict) or content.get("training_format") != FORMAT:
        raise DrnError(f"{path}: not a checkpoint that a training run can go on from")
    return content

"""`last.pt`: everything a run needs to go on, as plain data."""

import logging
import random
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from drn_cli.errors import DrnError, FaultError, warn_for_all
from drn_cli.files import atomic
from drn_cli.integrity import check_zip, open_regular
from drn_cli.networks.metadata import check_metadata
from drn_cli.networks.pickles import load_pickle
from drn_cli.runs import Run
from drn_cli.training.setup import TrainState

log = logging.getLogger(__name__)

FORMAT = 2  # of this file; goes up when an older reader could not go on from it


@dataclass(slots=True)
class TrainProgress:
    """How far a run has come.

    Attributes:
        epoch: The epoch that goes on, from 0.
        step_in_epoch: Steps of it that are done.
        steps: Steps done in all.
        best: Best validation score so far; None before the first validation.
        meter: What the steps did since the last line of metrics; see `StepStats`.
    """

    epoch: int = 0
    step_in_epoch: int = 0
    steps: int = 0
    best: float | None = None
    meter: list[float] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class LoadedCheckpoint:
    """What a checkpoint said besides the network.

    Attributes:
        progress: How far the run had come.
        seconds: How long it had trained.
        processes: In how many processes.
        batch_size: In steps of how many images.
        verified: Whether checksums show that the checkpoint is as it was written.
    """

    progress: TrainProgress
    seconds: float
    processes: int
    batch_size: int
    verified: bool


def save_checkpoint(
    path: Path, training: TrainState, progress: TrainProgress, seconds: float
) -> None:
    """Write the checkpoint; the earlier one stays whole until the new one is.

    All processes call it, and the first writes. The metadata's strings lie at the top, where a
    reader of weights looks for them.

    Raises:
        DrnError: The file cannot be written.
    """
    states = training.group.gather_objects(random_state())
    if not training.group.is_main:
        return
    averaged = training.averaged
    content = {
        **check_metadata(training.metadata(), path, writing=True),
        "training_format": FORMAT,
        "model": training.model.state_dict(),
        "averaged": None if averaged is None else averaged.state_dict(),
        "optimiser": training.optimiser.state_dict()["state"],
        "optimiser_kind": training.recipe.train.optimiser.kind,
        "scaler": training.scaler.state_dict(),
        "random": states,
        "progress": asdict(progress),
        "seconds": seconds,
        "processes": training.group.world,
        "batch_size": training.recipe.train.batch_size,
    }
    with atomic(path) as temporary:
        save(content, temporary)


def save(content: dict[str, Any], path: Path) -> None:
    """Write with torch.save; a full disk is an OSError, as for any other file."""
    with path.open("wb") as file:
        try:
            torch.save(content, file)
        except RuntimeError as error:
            # PyTorch's writer covers the disk's error with one of its own.
            if isinstance(error.__context__, OSError):
                raise error.__context__ from None
            raise


def load_checkpoint(path: Path, training: TrainState) -> LoadedCheckpoint:
    """Put a network and all that trains it where a run left them.

    Raises:
        DrnError: The file is missing, broken, or belongs to another network.
    """
    content, verified = _read(path)
    averaged, kind = training.averaged, training.recipe.train.optimiser.kind
    if content.get("optimiser_kind") != kind:
        raise DrnError(
            f"{path}: was trained with {content.get('optimiser_kind')}, not {kind}",
            "a run keeps its train.optimiser.kind",
        )
    try:
        training.model.load_state_dict(content["model"])
        # Rates and options are the recipe's, and how a step is computed is up to the device.
        groups = training.optimiser.state_dict()["param_groups"]
        training.optimiser.load_state_dict({"state": content["optimiser"], "param_groups": groups})
        if training.precision == "fp16":
            training.scaler.load_state_dict(content["scaler"])
        if averaged is not None:
            # A run that is asked for an average only now starts it from where it is.
            kept = content["averaged"]
            averaged.load_state_dict(content["model"] if kept is None else kept)
        found = LoadedCheckpoint(
            TrainProgress(**content["progress"]),
            float(content["seconds"]),
            int(content["processes"]),
            int(content["batch_size"]),
            verified,
        )
        states = content["random"]
        if training.group.rank < len(states):
            set_random_state(states[training.group.rank])
    except (RuntimeError, ValueError, KeyError, TypeError) as error:
        reason = " ".join(str(error).split())
        raise DrnError(f"{path}: does not fit this run: {reason[:200]}") from error
    return found


def random_state() -> dict[str, Any]:
    """Read the state of every random generator that a library may draw from."""
    numpy: Any = np.random.get_state()
    version, internal, gauss = random.getstate()
    return {
        "python": [version, list(internal), gauss],
        "numpy": [numpy[0], numpy[1].tolist(), *numpy[2:]],
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state() if torch.cuda.is_available() else None,
    }


def set_random_state(state: dict[str, Any]) -> None:
    """Go on drawing where `random_state` was."""
    version, internal, gauss = state["python"]
    random.setstate((version, tuple(internal), gauss))
    np.random.set_state(tuple(state["numpy"]))
    torch.set_rng_state(state["torch"])
    if state["cuda"] is not None and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])


def _read(path: Path) -> tuple[dict[str, Any], bool]:
    with open_regular(path, "a checkpoint of a training run") as file:
        try:
            if not (verified := check_zip(file, path, stored=True)):
                warn_for_all(log, f"{path}: not verified, as it holds no checksums")
            content = load_pickle(file, path)
        except FaultError:
            raise
        except DrnError as error:
            raise DrnError(error.message, _way_out(path) or error.hint) from error
    if not isinstance(content, dict) or content.get("training_format") != FORMAT:
        raise DrnError(f"{path}: not a checkpoint that a training run can go on from")
    return content, verified


def _way_out(path: Path) -> str | None:
    """Name what else of the run can be used, where its checkpoint is damaged."""
    run = Run(path.parent.parent)
    earlier = [one for one in run.earlier_checkpoints() if one.is_file()]
    others = [one for one in reversed(earlier) if not one.samefile(path)]
    if others:
        return f"go on from an earlier one: --resume {others[0]}"
    if run.best.is_file():
        return f"start another run from its best network: model.weights={run.best}"
    return None

"""`last.pt`: everything that is needed to resume a run, as plain data."""

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

FORMAT = 2  # of this file; raised when older versions cannot read it


@dataclass(slots=True)
class TrainProgress:
    """Position of a run."""

    epoch: int = 0  # the current epoch, from 0
    step_in_epoch: int = 0  # steps done in this epoch
    steps: int = 0  # steps done in total
    best: float | None = None  # best validation score so far; None before the first validation
    # Numbers of `StepStats` since the last line of metrics
    meter: list[float] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class LoadedCheckpoint:
    """Values of a checkpoint that are not loaded into the training state."""

    progress: TrainProgress
    seconds: float  # training time
    processes: int
    batch_size: int  # images per step
    verified: bool  # whether the file had checksums, which were verified


def save_checkpoint(
    path: Path, training: TrainState, progress: TrainProgress, seconds: float
) -> None:
    """Write a checkpoint atomically; collective: every rank calls it, and rank 0 writes.

    Metadata strings are at the top level, where readers of weights look for them.

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
    """Call torch.save, but raise the OSError of a full disk."""
    with path.open("wb") as file:
        try:
            torch.save(content, file)
        except RuntimeError as error:
            # PyTorch's writer replaces the OSError by its own error.
            if isinstance(error.__context__, OSError):
                raise error.__context__ from None
            raise


def load_checkpoint(path: Path, training: TrainState) -> LoadedCheckpoint:
    """Load a checkpoint into a training state.

    Raises:
        DrnError: The file is missing, damaged, or of another network.
    """
    content, verified = _read(path)
    averaged, kind = training.averaged, training.recipe.train.optimiser.kind
    if content.get("optimiser_kind") != kind:
        raise DrnError(
            f"{path}: was trained with {content.get('optimiser_kind')}, not {kind}",
            "train.optimiser.kind cannot change within a run",
        )
    try:
        training.model.load_state_dict(content["model"])
        # The options are those of the recipe, and the implementation depends on the device.
        groups = training.optimiser.state_dict()["param_groups"]
        training.optimiser.load_state_dict({"state": content["optimiser"], "param_groups": groups})
        if training.precision == "fp16":
            training.scaler.load_state_dict(content["scaler"])
        if averaged is not None:
            # Without an EMA in the checkpoint, it starts from the current weights.
            saved = content["averaged"]
            averaged.load_state_dict(content["model"] if saved is None else saved)
        loaded = LoadedCheckpoint(
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
    return loaded


def random_state() -> dict[str, Any]:
    """Return the state of every random number generator that a library may use."""
    numpy: Any = np.random.get_state()
    version, internal, gauss = random.getstate()
    return {
        "python": [version, list(internal), gauss],
        "numpy": [numpy[0], numpy[1].tolist(), *numpy[2:]],
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state() if torch.cuda.is_available() else None,
    }


def set_random_state(state: dict[str, Any]) -> None:
    """Restore the state that `random_state` returned."""
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
            raise DrnError(error.message, _alternative(path) or error.hint) from error
    if not isinstance(content, dict) or content.get("training_format") != FORMAT:
        raise DrnError(f"{path}: not a training checkpoint (format {FORMAT})")
    return content, verified


def _alternative(path: Path) -> str | None:
    """Return a hint at other files of a run whose checkpoint is damaged."""
    run = Run(path.parent.parent)
    earlier = [one for one in run.earlier_checkpoints() if one.is_file()]
    others = [one for one in reversed(earlier) if not one.samefile(path)]
    if others:
        return f"resume from an earlier one: --resume {others[0]}"
    if run.best.is_file():
        return f"start a new run from the best weights: model.weights={run.best}"
    return None

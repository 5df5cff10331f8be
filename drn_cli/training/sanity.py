"""Checks before the first step: disk space and a short validation."""

import shutil
from contextlib import suppress

from drn_cli.data.audit.quick import spaced
from drn_cli.evaluation.confusion import NothingToScoreError
from drn_cli.runs import Run
from drn_cli.training.missing import not_enough_space
from drn_cli.training.setup import TrainState
from drn_cli.training.validation import validate

BATCHES = 2  # validation images per rank


def preflight(training: TrainState, run: Run) -> None:
    """Check the disk space for all checkpoints, and validate a few images.

    Raises:
        DrnError: An image cannot be used, or memory or disk space is insufficient.
    """
    if training.group.is_main:
        _check_disk(training, run)
    samples = spaced(training.data.val, BATCHES * training.group.world)
    with suppress(NothingToScoreError):  # these few labels may be all void
        validate(training, samples)


def checkpoint_size(training: TrainState) -> int:
    """Estimate the bytes of a checkpoint: weights, optimizer state and EMA."""
    states = {"sgd": 1, "adamw": 2}[training.recipe.train.optimiser.kind]
    return _weights_size(training) * (1 + states + (training.averaged is not None))


def _weights_size(training: TrainState) -> int:
    return sum(p.numel() * p.element_size() for p in training.model.parameters())


def _check_disk(training: TrainState, run: Run) -> None:
    # All checkpoints that are kept, the next one while it is written, and the best weights. A
    # resumed run replaces the files it has.
    count = training.recipe.train.keep_last + 1
    needed = checkpoint_size(training) * count + _weights_size(training)
    files = [path.stat() for path in run.last.parent.glob("*")]
    present = sum({file.st_ino: file.st_size for file in files}.values())  # last.pt has two names
    free = shutil.disk_usage(run.folder).free
    if free + present < needed:
        raise not_enough_space(run.folder, free, needed - present)

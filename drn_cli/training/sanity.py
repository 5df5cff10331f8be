"""What is tried before the first step, so that no run fails after its first night."""

import shutil
from contextlib import suppress

from drn_cli.data.audit.quick import spaced
from drn_cli.errors import DrnError
from drn_cli.evaluation.confusion import NothingToScoreError
from drn_cli.formatting import size
from drn_cli.runs import Run
from drn_cli.training.setup import TrainState
from drn_cli.training.validation import validate

BATCHES = 2  # of validation that are tried, in every process


def check(training: TrainState, run: Run) -> None:
    """Validate a little, and see that the disk has room for what training will write.

    Raises:
        DrnError: An image cannot be used, memory is short, or the disk is.
    """
    if training.group.is_main:
        _check_disk(training, run)
    samples = spaced(training.material.val, BATCHES * training.group.world)
    with suppress(NothingToScoreError):  # two images may show nothing but void
        validate(training, samples)


def checkpoint_size(training: TrainState) -> int:
    """Estimate the bytes of a checkpoint: the network, the optimiser's state, the average."""
    states = {"sgd": 1, "adamw": 2}[training.recipe.train.optimiser.kind]
    return _weights_size(training) * (1 + states + (training.averaged is not None))


def _weights_size(training: TrainState) -> int:
    return sum(p.numel() * p.element_size() for p in training.model.parameters())


def _check_disk(training: TrainState, run: Run) -> None:
    # All checkpoints that are kept, the one that is being written, and the best network. A run that
    # goes on has some of them already, and writes the next in their place.
    count = training.recipe.train.keep_last + 1
    wanted = checkpoint_size(training) * count + _weights_size(training)
    found = [path.stat() for path in run.last.parent.glob("*")]
    there = sum({file.st_ino: file.st_size for file in found}.values())  # last.pt has two names
    free = shutil.disk_usage(run.folder).free
    if free + there < wanted:
        raise DrnError(
            f"{run.folder}: {size(free)} are free on this disk, and the checkpoints need "
            f"{size(wanted - there)}{' more' if there else ''}",
            "make room, choose another --run-dir, or keep fewer (train.keep_last)",
        )

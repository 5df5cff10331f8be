"""Scoring the network while it trains."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch

from drn_cli.distributed.heartbeat import VALIDATION
from drn_cli.training.setup import TrainState
from drn_cli.training.tasks import ValidationResult


def validate(
    training: TrainState,
    samples: Sequence[Any],
    *,
    stop: Callable[[], bool] = lambda: False,
    progress: Callable[[int], AbstractContextManager[Callable[[], object]]] = lambda images: (
        nullcontext(lambda: None)
    ),
) -> ValidationResult | None:
    """Score the network, or the average of its weights, on samples that all processes share.

    Args:
        training: What is trained.
        samples: All of them, in every process.
        stop: Asked after each image; where it says so in any process, all give up.
        progress: Shows the progress of a number of images; the context's call counts one.

    Returns:
        What was found; None if it was given up.

    Raises:
        DrnError: An image cannot be used, or the labels hold nothing to score.
    """
    group = training.group
    group.advance(VALIDATION)
    group.broadcast_tensors(
        training.judged.buffers()
    )  # without sync_bn each process has statistics of its own
    tuned = torch.backends.cudnn.benchmark
    torch.backends.cudnn.benchmark = False  # images may all differ in size
    try:
        with progress(len(group.shard(samples))) as count:

            def step() -> None:
                count()
                group.advance()

            return training.task.validate(training, samples, step, stop)
    finally:
        torch.backends.cudnn.benchmark = tuned

"""Scoring the network while it trains."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from tqdm import tqdm

from drn_cli.distributed.heartbeat import VALIDATION
from drn_cli.training.setup import Training
from drn_cli.training.tasks import Validation


def validate(
    training: Training,
    samples: Sequence[Any],
    *,
    stop: Callable[[], bool] = lambda: False,
    bar: Callable[[int], "tqdm[Any]"] = lambda pictures: tqdm(total=pictures, disable=True),
) -> Validation | None:
    """Score the network, or the average of its weights, on samples that all processes share.

    Args:
        training: What is trained.
        samples: All of them, in every process.
        stop: Asked after each picture; where it says so in any process, all give up.
        bar: Makes a progress bar of a number of pictures.

    Returns:
        What was found; None if it was given up.

    Raises:
        DrnError: A picture cannot be used, or the labels hold nothing to score.
    """
    group = training.group
    group.advance(VALIDATION)
    group.align(training.judged.buffers())  # without sync_bn each process has statistics of its own
    tuned = torch.backends.cudnn.benchmark
    torch.backends.cudnn.benchmark = False  # pictures may all differ in size
    try:
        with bar(len(group.share(samples))) as shown:

            def step() -> None:
                shown.update()
                group.advance()

            return training.task.validate(training, samples, step, stop)
    finally:
        torch.backends.cudnn.benchmark = tuned

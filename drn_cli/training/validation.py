"""Validation during training."""

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
    """Score the network, or its EMA, on samples that are sharded over all ranks.

    Args:
        training: The run.
        samples: All samples, the same in every rank.
        stop: Called after each image; if it returns True in any rank, all ranks stop.
        progress: Takes the number of images; its context yields a function to call per image.

    Returns:
        The scores; None if it was stopped.

    Raises:
        DrnError: An image cannot be used, or no label has a valid pixel.
    """
    group = training.group
    group.advance(VALIDATION)
    # Without sync_bn, each rank has its own batch norm statistics.
    group.broadcast_tensors(training.eval_model.buffers())
    benchmark = torch.backends.cudnn.benchmark
    torch.backends.cudnn.benchmark = False  # every image may have another size
    try:
        with progress(len(group.shard(samples))) as count:

            def step() -> None:
                count()
                group.advance()

            return training.task.validate(training, samples, step, stop)
    finally:
        torch.backends.cudnn.benchmark = benchmark

"""One step of training: from a batch to new weights, without waiting for the device."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn

from drn_cli.data.batches import Batch, normalize
from drn_cli.device import autocast
from drn_cli.training.setup import TrainState


class StepStats:
    """What the steps did since it was last read.

    Sums stay on the device until then: reading a number waits for the GPU.
    """

    def __init__(self, device: torch.device, numbers: Sequence[float] = ()) -> None:
        # Loss and weight of the steps that were taken, norm of the last gradient, steps that were
        # skipped, and how many of them in a row to the last.
        self._numbers = torch.tensor(numbers or [0.0] * 5, dtype=torch.double, device=device)

    def add(self, totals: Tensor, norm: Tensor, bad: Tensor) -> None:
        """Count a step.

        Args:
            totals: Sum of the loss and of its weights.
            norm: Of the gradient.
            bad: Whether the step was skipped.
        """
        numbers = self._numbers
        numbers[:2] += torch.where(bad, 0, totals)
        numbers[2] = norm
        numbers[3] += bad
        numbers[4] = (numbers[4] + 1) * bad

    def read(self) -> list[float]:
        """Give all numbers, which waits for the device."""
        return self._numbers.tolist()

    @property
    def skipped(self) -> int:
        """Steps that were skipped in all."""
        return int(self._numbers[3])

    def start_again(self) -> None:
        """Forget the loss; what was skipped stays counted."""
        self._numbers[:2] = 0


def take_step(
    training: TrainState, passes: Sequence[Batch], rate: float, step: int, meter: StepStats
) -> None:
    """Learn from one batch, which is on the device, in one or several passes.

    The loss is the mean over the valid pixels of all passes and processes, so that they take the
    same step as one process with the whole batch. A step whose loss or gradient is not finite
    leaves weights and statistics as they were. Whether it is one is known only to the device: to
    ask would be to wait for it.

    Args:
        training: The network and all that belongs to it.
        passes: This process's parts of the batch.
        rate: The learning rate.
        step: How many steps were taken before.
        meter: Counts what happens.
    """
    group, settings = training.group, training.recipe.train
    optimiser, scaler = training.optimiser, training.scaler
    for parameters in optimiser.param_groups:
        parameters["lr"] = rate
    totals = torch.zeros(2, dtype=torch.double, device=group.device)
    # The sum of weights is known after the last pass; until then, what it would be without void.
    expected = group.world * sum(batch.labels.numel() for batch in passes)
    restore = _remember_statistics(training.model)
    for number, batch in enumerate(passes, start=1):
        with _exchanging(training, last=number == len(passes)):
            loss, weight = _loss(training, batch)
            # DistributedDataParallel divides the gradients by the number of processes.
            scaler.scale(loss * (group.world / expected)).backward()
        totals += torch.stack([loss.detach(), weight]).double()
        group.advance()
    group.sum(totals)
    gradients = [p.grad for p in training.model.parameters() if p.grad is not None]
    torch._foreach_mul_(gradients, _factor(totals, expected))
    scaler.unscale_(optimiser)
    norm = nn.utils.get_total_norm(gradients)
    bad = ~totals[0].isfinite()
    if training.precision != "fp16":  # there, gradients overflow until their scale is found
        bad = bad | ~norm.isfinite()
    if settings.clip_grad_norm is not None:
        nn.utils.clip_grads_with_norm_(training.model.parameters(), settings.clip_grad_norm, norm)
    scaler.step(optimiser)
    scaler.update(None if training.precision == "fp16" else 1.0)
    restore(bad)
    if training.averaged is not None:
        training.averaged.update(training.model, step)
    optimiser.zero_grad(set_to_none=True)
    meter.add(totals, norm, bad)


def _loss(training: TrainState, batch: Batch) -> tuple[Tensor, Tensor]:
    """Give the sum of the loss over a batch, and the sum of its weights."""
    images = normalize(batch.images, training.material.statistics)
    if not training.recipe.train.channels_last:
        images = images.contiguous()
    with autocast(training.group.device, training.precision):
        logits = training.runner(images)
    return training.loss(logits, batch.labels.long())


def _factor(totals: Tensor, expected: int) -> Tensor:
    """Say what turns the gradient of the sum over `expected` into that of the mean.

    All void is no gradient at all. A loss that is not finite spoils the gradient for certain, which
    is what the optimiser skips a step by.
    """
    loss, weight = totals
    factor = torch.where(weight > 0, expected / weight, 0.0)
    return torch.where(loss.isfinite(), factor, torch.nan).float()


def _exchanging(training: TrainState, *, last: bool) -> AbstractContextManager[None]:
    """Let processes exchange gradients once a step: in its last pass."""
    if last or training.parallel is None:
        return nullcontext()
    return training.parallel.no_sync()


def _remember_statistics(model: nn.Module) -> Callable[[Tensor], None]:
    """Keep what batch norm knows; the function that comes back restores it where `bad` is true.

    The optimiser leaves the weights of a skipped step alone, but the forward pass has moved these.
    A variance may overflow where the loss does not; kept, it would stay infinite for good.
    """
    buffers = [buffer for buffer in model.buffers() if buffer.is_floating_point()]
    sizes = [buffer.numel() for buffer in buffers]
    before = torch.cat(buffers)

    def restore(bad: Tensor) -> None:
        after = torch.cat(buffers)
        right = torch.where(bad | ~after.isfinite(), before, after)
        torch._foreach_copy_(buffers, right.split(sizes))

    return restore

"""One training step, without synchronizing with the device."""

from collections.abc import Callable, Sequence
from contextlib import nullcontext

import torch
from torch import Tensor, nn

from drn_cli.data.batches import Batch, normalize
from drn_cli.device import autocast
from drn_cli.training.setup import TrainState


class StepStats:
    """Loss since the last reset, and skipped steps since the start of the run.

    The numbers stay on the device until they are read, which synchronizes with it.
    """

    def __init__(self, device: torch.device, numbers: Sequence[float] = ()) -> None:
        # Sum of the loss, sum of its weights, norm of the last gradient, number of skipped steps,
        # number of consecutive skipped steps up to the last.
        self._numbers = torch.tensor(numbers or [0.0] * 5, dtype=torch.double, device=device)

    def add(self, totals: Tensor, norm: Tensor, bad: Tensor) -> None:
        """Count a step.

        Args:
            totals: Sum of the loss, and sum of its weights, `(2,)`.
            norm: Norm of the gradient.
            bad: Whether the step was skipped.
        """
        numbers = self._numbers
        numbers[:2] += torch.where(bad, 0, totals)
        numbers[2] = norm
        numbers[3] += bad
        numbers[4] = (numbers[4] + 1) * bad

    def read(self) -> list[float]:
        """Return loss, weight, gradient norm, skipped and consecutive skipped steps."""
        return self._numbers.tolist()

    @property
    def skipped(self) -> int:
        """Number of skipped steps in total."""
        return int(self._numbers[3])

    def reset(self) -> None:
        """Reset the loss; skipped steps stay counted."""
        self._numbers[:2] = 0


def take_step(
    training: TrainState, micro_batches: Sequence[Batch], lr: float, step: int, stats: StepStats
) -> None:
    """Take an optimizer step on one batch, which is on the device.

    The loss is the mean over the valid pixels of all micro-batches and ranks, so that they take the
    same step as one process with the whole batch. A step with a non-finite loss or gradient is
    skipped: it leaves weights and batch norm statistics unchanged. In fp16, a gradient overflow
    only skips the weight update and is not counted. Only the device knows whether a step is
    skipped: testing it here would wait for the device.

    Args:
        training: The run.
        micro_batches: This rank's parts of the batch.
        lr: Learning rate.
        step: Steps before this one.
        stats: Counts the step.
    """
    group, settings = training.group, training.recipe.train
    optimizer, scaler = training.optimiser, training.scaler
    for param_group in optimizer.param_groups:
        param_group["lr"] = lr
    totals = torch.zeros(2, dtype=torch.double, device=group.device)
    # The sum of the weights is known after the last micro-batch; until then, assume no void.
    expected = group.world * sum(batch.labels.numel() for batch in micro_batches)
    restore, parallel = _remember_statistics(training.model), training.parallel
    for number, batch in enumerate(micro_batches, start=1):
        # Ranks exchange gradients once a step, in the last micro-batch.
        with parallel.no_sync() if parallel and number < len(micro_batches) else nullcontext():
            loss, weight = _loss(training, batch)
            # DistributedDataParallel divides the gradients by the number of processes.
            scaler.scale(loss * (group.world / expected)).backward()
        totals += torch.stack([loss.detach(), weight]).double()
        group.advance()
    group.sum(totals)
    gradients = [p.grad for p in training.model.parameters() if p.grad is not None]
    # From the gradient of `sum / expected` to that of the mean: 0 if all pixels are void, NaN for a
    # non-finite loss, so that the optimizer skips the step.
    loss, weight = totals
    factor = torch.where(weight > 0, expected / weight, 0.0)
    torch._foreach_mul_(gradients, torch.where(loss.isfinite(), factor, torch.nan).float())
    scaler.unscale_(optimizer)
    norm = nn.utils.get_total_norm(gradients)
    bad = ~totals[0].isfinite()
    if training.precision != "fp16":  # in fp16, gradients overflow until the loss scale has adapted
        bad = bad | ~norm.isfinite()
    if settings.clip_grad_norm is not None:
        nn.utils.clip_grads_with_norm_(training.model.parameters(), settings.clip_grad_norm, norm)
    scaler.step(optimizer)
    scaler.update(None if training.precision == "fp16" else 1.0)
    restore(bad)
    if training.averaged is not None:
        training.averaged.update(training.model, step)
    optimizer.zero_grad(set_to_none=True)
    stats.add(totals, norm, bad)


def _loss(training: TrainState, batch: Batch) -> tuple[Tensor, Tensor]:
    """Return the sum of the loss over a micro-batch, and the sum of its weights."""
    images = normalize(batch.images, training.data.statistics)
    if not training.recipe.train.channels_last:
        images = images.contiguous()
    with autocast(training.group.device, training.precision):
        logits = training.runner(images)
    return training.loss(logits, batch.labels.long())


def _remember_statistics(model: nn.Module) -> Callable[[Tensor], None]:
    """Copy the batch norm statistics; return a function that restores them where `bad` is true.

    The optimizer does not change weights in a skipped step, but the forward pass updates these. A
    variance may overflow where the loss does not, and would stay infinite.
    """
    buffers = [buffer for buffer in model.buffers() if buffer.is_floating_point()]
    sizes = [buffer.numel() for buffer in buffers]
    before = torch.cat(buffers)

    def restore(bad: Tensor) -> None:
        after = torch.cat(buffers)
        kept = torch.where(bad | ~after.isfinite(), before, after)
        torch._foreach_copy_(buffers, kept.split(sizes))

    return restore

"""Training losses: cross-entropy with class weights and label smoothing, or of hard pixels."""

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from drn_cli.data.classes import IGNORED
from drn_cli.networks.catalog import Task
from drn_cli.recipe import schema

# From logits and targets to the sum of the weighted losses and the sum of the weights.
Loss = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]

NO_TARGET = -1  # ignore index of tasks in which every target is a class


def make_loss(settings: schema.Loss, task: Task, device: torch.device) -> Loss:
    """Build the loss function of a recipe.

    The function takes logits `(N, C, H, W)` and targets `(N, H, W)` of int64 for segmentation,
    where 255 is ignored, or `(N, C)` and `(N,)` for classification, where 255 is a class. It
    returns two float32 scalars: the sum of `weight * loss` and the sum of weights over the valid
    targets. Summed over all micro-batches and ranks, their quotient is
    `F.cross_entropy(..., reduction="mean")` with the same class weights and label smoothing.
    Without a valid target, both are zero, and so is the gradient.

    The weight of a pixel is that of its class, or 1; smoothing does not change it. Everything is
    computed in float32, whatever the type of the logits, without synchronizing with the device.

    With `ohem`, only hard pixels are valid; see `ohem_mask`.
    """
    ignored = IGNORED if task == "segmentation" else NO_TARGET
    weights = None
    if settings.class_weights is not None:
        weights = torch.tensor(settings.class_weights, dtype=torch.float32, device=device)
    smoothing = settings.label_smoothing

    def loss(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        logits = logits.float()
        # Not summed by cross_entropy, whose sums on GPUs are not deterministic.
        losses = F.cross_entropy(
            logits,
            targets,
            weight=weights,
            ignore_index=ignored,
            reduction="none",
            label_smoothing=smoothing,
        )
        counted = targets != ignored
        if settings.kind == "ohem":
            with torch.no_grad():
                plain = losses
                if weights is not None or smoothing > 0:
                    plain = F.cross_entropy(logits, targets, ignore_index=ignored, reduction="none")
                counted = ohem_mask(plain, counted, settings.ohem_threshold, settings.ohem_keep)
            losses = losses * counted
        if weights is None:
            return losses.sum(), counted.sum().float()
        return losses.sum(), (weights[targets * counted] * counted).sum()

    return loss


def ohem_mask(losses: Tensor, valid: Tensor, threshold: float, keep: float) -> Tensor:
    """Select hard pixels (online hard example mining).

    These are the valid pixels whose true class has a probability below the threshold, and at least
    the share `keep` of each image's valid pixels, rounded up, with the highest loss. Images are
    treated separately, so that the mask does not depend on how they are distributed over ranks and
    micro-batches.

    Source: Shrivastava, Gupta, Girshick, "Training Region-based Object Detectors with Online Hard
    Example Mining", CVPR 2016; for pixels, with a threshold and a least number, Wu, Shen, van den
    Hengel, "High-performance Semantic Segmentation Using Very Deep Fully Convolutional Networks",
    2016.

    Args:
        losses: Negative log-probability of the true class, `(N, H, W)`.
        valid: Which pixels have a class, `(N, H, W)`, boolean.
        threshold: Pixels with at least this probability are easy.
        keep: Share of valid pixels, in (0, 1].

    Returns:
        A boolean mask `(N, H, W)`.
    """
    hard = valid & (losses > -math.log(threshold))
    # The number of kept pixels depends on each image's void, which only the device knows: sort the
    # largest possible number of pixels, and take the first of them.
    wanted = (valid.flatten(1).sum(1, keepdim=True).double() * keep).ceil()
    at_most = math.ceil(losses[0].numel() * keep)
    ranked = losses.masked_fill(~valid, -torch.inf).flatten(1).topk(at_most, dim=1).indices
    first = torch.arange(at_most, device=losses.device) < wanted
    hardest = torch.zeros_like(valid).flatten(1).scatter(1, ranked, first)
    return hard | hardest.view_as(hard)

"""How many bytes a training pass holds at its peak, found out without computing anything."""

from collections.abc import Iterable
from functools import lru_cache

import torch
from torch import Tensor
from torch._subclasses import FakeTensorMode

from drn_cli.data.batches import normalise
from drn_cli.data.folders import IMAGENET
from drn_cli.device import Precision, autocast_type
from drn_cli.networks.catalog import Architecture, Task
from drn_cli.networks.live_bytes import LiveBytes
from drn_cli.networks.models import DRN, build
from drn_cli.networks.recomputation import recompute_activations
from drn_cli.recipe import schema
from drn_cli.training.loss import make_loss


@lru_cache
def pass_bytes(
    arch: Architecture,
    task: Task,
    classes: int,
    loss: schema.Loss,
    crop: int,
    pictures: int,
    precision: Precision,
    recompute: bool,
) -> int:
    """Give the most bytes that a pass holds at once, beside weights and gradients.

    These are the pictures, the activations that are kept for the backward pass, weights in 16 bits
    under autocast, and what comes and goes: maps on their way, logits, loss and their gradients.

    The pass is the real one, over tensors that have a shape and a type but no content. They are
    CPU tensors, for which no GPU is needed, also in 16 bits: autocast on CPUs and on GPUs gives
    convolutions, batch norms and all between them the same types. Up-sampling is done in float32
    on CPUs only, one map of the size of the logits more.

    Args:
        arch: Architecture.
        task: What the network predicts.
        classes: Their number.
        loss: What is minimised.
        crop: Side of a crop, in pixels.
        pictures: Crops a pass, in one process.
        precision: What autocast computes in.
        recompute: Whether activations are computed again in the backward pass.
    """
    device = torch.device("cpu")
    crop = max(crop, 16)  # a lone crop of 8 is a single position, of which batch norm makes nothing
    kind = autocast_type(precision)
    with FakeTensorMode():
        model = build(arch, task, classes).train()
        if recompute:
            recompute_activations(model)
        for parameter in model.parameters():
            parameter.grad = torch.zeros_like(parameter)
        compute_loss = make_loss(loss, task, device)
        with LiveBytes(_held(model)) as live:
            images = torch.empty(pictures, crop, crop, 3, dtype=torch.uint8)
            shape = (pictures, crop, crop) if task == "segmentation" else (pictures,)
            labels = torch.empty(shape, dtype=torch.long)
            with torch.autocast("cpu", kind, enabled=kind is not None):
                logits = model(normalise(images, IMAGENET))
            total, _ = compute_loss(logits, labels)
            total.backward()
    peak: int = live.peak
    return peak


@lru_cache
def model_bytes(arch: Architecture, task: Task, classes: int) -> tuple[int, int]:
    """Give the bytes of a network's parameters, and of its statistics."""
    with torch.device("meta"):
        model = build(arch, task, classes)
    return _bytes(model.parameters()), _bytes(model.buffers())


def _bytes(tensors: Iterable[Tensor]) -> int:
    return sum(tensor.nbytes for tensor in tensors)


def _held(model: DRN) -> Iterable[Tensor]:
    yield from model.buffers()
    for parameter in model.parameters():
        yield parameter
        assert parameter.grad is not None
        yield parameter.grad

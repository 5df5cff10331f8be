"""What a case takes, found out without computing anything: operations, and bytes of activations."""

from functools import lru_cache

import torch
from torch import Tensor, nn
from torch._subclasses import FakeTensorMode
from torch.autograd.graph import saved_tensors_hooks

from drn_cli.bench.cases import Case, Size
from drn_cli.bench.subject import EAGER, Subject
from drn_cli.device import Precision, autocast_type
from drn_cli.inference.views import view_size
from drn_cli.networks.catalog import Architecture, Task
from drn_cli.networks.cost import forward_flops, step_flops
from drn_cli.networks.live_bytes import LiveBytes
from drn_cli.networks.models import DRN, build
from drn_cli.networks.recomputation import recompute_activations
from drn_cli.recipe.schema import MULTI_SCALE, Loss
from drn_cli.training.loss import make_loss


def picture_flops(subject: Subject, case: Case) -> int | None:
    """Count the operations that a case takes for each picture; None where there is no network."""
    if case.what == "input":
        return None
    count = step_flops if case.what == "train" else forward_flops
    return sum(
        count(subject.arch, subject.task, subject.classes, height=height, width=width)
        for height, width in _seen(case)
    )


def activation_bytes(subject: Subject, case: Case) -> int | None:
    """Give the bytes of the activations of a batch; None where there is no network.

    Of a forward pass it is the most that exists at the same time, pictures and scores included; of
    several sizes, at the largest. Of a training step it is what is kept for the backward pass. Not
    counted are the weights, also not in 16 bits, and what the libraries take besides, such as
    copies in other layouts.
    """
    if case.what == "input":
        return None
    arch, task, classes = subject.arch, subject.task, subject.classes
    if case.what == "train":
        recipe = subject.recipe
        again = recipe is not None and recipe.train.checkpoint_activations
        loss = Loss() if recipe is None else recipe.loss
        return kept_bytes(
            arch, task, classes, loss, case.batch, case.size, case.precision or "fp32", again
        )
    folded = case.runtime != EAGER
    largest = Size(*max(_seen(case)))
    return peak_bytes(
        arch, task, classes, case.batch, largest, case.precision or "fp32", folded=folded
    )


def _seen(case: Case) -> list[tuple[int, int]]:
    """List the sizes at which a network sees each picture."""
    if case.what != "multi-scale":
        return [case.size]
    return [view_size(*case.size, scale) for scale in MULTI_SCALE]


@lru_cache
def peak_bytes(
    arch: Architecture,
    task: Task,
    classes: int,
    batch: int,
    size: Size,
    precision: Precision,
    *,
    folded: bool,
) -> int:
    """Give the most bytes that a network holds at once when it answers, beside its weights.

    Args:
        arch: Architecture.
        task: What it answers.
        classes: Their number.
        batch: Pictures at once.
        size: Of each.
        precision: What autocast computes in.
        folded: Whether batch norm is part of the convolutions, and makes no maps of its own.
    """
    kind = autocast_type(precision)
    with FakeTensorMode(), torch.inference_mode():
        model = _network(arch, task, classes, kind).eval()
        if folded:
            _leave_out_batch_norm(model)
        held = [*model.parameters(), *model.buffers()]
        # On CPUs, autocast gives all that lies between convolutions the same types as on GPUs.
        with LiveBytes(held) as live, torch.autocast("cpu", kind, enabled=kind is not None):
            pictures = torch.empty(batch, 3, *size)
            model(pictures) if task == "classification" else model.scores(pictures)
    return int(live.peak)


def _network(arch: Architecture, task: Task, classes: int, kind: torch.dtype | None) -> DRN:
    """Build a network with its convolutions in a type, of which autocast then makes no copies."""
    model = build(arch, task, classes)
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            for name, weight in list(module.named_parameters()):
                setattr(module, name, nn.Parameter(weight.detach().to(kind)))
    return model


def _leave_out_batch_norm(model: DRN) -> None:
    for name, module in list(model.named_modules()):
        if isinstance(module, nn.BatchNorm2d):
            model.set_submodule(name, nn.Identity())


@lru_cache
def kept_bytes(
    arch: Architecture,
    task: Task,
    classes: int,
    loss: Loss,
    batch: int,
    size: Size,
    precision: Precision,
    recompute: bool,
) -> int:
    """Give the bytes that a training step keeps for its backward pass, beside the weights.

    Args:
        arch: Architecture.
        task: What the network answers.
        classes: Their number.
        loss: What is minimised.
        batch: Crops of the pass.
        size: Of each.
        precision: What autocast computes in.
        recompute: Whether activations are computed again in the backward pass.
    """
    kind = autocast_type(precision)
    kept: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        kept.setdefault(tensor.untyped_storage()._cdata, tensor)
        return tensor

    with FakeTensorMode():
        model = _network(arch, task, classes, kind).train()
        if recompute:
            recompute_activations(model)
        own = {part.untyped_storage()._cdata for part in (*model.parameters(), *model.buffers())}
        pictures = torch.empty(batch, 3, *size)
        shape = (batch, *size) if task == "segmentation" else (batch,)
        labels = torch.empty(shape, dtype=torch.long)
        with saved_tensors_hooks(keep, lambda tensor: tensor):
            with torch.autocast("cpu", kind, enabled=kind is not None):
                logits = model(pictures)
            make_loss(loss, task, torch.device("cpu"))(logits, labels)
    return sum(
        tensor.untyped_storage().nbytes() for place, tensor in kept.items() if place not in own
    )

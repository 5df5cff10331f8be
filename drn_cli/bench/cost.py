"""What a case takes, found out without computing anything: operations, and bytes of activations."""

import torch

from drn_cli.bench.cases import Case
from drn_cli.bench.subject import EAGER, Subject
from drn_cli.device import autocast_type
from drn_cli.inference.views import view_size
from drn_cli.networks import profiling
from drn_cli.networks.profiling import forward_flops, step_flops
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
    network = (subject.arch, subject.task, subject.classes)
    dtype, shape = autocast_type(case.precision or "fp32"), (case.batch, *max(_seen(case)))
    if case.what != "train":
        folded = case.runtime != EAGER
        return profiling.activation_bytes(*network, shape, dtype=dtype, folded=folded).peak
    recipe = subject.recipe
    loss = make_loss(Loss() if recipe is None else recipe.loss, subject.task, torch.device("cpu"))
    again = recipe is not None and recipe.train.checkpoint_activations
    return profiling.activation_bytes(
        *network, shape, dtype=dtype, loss=loss, checkpointing=again
    ).saved


def _seen(case: Case) -> list[tuple[int, int]]:
    """List the sizes at which a network sees each picture."""
    if case.what != "multi-scale":
        return [case.size]
    return [view_size(*case.size, scale) for scale in MULTI_SCALE]

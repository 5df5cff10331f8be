"""Activation checkpointing: recompute activations in the backward pass instead of keeping them."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from types import MethodType

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

from drn_cli.networks.backbones import BasicBlock, Bottleneck
from drn_cli.networks.models import DRN


def enable_activation_checkpointing(model: DRN) -> None:
    """Enable activation checkpointing for every unit of the backbone, in place.

    A unit is a residual block, or a level of plain convolutions. Only its input is kept for the
    backward pass, which runs it once more: training takes about a third more operations. Outputs,
    gradients and batch norm statistics do not change (on CPUs bit for bit), nor do the keys of the
    state dict. Evaluation and forward passes without gradients are not affected.

    Call this after batch norm has been converted to synchronized batch norm, if at all, and before
    the network is wrapped in DDP.
    """
    for name in model.backbone.level_names:
        level = model.backbone.get_submodule(name)
        residual = any(isinstance(part, BasicBlock | Bottleneck) for part in level.children())
        for unit in level.children() if residual else (level,):
            # A bound method, not a closure, so that a deep copy of the network runs its own units.
            unit.forward = MethodType(_forward, unit)


def _forward(self: nn.Module, x: Tensor) -> Tensor:
    """Run the forward method of the class, keeping only `x` for the backward pass."""
    run = partial(type(self).forward, self)
    if not (self.training and torch.is_grad_enabled()):
        return run(x)  # type: ignore[no-any-return]
    return checkpoint(  # type: ignore[no-any-return]
        run,
        x,
        use_reentrant=False,
        preserve_rng_state=False,  # nothing here is random
        context_fn=lambda: (nullcontext(), _frozen_statistics(self)),  # first and second run
    )


@contextmanager
def _frozen_statistics(unit: nn.Module) -> Iterator[None]:
    """Prevent batch norm from counting the same batch twice: the second run updates copies.

    Disabling the tracking would be simpler, but batch norm then saves fewer tensors for the
    backward pass, and `checkpoint` requires the same number in both runs.
    """
    norms = [module for module in unit.modules() if isinstance(module, _BatchNorm)]
    real = [dict(norm.named_buffers()) for norm in norms]
    for norm, buffers in zip(norms, real, strict=True):
        for name, buffer in buffers.items():
            setattr(norm, name, buffer.clone())
    try:
        yield
    finally:
        for norm, buffers in zip(norms, real, strict=True):
            for name, buffer in buffers.items():
                setattr(norm, name, buffer)

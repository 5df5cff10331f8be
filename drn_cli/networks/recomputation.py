"""Activations that are computed again in the backward pass instead of being kept."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from types import MethodType

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

from drn_cli.networks.backbones import Backbone, BasicBlock, Bottleneck
from drn_cli.networks.models import DRN


def enable_activation_checkpointing(model: DRN) -> None:
    """Let a network keep only what goes into its units while it trains, in place.

    A unit is a residual block, or a whole level of plain convolutions. In the backward pass each
    is run once more, so that training takes about a third more arithmetic. Outputs, gradients and
    the statistics of batch norm stay the same (on CPUs bit for bit), and so do the names of the
    tensors. In evaluation, and without gradients, nothing changes.

    To be called after batch norm has been synchronised, if it is, and before the network is
    wrapped for several processes.
    """
    for unit in _units(model.backbone):
        # A bound method, not a closure: a copy of the network gets one that is bound to the copy.
        unit.forward = MethodType(_forward, unit)


def _units(backbone: Backbone) -> Iterator[nn.Module]:
    for name in backbone.level_names:
        level = backbone.get_submodule(name)
        if any(isinstance(part, BasicBlock | Bottleneck) for part in level.children()):
            yield from level.children()
        else:
            yield level


def _forward(self: nn.Module, x: Tensor) -> Tensor:
    """Run the class's own forward, and keep nothing of it but `x`."""
    run = partial(type(self).forward, self)
    if not (self.training and torch.is_grad_enabled()):
        return run(x)  # type: ignore[no-any-return]
    return checkpoint(  # type: ignore[no-any-return]
        run,
        x,
        use_reentrant=False,
        preserve_rng_state=False,  # nothing here is random
        context_fn=partial(_contexts, self),
    )


def _contexts(unit: nn.Module) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    """Give what surrounds the first run, and the second."""
    return nullcontext(), _statistics_at_rest(unit)


@contextmanager
def _statistics_at_rest(unit: nn.Module) -> Iterator[None]:
    """Keep batch norm from counting the same batch twice.

    The second run moves copies. To switch the tracking off would be simpler, but batch norm then
    keeps fewer tensors for the backward pass, and `checkpoint` insists on the same as before.
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

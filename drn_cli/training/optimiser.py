"""Optimizers."""

import torch
from torch import nn

from drn_cli.errors import DrnError
from drn_cli.recipe.schema import Train


def make_optimiser(
    settings: Train, model: nn.Module, device: torch.device
) -> torch.optim.Optimizer:
    """Build the optimizer of all parameters of a network.

    Weight decay applies to every parameter, including batch norm and biases, as in the original.
    Call it after the network was moved to its device and memory format, which the momentum buffers
    copy.

    Raises:
        DrnError: Nesterov momentum without momentum.
    """
    options = settings.optimiser
    wanted = options.implementation
    if wanted == "auto":
        wanted = "fused" if device.type == "cuda" else "foreach"
    fused, foreach = wanted == "fused", wanted == "foreach"
    if options.kind == "adamw":
        return torch.optim.AdamW(
            model.parameters(),
            settings.lr,
            betas=options.betas,
            eps=options.eps,
            weight_decay=settings.weight_decay,
            fused=fused,
            foreach=foreach,
        )
    if options.nesterov and settings.momentum == 0:
        raise DrnError(
            "train.optimiser.nesterov: needs momentum, and train.momentum is 0",
            "set train.momentum, or train.optimiser.nesterov=false",
        )
    sgd = torch.optim.SGD(
        model.parameters(),
        settings.lr,
        momentum=settings.momentum,
        weight_decay=settings.weight_decay,
        nesterov=options.nesterov,
        fused=fused,
        foreach=foreach,
    )
    if settings.momentum > 0:
        # Torch's fused SGD allocates the momentum at the first step and leaves it unwritten if the
        # gradient scaler skips that step. From zero, the first step is `0 * momentum + gradient`,
        # which is what torch starts from. AdamW starts from zeros by itself.
        for parameter in model.parameters():
            sgd.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
    return sgd

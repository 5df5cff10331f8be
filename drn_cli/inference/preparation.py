"""Optimizes a network for inference: folded batch norms, Winograd convolutions."""

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from drn_cli.device import is_out_of_memory
from drn_cli.inference.winograd import WinogradConvolution, is_supported
from drn_cli.networks.models import DRN, build


def for_inference(model: DRN, device: torch.device, *, exact: bool = True) -> DRN:
    """Return a copy with folded batch norms and, on CPUs, Winograd convolutions.

    Outputs are equal up to rounding. The model is not changed, and no random numbers are drawn.

    Args:
        model: In any mode, with batch norms of any type.
        device: Device of the copy.
        exact: Whether it will compute in float32. Winograd transforms are too inaccurate in 16
            bits, where the convolutions are not replaced.
    """
    copy = fold_batchnorm(model).to(device).to(memory_format=torch.channels_last)
    if device.type == "cpu" and exact:
        _use_winograd(copy)
    return copy.eval().requires_grad_(False)


def fold_batchnorm(model: DRN) -> DRN:
    """Return a copy with batch norms folded into the convolutions, in evaluation mode."""
    with torch.device("meta"):
        copy = build(model.architecture, model.task, model.classes)
    copy.load_state_dict({k: v.clone() for k, v in model.state_dict().items()}, assign=True)
    copy.eval()
    _fold(copy)
    return copy.requires_grad_(False)


def _fold(module: nn.Module) -> None:
    """Fold each batch norm into the convolution before it."""
    previous: tuple[str, nn.Module] | None = None
    for name, child in list(module.named_children()):
        if isinstance(child, nn.BatchNorm2d):
            assert previous is not None and isinstance(previous[1], nn.Conv2d)
            setattr(module, previous[0], fuse_conv_bn_eval(previous[1], child))
            setattr(module, name, nn.Identity())
        else:
            _fold(child)
        previous = (name, child)


def _use_winograd(model: DRN) -> None:
    """Replace the supported convolutions, all or (without memory for it) none."""
    try:
        replacements = {
            name: WinogradConvolution(module)
            for name, module in model.named_modules()
            if isinstance(module, nn.Conv2d) and is_supported(module)
        }
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        return
    for name, module in replacements.items():
        model.set_submodule(name, module)

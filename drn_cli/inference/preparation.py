"""A network made ready to answer, and no longer to learn."""

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from drn_cli.device import is_out_of_memory
from drn_cli.inference.winograd import WinogradConvolution, fits
from drn_cli.networks.models import DRN, build


def prepared(model: DRN, device: torch.device, *, exact: bool = True) -> DRN:
    """Copy a network for inference: its batch norms folded, its 3x3 convolutions quicker on CPUs.

    Answers are the same up to rounding. The original is left as it is; nothing is drawn at random.

    Args:
        model: Of any mode, with batch norms of any kind.
        device: Where the copy is to run.
        exact: Whether it will compute in float32. In 16 bits Winograd's transforms would lose too
            much, and convolutions stay as they are.
    """
    copy = folded(model).to(device).to(memory_format=torch.channels_last)
    if device.type == "cpu" and exact:
        _quicken(copy)
    return copy.eval().requires_grad_(False)


def folded(model: DRN) -> DRN:
    """Copy a network with its batch norms folded into its convolutions; as `prepared`."""
    with torch.device("meta"):
        copy = build(model.architecture, model.task, model.classes)
    copy.load_state_dict({k: v.clone() for k, v in model.state_dict().items()}, assign=True)
    copy.eval()
    _fold(copy)
    return copy.requires_grad_(False)


def _fold(module: nn.Module) -> None:
    """Fold each batch norm into the convolution that stands before it."""
    previous: tuple[str, nn.Module] | None = None
    for name, child in list(module.named_children()):
        if isinstance(child, nn.BatchNorm2d):
            assert previous is not None and isinstance(previous[1], nn.Conv2d)
            setattr(module, previous[0], fuse_conv_bn_eval(previous[1], child))
            setattr(module, name, nn.Identity())
        else:
            _fold(child)
        previous = (name, child)


def _quicken(model: DRN) -> None:
    """Replace what can be quicker; nothing where memory is short, which the maps need more."""
    try:
        quicker = {
            name: WinogradConvolution(module)
            for name, module in model.named_modules()
            if isinstance(module, nn.Conv2d) and fits(module)
        }
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        return
    for name, module in quicker.items():
        model.set_submodule(name, module)

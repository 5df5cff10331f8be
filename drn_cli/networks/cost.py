"""How much arithmetic a network takes, counted without computing anything.

What is counted is what `torch.utils.flop_counter` counts, which here is convolutions, with two
operations for each multiply-add. Batch norm, ReLU and resizing are left out, as everywhere in the
field. The network is run over tensors that have a shape but no content.
"""

from functools import lru_cache

import torch
from torch import Tensor, nn

from drn_cli.networks.catalog import Architecture, Task
from drn_cli.networks.models import DRN, build

SIDE = 224  # of the picture that classifiers are compared on, in pixels


@lru_cache
def forward_flops(
    arch: Architecture,
    task: Task = "classification",
    classes: int = 1000,
    *,
    height: int = SIDE,
    width: int = SIDE,
) -> int:
    """Count the operations of one picture's way through a network, from pixels to scores."""
    model, picture = _without_content(arch, task, classes, height, width)
    counts: list[int] = []

    def count(module: nn.Module, _: object, output: Tensor) -> None:
        assert isinstance(module, nn.Conv2d)
        counts.append(2 * output.numel() * module.weight[0].numel())

    for name, module in list(model.named_modules()):
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(count)
        elif isinstance(module, nn.BatchNorm2d):  # without content it takes a second to import
            model.set_submodule(name, nn.Identity())
    with torch.no_grad():
        model.eval()(picture)
    return sum(counts)


@lru_cache
def step_flops(arch: Architecture, task: Task, classes: int, *, height: int, width: int) -> int:
    """Count the operations of one picture forwards and backwards, as in training.

    What a run computes a second time to save memory is not counted again.
    """
    # Takes a second to import, which a list of networks does not need.
    from torch.utils.flop_counter import FlopCounterMode

    model, picture = _without_content(arch, task, classes, height, width)
    with FlopCounterMode(display=False) as counter:
        model.train()(picture).sum().backward()
    return int(counter.get_total_flops())


def _without_content(
    arch: Architecture, task: Task, classes: int, height: int, width: int
) -> tuple[DRN, Tensor]:
    with torch.device("meta"):
        return build(arch, task, classes), torch.empty(1, 3, height, width)

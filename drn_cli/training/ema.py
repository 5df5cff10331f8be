"""An exponential moving average of a network's weights."""

import copy
from collections.abc import Mapping

import torch
from torch import Tensor

from drn_cli.networks.models import DRN


class EMA:
    """A network whose weights are the average of another's over its steps.

    The statistics of batch norm are averaged as well: they belong to the weights.

    Attributes:
        model: The averaged network, in evaluation mode; it starts as a copy.
    """

    def __init__(self, source: DRN, decay: float) -> None:
        self.model = copy.deepcopy(source).eval().requires_grad_(False)
        self._decay = decay
        self._floats, self._integers = _tensors(self.model)

    @torch.no_grad()
    def update(self, source: DRN, step: int) -> None:
        """Bring in the weights after a step: `average = d * average + (1 - d) * weights`.

        The decay d is `min(decay, (1 + step) / (10 + step))`: with the full decay from the start,
        the first, random weights would weigh on the average for some `1 / (1 - decay)` steps.

        Args:
            source: The network that learns.
            step: How many steps were taken before this one.
        """
        decay = min(self._decay, (1 + step) / (10 + step))
        floats, integers = _tensors(source)
        # A few kernels for all tensors together, and nothing that waits for the device.
        torch._foreach_lerp_(self._floats, floats, 1 - decay)
        torch._foreach_copy_(self._integers, integers)

    def state_dict(self) -> dict[str, Tensor]:
        """Give the averaged network's tensors, by their usual names."""
        return self.model.state_dict()

    def load_state_dict(self, tensors: Mapping[str, Tensor]) -> None:
        """Take over the tensors of `state_dict`, or those of a network to start from."""
        self.model.load_state_dict(tensors)


def _tensors(model: DRN) -> tuple[list[Tensor], list[Tensor]]:
    """List parameters and buffers: those that can be averaged, and batch norm's counters."""
    everything = [*model.parameters(), *model.buffers()]
    floats = [tensor for tensor in everything if tensor.is_floating_point()]
    return floats, [tensor for tensor in everything if not tensor.is_floating_point()]

"""Exponential moving average of a network's weights."""

import copy
from collections.abc import Mapping

import torch
from torch import Tensor

from drn_cli.networks.models import DRN


class EMA:
    """A network whose weights are a moving average of another network's weights.

    Batch norm statistics are averaged as well, since they belong to the weights.

    Attributes:
        model: The averaged network, in evaluation mode; it starts as a copy.
    """

    def __init__(self, source: DRN, decay: float) -> None:
        self.model = copy.deepcopy(source).eval().requires_grad_(False)
        self._decay = decay
        self._floats, self._integers = _tensors(self.model)

    @torch.no_grad()
    def update(self, source: DRN, step: int) -> None:
        """Update the average after a step: `average = d * average + (1 - d) * weights`.

        The decay d is `min(decay, (1 + step) / (10 + step))`: with the full decay from the start,
        the random initial weights would dominate for about `1 / (1 - decay)` steps.

        Args:
            source: The network in training.
            step: Steps before this one.
        """
        decay = min(self._decay, (1 + step) / (10 + step))
        floats, integers = _tensors(source)
        # A few kernels for all tensors, and no synchronization with the device.
        torch._foreach_lerp_(self._floats, floats, 1 - decay)
        torch._foreach_copy_(self._integers, integers)

    def state_dict(self) -> dict[str, Tensor]:
        """Return the averaged tensors, under the names of the network."""
        return self.model.state_dict()

    def load_state_dict(self, tensors: Mapping[str, Tensor]) -> None:
        """Load a `state_dict`, or a network's weights to start from."""
        self.model.load_state_dict(tensors)


def _tensors(model: DRN) -> tuple[list[Tensor], list[Tensor]]:
    """Return the floating-point tensors of a network, and its integer ones (BN counters)."""
    everything = [*model.parameters(), *model.buffers()]
    floats = [tensor for tensor in everything if tensor.is_floating_point()]
    return floats, [tensor for tensor in everything if not tensor.is_floating_point()]

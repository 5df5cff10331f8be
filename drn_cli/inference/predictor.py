"""A network that takes pictures as they are read and gives class ids."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from drn_cli.data.batches import normalise
from drn_cli.data.classes import ClassSet
from drn_cli.data.folders import Statistics
from drn_cli.data.images import Pixels
from drn_cli.inference.multiscale import PLAIN, Network, best_class
from drn_cli.recipe.schema import Eval


@dataclass(frozen=True, slots=True, kw_only=True)
class Predictor:
    """A segmenter and all it needs to read a picture.

    Attributes:
        network: From normalised pictures `(N, 3, H, W)` to logits `(N, classes, H, W)`.
        statistics: Mean and standard deviation that it was trained with.
        class_set: Names and colours of its classes.
        device: Where it runs.
        view: How it looks at a picture: sizes, mirrored, tiles.
        bf16: Whether it runs under bfloat16 autocast.
    """

    network: Network
    statistics: Statistics
    class_set: ClassSet
    device: torch.device
    view: Eval = PLAIN
    bf16: bool = False

    @property
    def classes(self) -> int:
        return len(self.class_set)

    @torch.inference_mode()
    def __call__(self, image: Pixels) -> Tensor:
        """Find each pixel's class.

        Shapes: uint8 `(H, W, 3)` in, uint8 `(H, W)` out, on the predictor's device.
        """
        pixels = torch.from_numpy(image.copy()).to(self.device)
        picture = normalise(pixels[None], self.statistics)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16):
            return best_class(self.network, picture, self.view)


@contextmanager
def evaluating(model: torch.nn.Module) -> Iterator[None]:
    """Put a network into evaluation mode for a while."""
    training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(training)

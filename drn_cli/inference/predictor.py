"""A network that takes pictures as they are read and gives class ids."""

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor

from drn_cli.data.batches import normalise
from drn_cli.data.classes import ClassSet
from drn_cli.data.folders import Statistics
from drn_cli.data.images import Pixels
from drn_cli.errors import DrnError
from drn_cli.inference.multiscale import PLAIN, Network, best_class
from drn_cli.inference.out_of_memory import is_out_of_memory
from drn_cli.recipe.schema import Eval

log = logging.getLogger(__name__)

SMALLEST_TILE = 128  # tiles that see less around them are no longer worth their answers


class _Tiles:
    """The side of the tiles that memory suffices for, which all threads of a predictor share."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._announced: int | None = None
        self.side: int | None = None  # none: pictures are seen as the view says

    def shrink(self, tried: int | None, seen: int) -> bool:
        """Halve the side, unless another thread did while this one tried; tell if it went.

        Args:
            tried: The side that was too much.
            seen: The longer side of what the network saw at once.
        """
        with self._lock:
            if self.side == tried:
                if seen <= SMALLEST_TILE:
                    return False
                self.side = max(SMALLEST_TILE, -(-seen // 16) * 8)
            return True

    def announce(self, side: int) -> None:
        """Say once, when tiles of a side have proved to fit, what is done from here on."""
        with self._lock:
            if self._announced == side:
                return
            self._announced = side
        log.warning(
            "out of memory: pictures are now seen in overlapping tiles of %d pixels; "
            "eval.tile=%d does so from the start",
            side,
            side,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Predictor:
    """A segmenter and all it needs to read a picture.

    Where memory does not suffice for a picture, it is seen in tiles, and so are those after it.

    Attributes:
        network: From normalised pictures `(N, 3, H, W)` to logits `(N, classes, H, W)`.
        statistics: Mean and standard deviation that it was trained with.
        class_set: Names and colours of its classes.
        device: Where it runs.
        view: How it looks at a picture: sizes, mirrored, tiles.
        autocast: The type that it computes in where that is safe; None is float32 throughout.
    """

    network: Network
    statistics: Statistics
    class_set: ClassSet
    device: torch.device
    view: Eval = PLAIN
    autocast: torch.dtype | None = None
    _tiles: _Tiles = field(default_factory=_Tiles, init=False, repr=False, compare=False)

    @property
    def classes(self) -> int:
        return len(self.class_set)

    @torch.inference_mode()
    def __call__(self, image: Pixels) -> Tensor:
        """Find each pixel's class.

        Shapes: uint8 `(H, W, 3)` in, uint8 `(H, W)` out, on the predictor's device.

        Raises:
            DrnError: Memory does not suffice for small tiles either.
        """
        while True:
            side = self._tiles.side
            view = self.view if side is None else self.view.model_copy(update={"tile": side})
            try:
                classes = self._classes(image, view)
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
            else:
                if side is not None:
                    self._tiles.announce(side)
                return classes
            # Only here, after the handler, has the error's traceback let go of the tensors.
            if self.device.type == "cuda":
                torch.cuda.empty_cache()
            self._see_less(image, view, side)

    def _classes(self, image: Pixels, view: Eval) -> Tensor:
        pixels = torch.from_numpy(image.copy()).to(self.device)
        picture = normalise(pixels[None], self.statistics)
        with torch.autocast(self.device.type, self.autocast, enabled=self.autocast is not None):
            return best_class(self.network, picture, view)

    def _see_less(self, image: Pixels, view: Eval, tried: int | None) -> None:
        height, width, _ = image.shape
        seen = int(max(height, width) * max(view.scales))
        if view.tile is not None:
            seen = min(seen, view.tile)
        if not self._tiles.shrink(tried, seen):
            raise DrnError(
                f"out of memory: a picture of {width}x{height} does not fit, even in tiles of "
                f"{seen} pixels",
                "fewer or smaller eval.scales take less, as do other programs that end",
            )


@contextmanager
def evaluating(model: torch.nn.Module) -> Iterator[None]:
    """Put a network into evaluation mode for a while."""
    training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(training)

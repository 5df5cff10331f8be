"""How much memory an image takes, and how large a one may be seen at once."""

import logging
import math
import os
import threading
from functools import lru_cache

import torch

from drn_cli.device import free_memory
from drn_cli.networks.catalog import Architecture
from drn_cli.networks.models import OUTPUT_STRIDE
from drn_cli.networks.profiling import activation_bytes
from drn_cli.recipe.schema import Eval

log = logging.getLogger(__name__)

SMALLEST_TILE = 128  # tiles that see less around them are no longer worth their answers
SHARE = 0.7  # of the memory that is free; the rest is for images, answers and other programs
# An allowance for what the libraries take beside the network's own maps: the tiles of Winograd's
# convolutions, reordered copies. On a CPU, passes took 1.0 to 1.75 times their maps.
WORKSPACE = 1.8
UNKNOWN = 1000.0  # bytes a pixel, where the network is not one of ours
SIDE = 512  # of the image on which maps are counted


@lru_cache
def bytes_per_pixel(arch: Architecture | None) -> float:
    """Estimate the memory of a segmenter for each pixel of its input, in float32."""
    if arch is None:
        return UNKNOWN
    peak = activation_bytes(arch, "segmentation", 1, (1, SIDE, SIDE)).peak
    return float(WORKSPACE * peak / SIDE**2)


def available(device: torch.device) -> int:
    """Give the bytes that this process may still take: of its GPU, or of the machine.

    CPU processes of one job share the machine's.
    """
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        idle = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return free + idle
    return free_memory() // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


class TileSizer:
    """The side of the tiles that memory suffices for, which all threads of a predictor share.

    Args:
        arch: Architecture of the network; None is a network that is not ours.
        device: Where it runs.
        at_once: How many images are worked on at the same time.
    """

    def __init__(self, arch: Architecture | None, device: torch.device, at_once: int = 1) -> None:
        self._arch, self._device, self._at_once = arch, device, at_once
        self._lock = threading.Lock()
        self._budget: float | None = None
        self._announced: int | None = None
        self._told = False
        self.side: int | None = None  # none: memory has not run out

    def side_for(self, height: int, width: int, view: Eval) -> int | None:
        """Give the side in which an image is to be seen; None if it may be seen whole."""
        sides = [side for side in (view.tile, self.side) if side is not None]
        largest = height * width * max(view.scales) ** 2
        if view.tile is None:  # a side that was asked for is tried
            fitting = self._pixels()
            if min([largest, *(side**2 for side in sides)]) > fitting:
                side = int(math.sqrt(fitting)) // OUTPUT_STRIDE * OUTPUT_STRIDE
                sides.append(max(SMALLEST_TILE, side))
                self._say_too_large(height, width, min(sides))
        return min(sides, default=None)

    def _say_too_large(self, height: int, width: int, side: int) -> None:
        with self._lock:
            if self._told:
                return
            self._told = True
        log.info(
            "an image of %dx%d is too large for the memory that is free: such are seen in "
            "overlapping tiles of %d pixels",
            width,
            height,
            side,
        )

    def _pixels(self) -> float:
        """Give the pixels that fit, by what was free when the first image came."""
        with self._lock:
            if self._budget is None:
                self._budget = SHARE * available(self._device) / self._at_once
        return self._budget / bytes_per_pixel(self._arch)

    def shrink(self, tried: int | None, seen: int) -> bool:
        """Halve the side, unless another thread did while this one tried; tell if it went.

        Args:
            tried: What `side` was when it was too much.
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
            "out of memory: images are now seen in overlapping tiles of %d pixels; "
            "eval.tile=%d does so from the start",
            side,
            side,
        )

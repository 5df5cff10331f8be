"""Memory of inference per pixel, and the tile size that fits."""

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

MIN_TILE = 128  # with less context around them, tiles are no longer accurate
SHARE = 0.7  # of free memory; the rest is for images, outputs and other programs
# Factor for memory of the libraries beside the activations: Winograd tiles, copies in another
# layout. Measured on CPUs: 1.0 to 1.75 times the activations.
WORKSPACE = 1.8
UNKNOWN = 1000.0  # bytes per pixel of a network that is not a DRN
SIDE = 512  # of the image whose activations are measured


@lru_cache
def bytes_per_pixel(arch: Architecture | None) -> float:
    """Estimate the memory of a segmenter per input pixel, in float32."""
    if arch is None:
        return UNKNOWN
    peak = activation_bytes(arch, "segmentation", 1, (1, SIDE, SIDE)).peak
    return float(WORKSPACE * peak / SIDE**2)


def available_bytes(device: torch.device) -> int:
    """Return the memory that this process can still allocate, on its GPU or on this machine.

    CPU processes of one job share the memory of the machine.
    """
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return free + cached
    return free_memory() // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


class TileSizer:
    """Chooses the tile size that fits into memory; thread-safe.

    Args:
        arch: Architecture of the network; None for a network that is not a DRN.
        device: Device of the network.
        concurrency: Number of images predicted concurrently.

    Attributes:
        side: Tile size after memory ran out, in pixels; None if it has not.
    """

    def __init__(
        self, arch: Architecture | None, device: torch.device, concurrency: int = 1
    ) -> None:
        self._arch, self._device, self._concurrency = arch, device, concurrency
        self._lock = threading.Lock()
        self._budget: float | None = None
        self._logged: set[object] = set()
        self.side: int | None = None

    def side_for(self, height: int, width: int, view: Eval) -> int | None:
        """Return the tile size for an image, in pixels; None to predict it whole."""
        sides = [side for side in (view.tile, self.side) if side is not None]
        largest = height * width * max(view.scales) ** 2
        if view.tile is None:  # a given tile size is used without an estimate
            with self._lock:
                if self._budget is None:
                    self._budget = SHARE * available_bytes(self._device) / self._concurrency
            fitting = self._budget / bytes_per_pixel(self._arch)
            if min([largest, *(side**2 for side in sides)]) > fitting:
                side = int(math.sqrt(fitting)) // OUTPUT_STRIDE * OUTPUT_STRIDE
                sides.append(max(MIN_TILE, side))
                self._log_once(
                    "tiles",
                    logging.INFO,
                    "an image of %dx%d does not fit into free memory: using overlapping tiles of "
                    "%d pixels",
                    *(width, height, min(sides)),
                )
        return min(sides, default=None)

    def shrink(self, tried: int | None, input_side: int) -> bool:
        """Halve the tile size after memory ran out, unless another thread just has.

        Args:
            tried: Value of `side` when memory ran out.
            input_side: Longer side of the input that did not fit, in pixels.

        Returns:
            False if the tile size is at its minimum.
        """
        with self._lock:
            if self.side == tried:
                if input_side <= MIN_TILE:
                    return False
                self.side = max(MIN_TILE, -(-input_side // 16) * 8)
            return True

    def warn_once(self, side: int) -> None:
        """Warn that images are tiled because memory ran out, once per tile size."""
        self._log_once(
            side,
            logging.WARNING,
            "out of memory: using overlapping tiles of %d pixels from now on (eval.tile=%d uses "
            "them from the start)",
            *(side, side),
        )

    def _log_once(self, key: object, level: int, message: str, *values: int) -> None:
        with self._lock:
            if key in self._logged:
                return
            self._logged.add(key)
        log.log(level, message, *values)

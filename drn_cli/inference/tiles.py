"""A large image in overlapping tiles, whose scores are laid over each other into one map.

Tiles start where cells do, so that a cell means the same in a tile and in the whole image. Near a
tile's edge the network misses what is beyond: there its scores do not count, and from there inwards
they fade in, while those of the neighbour fade out. At the edge of the image nothing fades.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from drn_cli.networks.models import OUTPUT_STRIDE

# Tried on photographs with a trained network (docs/performance.md): what matters is how far from
# its edge a tile begins to count. The paper's networks look 200 to 500 pixels around.
OVERLAP = 0.5  # share of a tile that it has in common with the next, at most
WIDEST = 512  # pixels of overlap, beyond which little is gained
DISCARDED = 0.4  # share of an overlap, at either end, where only the other tile counts


@dataclass(frozen=True, slots=True)
class Tile:
    """A part of a row or column of pixels.

    Attributes:
        start, stop: Its pixels.
        fades_in, fades_out: Whether there is another tile before it, and after it.
        overlap: Pixels in common with them, at least.
    """

    start: int
    stop: int
    fades_in: bool
    fades_out: bool
    overlap: int

    def cells(self, stride: int) -> slice:
        return slice(self.start // stride, -(-self.stop // stride))

    def weights(self, stride: int, device: torch.device) -> Tensor:
        """Give what its cells count, from nearly 0 to 1."""
        place = self.cells(stride)
        count = place.stop - place.start
        near = torch.arange(count, device=device, dtype=torch.float32) + 0.5
        discarded = DISCARDED * self.overlap / stride
        fading = max(1.0, self.overlap / stride - 2 * discarded)
        weights = torch.ones(count, device=device)
        for fades, distance in ((self.fades_in, near), (self.fades_out, near.flip(0))):
            if fades:
                # Never 0: a cell that lies beyond where all tiles count still needs an answer.
                weights *= ((distance - discarded) / fading).clamp(1e-6, 1)
        return weights


def place_tiles(length: int, side: int) -> list[Tile]:
    """Cover a length with tiles of a side or a little less, evenly, flush with both ends."""
    grid = OUTPUT_STRIDE
    side = max(grid, side // grid * grid)
    if length <= side:
        return [Tile(0, length, False, False, 0)]
    overlap = min(WIDEST, int(OVERLAP * side)) // grid * grid
    count = -(-(length - overlap) // (side - overlap))
    side = -(-(length + (count - 1) * overlap) // (count * grid)) * grid  # so many need no more
    last = -(-(length - side) // grid)
    starts = [last * number // (count - 1) * grid for number in range(count)]
    return [
        Tile(start, min(start + side, length), number > 0, number < count - 1, overlap)
        for number, start in enumerate(starts)
    ]


def tiled(
    run: Callable[[slice, slice], Tensor], height: int, width: int, side: int, stride: int
) -> Tensor:
    """Put the scores of an image together from those of its tiles.

    Args:
        run: Gives the scores `(N, C, h, w)` of some rows and columns of pixels.
        height: Of the image, in pixels.
        width: Of the image, in pixels.
        side: Of the tiles, in pixels.
        stride: Pixels to a cell.

    Returns:
        float32 `(N, C, ceil(height / stride), ceil(width / stride))`.
    """
    if max(height, width) <= side:
        return run(slice(height), slice(width))
    total: Tensor | None = None
    across = place_tiles(width, side)
    for row in place_tiles(height, side):
        for column in across:
            scores = run(slice(row.start, row.stop), slice(column.start, column.stop)).float()
            if total is None:
                size = (-(-height // stride), -(-width // stride))
                total = scores.new_zeros(*scores.shape[:2], *size)
                counted = scores.new_zeros(size)
            weights = torch.outer(*(t.weights(stride, scores.device) for t in (row, column)))
            place = (..., row.cells(stride), column.cells(stride))
            total[place] += scores * weights
            counted[place] += weights
    assert total is not None
    return total.div_(counted)

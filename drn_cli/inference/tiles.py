"""Prediction of a large image in overlapping tiles, whose scores are blended into one map.

Tiles are aligned to the output stride, so that cells of a tile are cells of the whole image. Near
an edge between tiles the network lacks context: scores there have no weight. Further inside the
weights of one tile rise while those of its neighbor fall. Edges of the image have full weight.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from drn_cli.networks.models import OUTPUT_STRIDE

# Measured on photographs with a trained network (docs/performance.md): what matters is the distance
# from the edge at which scores get weight. Receptive fields of the paper's networks reach 200 to
# 500 pixels.
OVERLAP = 0.5  # of a tile with the next one, as a share of the tile
MAX_OVERLAP = 512  # pixels; more gains little
DISCARDED = 0.4  # share of the overlap, at either end, where a tile has no weight


@dataclass(frozen=True, slots=True)
class Tile:
    """The extent of a tile along one axis."""

    start: int  # range of pixels
    stop: int
    fades_in: bool  # whether another tile precedes, and follows
    fades_out: bool
    overlap: int  # minimum overlap with them, in pixels

    def cells(self, stride: int) -> slice:
        return slice(self.start // stride, -(-self.stop // stride))

    def weights(self, stride: int, device: torch.device) -> Tensor:
        """Return the blending weights of the cells, from nearly 0 to 1."""
        cells = self.cells(stride)
        count = cells.stop - cells.start
        near = torch.arange(count, device=device, dtype=torch.float32) + 0.5
        discarded = DISCARDED * self.overlap / stride
        fading = max(1.0, self.overlap / stride - 2 * discarded)
        weights = torch.ones(count, device=device)
        for fades, distance in ((self.fades_in, near), (self.fades_out, near.flip(0))):
            if fades:
                # Never 0: cells without weight in every tile still need a result.
                weights *= ((distance - discarded) / fading).clamp(1e-6, 1)
        return weights


def tile_grid(length: int, side: int) -> list[Tile]:
    """Cover a length evenly with tiles of at most `side` pixels."""
    grid = OUTPUT_STRIDE
    side = max(grid, side // grid * grid)
    if length <= side:
        return [Tile(0, length, False, False, 0)]
    overlap = min(MAX_OVERLAP, int(OVERLAP * side)) // grid * grid
    count = -(-(length - overlap) // (side - overlap))
    side = -(-(length + (count - 1) * overlap) // (count * grid)) * grid  # suffices for this count
    last = -(-(length - side) // grid)
    starts = [last * number // (count - 1) * grid for number in range(count)]
    return [
        Tile(start, min(start + side, length), number > 0, number < count - 1, overlap)
        for number, start in enumerate(starts)
    ]


def predict_tiled(
    run: Callable[[slice, slice], Tensor], height: int, width: int, side: int, stride: int
) -> Tensor:
    """Run a network on the tiles of an image and blend the scores.

    Args:
        run: Returns the scores `(N, C, h, w)` of a range of rows and columns of the image.
        height: Height of the image, in pixels.
        width: Width of the image, in pixels.
        side: Tile size, in pixels.
        stride: Output stride of the network.

    Returns:
        float32 `(N, C, ceil(height / stride), ceil(width / stride))`.
    """
    if max(height, width) <= side:
        return run(slice(height), slice(width))
    total: Tensor | None = None
    columns = tile_grid(width, side)
    for row in tile_grid(height, side):
        for column in columns:
            scores = run(slice(row.start, row.stop), slice(column.start, column.stop)).float()
            if total is None:
                size = (-(-height // stride), -(-width // stride))
                total = scores.new_zeros(*scores.shape[:2], *size)
                total_weights = scores.new_zeros(size)
            weights = torch.outer(*(t.weights(stride, scores.device) for t in (row, column)))
            cells = (..., row.cells(stride), column.cells(stride))
            total[cells] += scores * weights
            total_weights[cells] += weights
    assert total is not None
    return total.div_(total_weights)

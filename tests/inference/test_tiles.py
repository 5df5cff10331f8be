"""Tile grids, blending weights, and tiled against whole prediction."""

import itertools

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from drn_cli.inference.tiles import Tile, predict_tiled, tile_grid

CPU = torch.device("cpu")
CLASSES = 5
MIX = torch.randn(CLASSES, 3, 1, 1, generator=torch.Generator().manual_seed(0))
KERNELS = [
    torch.randn(CLASSES, channels, 3, 3, generator=torch.Generator().manual_seed(channels)) / 5
    for channels in (3, CLASSES, CLASSES)
]
SIDES = [64, 100, 128, 256, 513, 768]
LENGTHS = [65, 97, 129, 131, 200, 500, 777, 1023, 1024, 2048]
TILED = [(length, side) for length in LENGTHS for side in SIDES if length > side]


def image(height: int, width: int, count: int = 1) -> Tensor:
    return torch.randn(count, 3, height, width, generator=torch.Generator().manual_seed(2))


def pixelwise(x: Tensor) -> Tensor:
    return F.conv2d(x, MIX)


def looking_around(x: Tensor) -> Tensor:
    return F.conv2d(x, KERNELS[0], padding=1)


def striding(x: Tensor) -> Tensor:
    """Average over 7 pixels around, with stride 8 in three steps like a DRN."""
    for kernel in KERNELS:
        x = F.conv2d(x, kernel, stride=2, padding=1).relu()
    return x


def averaging(x: Tensor) -> Tensor:
    return F.avg_pool2d(pixelwise(x), 8, ceil_mode=True)


class Cut:
    """Runs a network on parts of images."""

    def __init__(self, whole: Tensor, network) -> None:
        self.whole, self.network = whole, network
        self.parts: list[tuple[slice, slice]] = []

    def __call__(self, rows: slice, columns: slice) -> Tensor:
        self.parts.append((rows, columns))
        return self.network(self.whole[..., rows, columns])

    def in_tiles(self, side: int, stride: int) -> Tensor:
        return predict_tiled(self, self.whole.shape[2], self.whole.shape[3], side, stride)


@pytest.mark.parametrize(("length", "side"), TILED)
def test_tiles_cover_length_and_are_aligned(length: int, side: int) -> None:
    tiles = tile_grid(length, side)
    assert len(tiles) > 1
    assert tiles[0].start == 0
    assert tiles[-1].stop == length
    for tile in tiles:
        assert 0 < tile.stop - tile.start <= side
        assert tile.start % 8 == 0
        assert tile.stop % 8 == 0 or tile.stop == length
    assert [tile.fades_in for tile in tiles] == [False] + [True] * (len(tiles) - 1)
    assert [tile.fades_out for tile in tiles] == [True] * (len(tiles) - 1) + [False]
    for before, after in itertools.pairwise(tiles):
        assert before.start < after.start
        assert before.stop < after.stop
        assert before.stop - after.start >= after.overlap


@pytest.mark.parametrize(("length", "side"), TILED)
def test_tiles_are_few_and_even(length: int, side: int) -> None:
    tiles = tile_grid(length, side)
    steps = [after.start - before.start for before, after in itertools.pairwise(tiles)]
    assert max(steps) - min(steps) <= 16
    # One tile fewer would overlap less than `overlap`.
    one_fewer = (len(tiles) - 1) * (side // 8 * 8 - tiles[0].overlap) + tiles[0].overlap
    assert one_fewer < length
    # And they are no larger than so many have to be.
    lengths = sum(tile.stop - tile.start for tile in tiles)
    assert lengths - (len(tiles) - 1) * tiles[0].overlap < length + 8 * len(tiles)


@pytest.mark.parametrize("length", [1, 7, 8, 63, 64])
def test_short_length_is_one_tile(length: int) -> None:
    [tile] = tile_grid(length, 64)
    assert (tile.start, tile.stop) == (0, length)
    assert not tile.fades_in
    assert not tile.fades_out
    for stride in (1, 8):
        assert torch.equal(tile.weights(stride, CPU), torch.ones(-(-length // stride)))


def test_overlap_is_limited() -> None:
    overlaps = [tile_grid(10**6, side)[0].overlap for side in (64, 256, 1024, 8192, 16384)]
    assert 0 < overlaps[0] < overlaps[1] <= overlaps[2] <= overlaps[3] == overlaps[4]


@pytest.mark.parametrize("stride", [1, 8])
@pytest.mark.parametrize(("length", "side"), [(777, 256), (2047, 512), (300, 256)])
def test_weights_fade_between_tiles_only(length: int, side: int, stride: int) -> None:
    tiles = tile_grid(length, side)
    for tile in tiles:
        weights = tile.weights(stride, CPU)
        assert weights.dtype == torch.float32
        assert len(weights) == -(-(tile.stop - tile.start) // stride)
        assert weights.min() > 0  # or what all of them discard would be divided by nothing
        assert weights.max() == 1
        middle = int(weights.argmax())
        assert (weights[: middle + 1].diff() >= 0).all()
        last_full = len(weights) - 1 - int(weights.flip(0).argmax())
        assert (weights[last_full:].diff() <= 0).all()
        assert (weights[middle : last_full + 1] == 1).all()
        assert (weights[0] < 0.1) if tile.fades_in else (weights[0] == 1)
        assert (weights[-1] < 0.1) if tile.fades_out else (weights[-1] == 1)
        if tile.fades_in and tile.fades_out:
            torch.testing.assert_close(weights, weights.flip(0))


def test_cells_of_a_tile() -> None:
    assert Tile(16, 77, True, False, 8).cells(8) == slice(2, 10)
    assert Tile(16, 77, True, False, 8).cells(1) == slice(16, 77)


SIZES = [(64, 64), (65, 97), (31, 201), (200, 17), (128, 129), (1, 300)]


@pytest.mark.parametrize(("network", "stride"), [(pixelwise, 1), (averaging, 8)])
@pytest.mark.parametrize("side", [64, 100])
@pytest.mark.parametrize(("height", "width"), SIZES)
def test_tiled_equals_whole_without_context(
    height: int, width: int, side: int, network, stride: int
) -> None:
    cut = Cut(image(height, width, 2), network)
    found, expected = cut.in_tiles(side, stride), network(cut.whole)
    assert found.shape == expected.shape
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize(("network", "stride"), [(looking_around, 1), (striding, 8)])
@pytest.mark.parametrize("side", [256, 300])
@pytest.mark.parametrize(("height", "width"), [(264, 520), (301, 259), (90, 797), (513, 7)])
def test_tiled_equals_whole_with_little_context(
    height: int, width: int, side: int, network, stride: int
) -> None:
    cut = Cut(image(height, width), network)
    found, expected = cut.in_tiles(side, stride), network(cut.whole)
    assert len(cut.parts) > 1
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


def test_small_image_is_not_tiled() -> None:
    cut = Cut(image(60, 61), looking_around)
    assert torch.equal(cut.in_tiles(61, 1), looking_around(cut.whole))
    assert cut.parts == [(slice(60), slice(61))]


def test_each_tile_is_run_once() -> None:
    cut = Cut(image(150, 333), averaging)
    cut.in_tiles(100, 8)
    down, across = tile_grid(150, 100), tile_grid(333, 100)
    expected = [(t.start, t.stop, u.start, u.stop) for t in down for u in across]
    assert [(r.start, r.stop, c.start, c.stop) for r, c in cut.parts] == expected


def test_weights_decrease_towards_edges() -> None:
    # Two tiles that disagree: in what they have in common the nearer middle wins.
    overlap = tile_grid(1000, 64)[0].overlap
    cut = Cut(image(64, 2 * 64 - overlap), None)

    def network(x: Tensor) -> Tensor:
        logits = torch.zeros(1, CLASSES, *x.shape[-2:])
        logits[:, len(cut.parts)] = 5
        return logits

    cut.network = network
    scores = cut.in_tiles(64, 1)
    (_, first), (_, second) = cut.parts
    border = (second.start + first.stop) // 2
    best = scores.argmax(1)[0, 32]
    assert (best[:border] == 1).all()
    assert (best[border:] == 2).all()
    assert (scores[0, 1, :, : second.start] == 5).all()
    assert (scores[0, 2, :, first.stop :] == 5).all()


def test_16_bit_scores_are_summed_in_float32() -> None:
    cut = Cut(image(80, 150), lambda x: pixelwise(x).bfloat16())
    scores = cut.in_tiles(64, 1)
    assert scores.dtype == torch.float32
    torch.testing.assert_close(scores, cut.network(cut.whole).float(), rtol=0, atol=1e-5)

"""Class activation maps: boxes, heat maps, and regions of the image."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torchvision.transforms import v2

from drn_cli.data.folders import ChannelStats
from drn_cli.data.images import Pixels
from drn_cli.data.resized_crop import center_crop
from drn_cli.inference.activation import ClassActivationMap, class_activation_map
from drn_cli.inference.classifier import ClassificationPredictor

NONE = float("-inf")
STATISTICS = ChannelStats((0.5, 0.4, 0.3), (0.2, 0.3, 0.25))


def activation(maps: Any, **other: Any) -> ClassActivationMap:
    """Return activation maps of an image eight times as large as the maps, by default."""
    scores = torch.as_tensor(maps, dtype=torch.float32)
    height, width = (8 * side for side in scores.shape[1:])
    size = other.pop("size", (height, width))
    region = other.pop("region", (0.0, 0.0, float(size[0]), float(size[1])))
    shape = other.pop("input_size", (height, width))
    return ClassActivationMap(scores, scores.double().mean((1, 2)).softmax(0), size, region, shape)


def rectangle(rows: slice, columns: slice, shape: tuple[int, int] = (6, 9)) -> Tensor:
    """Return maps where class 1 has score 3 in a rectangle, and class 0 score 1 everywhere."""
    maps = torch.zeros(3, *shape)
    maps[0] = 1
    maps[1, rows, columns] = 3
    return maps


def box_of(found: ClassActivationMap, kind: int, threshold: float = NONE) -> list[float]:
    boxes = found.boxes([kind], [threshold])
    assert boxes.shape == (1, 1, 4)
    return list(boxes[0, 0].tolist())


def test_box_includes_corner_pixels() -> None:
    found = activation(rectangle(slice(2, 5), slice(1, 4)))
    assert box_of(found, 1) == [8, 16, 31, 39]
    assert box_of(found, 0) == [0, 0, 71, 47], "around all other positions"
    assert box_of(activation(rectangle(slice(5, 6), slice(8, 9))), 1) == [64, 40, 71, 47]


def test_box_covers_separate_positions() -> None:
    maps = rectangle(slice(1, 2), slice(7, 8))
    maps[1, 4, 2] = 2
    assert box_of(activation(maps), 1) == [16, 8, 63, 39]


def test_score_equal_to_threshold_is_outside() -> None:
    maps = rectangle(slice(1, 5), slice(2, 7))
    maps[1, 3, 4] = 5
    found = activation(maps)
    below, above = np.nextafter(np.float32(3), [np.float32(0), np.float32(9)])
    assert box_of(found, 1, float(below)) == [16, 8, 55, 39]
    assert box_of(found, 1, 3.0) == box_of(found, 1, float(above)) == [32, 24, 39, 31]


def test_box_covers_only_positions_of_highest_score() -> None:
    maps = rectangle(slice(1, 3), slice(1, 3))
    maps[2] = 2.5  # everywhere above class 0, and in the rectangle below class 1
    found = activation(maps)
    assert box_of(found, 0, 0.5) == pytest.approx([np.nan] * 4, nan_ok=True)
    assert box_of(found, 1, 0.5) == [8, 8, 23, 23]
    assert box_of(found, 2, 0.5) == [0, 0, 71, 47]


def test_no_box_above_all_scores() -> None:
    found = activation(rectangle(slice(2, 5), slice(1, 4)))
    boxes = found.boxes([1, 0, 2], [NONE, 2.0, 4.0])
    assert np.isnan(boxes).all(axis=2).tolist() == [
        [False, False, True],
        [False, True, True],
        [True, True, True],
    ]
    assert np.isnan(boxes).any(axis=2).tolist() == np.isnan(boxes).all(axis=2).tolist()


def test_no_box_for_nan_scores() -> None:
    found = activation(torch.full((3, 4, 4), torch.nan))
    assert np.isnan(found.boxes([0, 1, 2], [NONE, 0.0])).all()


@pytest.mark.parametrize("seed", range(3))
def test_boxes_equal_exhaustive_search(seed: int) -> None:
    maps = torch.from_numpy(np.random.default_rng(seed).normal(0, 1, (4, 5, 7))).float()
    limits = [NONE, -0.5, 0.0, 0.8, 1.3, 1.9, 4.0]
    boxes = activation(maps).boxes([2, 0, 3], limits)
    for place, kind in enumerate([2, 0, 3]):
        for n, limit in enumerate(limits):
            won = [
                (x, y)
                for y in range(5)
                for x in range(7)
                if maps[kind, y, x] == maps[:, y, x].max() and maps[kind, y, x] > limit
            ]
            if won:
                across, down = zip(*won, strict=True)
                corners = [min(across), min(down), max(across) + 1, max(down) + 1]
                right = [8 * cell for cell in corners[:2]] + [8 * cell - 1 for cell in corners[2:]]
            else:
                right = [np.nan] * 4
            assert boxes[place, n].tolist() == pytest.approx(right, nan_ok=True)


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((96, 144), [16, 32, 63, 79]),  # at half the size
        ((24, 36), [4, 8, 15, 19]),  # at double the size
        ((60, 45), [5, 20, 19, 49]),  # width at 8/5, height at 4/5
    ],
)
def test_boxes_are_scaled_to_image_pixels(size: tuple[int, int], expected: list[int]) -> None:
    found = activation(rectangle(slice(2, 5), slice(1, 4)), size=size)
    assert box_of(found, 1) == pytest.approx(expected)


def test_box_of_position_smaller_than_a_pixel() -> None:
    found = activation(rectangle(slice(2, 3), slice(4, 5)), size=(3, 4))
    xmin, ymin, xmax, ymax = box_of(found, 1)
    assert xmin == xmax == pytest.approx(4 * 4 / 9)
    assert ymin == ymax == pytest.approx(2 * 3 / 6)


def test_box_is_clipped_to_odd_image_size() -> None:
    maps = rectangle(slice(3, 6), slice(5, 9))
    assert box_of(activation(maps, size=(43, 69), input_size=(43, 69)), 1) == [40, 24, 68, 42]
    halved = activation(maps, size=(86, 138), input_size=(43, 69))
    assert box_of(halved, 1) == [80, 48, 137, 85]


def test_box_of_center_crop() -> None:
    maps = rectangle(slice(0, 2), slice(7, 9))
    found = activation(maps, size=(100, 200), region=(20.0, 30.0, 48.0, 72.0))
    assert box_of(found, 1) == [86, 20, 101, 35]
    larger = activation(maps, size=(200, 400), region=(40.0, 60.0, 96.0, 144.0))
    assert box_of(larger, 1) == [172, 40, 203, 71]


def test_box_is_clipped_to_crop() -> None:
    """The crop size is not a multiple of 8."""
    maps = rectangle(slice(3, 6), slice(5, 9))
    found = activation(maps, size=(100, 200), region=(20.0, 30.0, 43.0, 69.0), input_size=(43, 69))
    assert box_of(found, 1) == [70, 44, 98, 62]


def test_box_is_clipped_to_padded_image() -> None:
    maps = rectangle(slice(0, 6), slice(0, 9))
    found = activation(maps, size=(32, 72), region=(-8.0, 0.0, 48.0, 72.0))
    assert box_of(found, 1) == [0, 0, 71, 31]


@pytest.mark.parametrize("size", [(48, 72), (96, 144), (24, 36), (91, 50)])
def test_heat_map_range_and_maximum(size: tuple[int, int]) -> None:
    maps = rectangle(slice(0, 0), slice(0, 0))
    maps[1] = torch.linspace(-2, 0, 9)
    maps[1, 4, 2] = 7
    heat = activation(maps, size=size).heat_map(1)
    assert heat.shape == size
    assert heat.dtype == np.float32
    assert heat.min() >= 0
    assert heat.max() <= 1
    y, x = np.unravel_index(heat.argmax(), size)
    assert 4 / 6 <= (y + 0.5) / size[0] <= 5 / 6
    assert 2 / 9 <= (x + 0.5) / size[1] <= 3 / 9
    assert heat.max() > 0.7
    assert heat.min() == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("size", [(3, 4), (1, 1)])
def test_heat_map_of_tiny_image(size: tuple[int, int]) -> None:
    assert activation(rectangle(slice(1, 2), slice(1, 2)), size=size).heat_map(1).shape == size


def test_heat_map_is_not_darker_at_borders() -> None:
    maps = torch.zeros(2, 4, 5)
    maps[0, 0, 0] = maps[0, 3, 4] = 1
    heat = activation(maps, size=(30, 37), input_size=(30, 37)).heat_map(0)
    assert heat[0, 0] == heat[-1, -1] == 1
    assert heat[0, -1] == 0


def test_heat_map_of_constant_scores_is_zero() -> None:
    assert not activation(torch.full((2, 3, 3), 4.0)).heat_map(0).any()


def test_heat_map_is_zero_outside_region() -> None:
    maps = torch.zeros(2, 6, 9)
    maps[0] = torch.arange(54).reshape(6, 9) + 100
    heat = activation(maps, size=(100, 200), region=(20.0, 30.0, 48.0, 72.0)).heat_map(0)
    outside = np.ones((100, 200), bool)
    outside[20:68, 30:102] = False
    assert not heat[outside].any()
    assert heat[67, 101] == 1
    assert (heat[24:68, 34:102] > 0).all()


def test_heat_map_of_padded_image() -> None:
    maps = torch.zeros(1, 6, 9)
    maps[0, 1, 0] = 1  # in the image's first rows
    heat = activation(maps, size=(32, 72), region=(-8.0, 0.0, 48.0, 72.0)).heat_map(0)
    assert heat.shape == (32, 72)
    assert np.unravel_index(heat.argmax(), heat.shape)[0] in (3, 4)


def noise(height: int, width: int) -> Pixels:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3)).astype(np.uint8)


def classifier(
    maps: Callable[[Tensor], Tensor], crop: int = 32, resize: int = 40
) -> ClassificationPredictor:
    def pooled(x: Tensor) -> Tensor:
        raise AssertionError("only maps are needed")

    return ClassificationPredictor(
        network=pooled,
        maps=maps,
        statistics=STATISTICS,
        names=("a", "b", "c"),
        folders=None,
        device=torch.device("cpu"),
        crop=crop,
        resize=resize,
    )


def look(image: Pixels, see: Any, **settings: int) -> tuple[ClassActivationMap, Tensor]:
    """Return the maps of an image, and the input of the network."""
    given: list[Tensor] = []

    def maps(x: Tensor) -> Tensor:
        given.append(x)
        height, width = (-(-side // 8) for side in x.shape[2:])
        return torch.arange(3 * height * width).reshape(1, 3, height, width) % 11 / 3

    found = class_activation_map(classifier(maps, **settings), image, see)
    return found, given[0]


@pytest.mark.parametrize("size", [(80, 104), (104, 80), (40, 57), (20, 31), (55, 133)])
def test_whole_image_is_resized(size: tuple[int, int]) -> None:
    image = noise(*size)
    found, given = look(image, "whole")
    pixels = v2.functional.to_image(image)
    shown = v2.functional.resize(pixels, 40, antialias=True)
    right = v2.functional.normalize(shown / 255, STATISTICS.mean, STATISTICS.std)
    torch.testing.assert_close(given[0], right)
    assert found.size == size
    assert found.input_size == tuple(right.shape[1:])
    assert found.region == pytest.approx((0, 0, *size))


@pytest.mark.parametrize("size", [(80, 104), (103, 80), (40, 57), (20, 31)])
def test_center_crop_is_that_of_evaluation(size: tuple[int, int]) -> None:
    image = noise(*size)
    found, given = look(image, "centre")
    crop = torch.from_numpy(center_crop(image, 32, 40)).permute(2, 0, 1)
    right = v2.functional.normalize(crop / 255, STATISTICS.mean, STATISTICS.std)
    torch.testing.assert_close(given[0], right)
    scale = min(size) / 40
    longer = int(40 * max(size) / min(size))
    offsets = [4.0, round((longer - 32) / 2)]
    top, left = offsets if size[0] < size[1] else reversed(offsets)
    assert found.region == pytest.approx(
        (top * scale, left * scale, 32 * scale, 32 * scale), rel=0.02
    )
    assert found.input_size == (32, 32)


@pytest.mark.parametrize("resize", [25, 26, 27, 28, 29, 31])
def test_center_crop_of_smaller_image_is_padded(resize: int) -> None:
    """The region is where the image lies in the padded input."""
    image = noise(resize, resize) // 2 + 100  # nowhere black, unlike the padding
    found, given = look(image, "centre", resize=resize)
    std, mean = (torch.tensor(part)[:, None, None] for part in (STATISTICS.std, STATISTICS.mean))
    pixels = (given[0] * std + mean) * 255
    lit = (pixels.mean(0) > 50).nonzero()
    assert found.region == (*(-float(first) for first in lit.min(0).values), 32, 32)


def test_probabilities_are_softmax_of_mean_scores() -> None:
    image = noise(80, 104)
    found, _ = look(image, "whole")
    right = found.maps.double().mean((1, 2)).softmax(0)
    torch.testing.assert_close(found.probabilities, right)
    assert found.probabilities.dtype == torch.float64
    assert right.unique().numel() == 3, "the test needs different scores"
    assert found.topk(2) == right.argsort(descending=True)[:2].tolist()
    assert len(found.topk(5)) == 3, "there are three classes"


def test_topk_breaks_ties_by_class_id() -> None:
    maps = torch.tensor([1.0, 2.0, 2.0, 1.0])[:, None, None].expand(4, 2, 2)
    assert activation(maps).topk(4) == [1, 2, 0, 3]


def test_probability_maps_are_softmax_over_classes() -> None:
    maps = rectangle(slice(2, 5), slice(1, 4), (5, 7))

    def answer(x: Tensor) -> Tensor:
        return maps[None]

    image = noise(40, 56)
    scores = class_activation_map(classifier(answer), image)
    shares = class_activation_map(classifier(answer), image, values="probability")
    torch.testing.assert_close(scores.maps, maps)
    torch.testing.assert_close(shares.maps, maps.softmax(0))
    assert torch.equal(scores.probabilities, shares.probabilities)
    share = float(np.exp(3) / (np.exp([1, 3, 0]).sum()))
    limits = [share - 1e-3, share + 1e-3]
    boxes = shares.boxes([1], limits)[0]
    assert boxes[0].tolist() == [8, 16, 31, 39]
    assert np.isnan(boxes[1]).all()


def test_autocast_maps_are_float32() -> None:
    weight = torch.randn(3, 3, 1, 1)

    def answer(x: Tensor) -> Tensor:
        made = torch.nn.functional.conv2d(x, weight, stride=8)
        types.append(made.dtype)
        return made

    types: list[torch.dtype] = []
    for kind in (None, torch.bfloat16):
        found = class_activation_map(replace(classifier(answer), autocast=kind), noise(80, 80))
        assert found.maps.dtype == torch.float32
    assert types == [torch.float32, torch.bfloat16]

"""Localization of colors in drawn images and annotated photographs."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import colour_classifier
import numpy as np
import pytest
import torch
from colour_classifier import CELL, NAMES, OTHER, PAINT, draw

from drn_cli.data.boxes import Box
from drn_cli.data.images import read_image
from drn_cli.evaluation.localization import iou
from drn_cli.inference.activation import class_activation_map
from drn_cli.inference.classifier import ClassificationPredictor
from drn_cli.inference.loading import load_classifier

NONE = float("-inf")
SIDE = 96  # of the resized images


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> ClassificationPredictor:
    path = colour_classifier.write(tmp_path_factory.mktemp("colours") / "colours.safetensors")
    return load_classifier(path, torch.device("cpu"), crop=SIDE, resize=SIDE)


@pytest.mark.parametrize(
    ("size", "colour", "box"),
    [
        ((96, 128), "red", (40, 24, 71, 63)),
        ((96, 128), "green", (0, 0, 30, 17)),
        ((96, 128), "blue", (101, 61, 127, 95)),
        ((128, 96), "yellow", (13, 7, 57, 120)),
        ((96, 96), "red", (45, 50, 57, 61)),
        ((100, 139), "blue", (70, 3, 135, 90)),
        ((192, 288), "green", (77, 90, 200, 171)),
        ((48, 61), "red", (11, 20, 44, 40)),
    ],
)
def test_box_of_drawn_rectangle(
    classifier: ClassificationPredictor, size: tuple[int, int], colour: str, box: tuple[int, ...]
) -> None:
    found = class_activation_map(classifier, draw(*size, {colour: box}))
    kind = NAMES.index(colour)
    assert kind in found.topk(2), "`other` is everywhere"
    [corners] = found.boxes([kind], [NONE])[0]
    one_position = CELL * min(size) / SIDE
    assert np.abs(corners - np.array(box)).max() <= one_position
    others = found.boxes([n for n in range(4) if n != kind], [NONE])
    assert np.isnan(others).all(), "no other color has the highest score"
    everything = found.boxes([NAMES.index("other")], [NONE, OTHER + 0.01])[0]
    assert everything[0].tolist() == [0, 0, size[1] - 1, size[0] - 1]
    assert np.isnan(everything[1]).all()


def test_scores_of_color(classifier: ClassificationPredictor) -> None:
    """Covers normalization, weights and folded batch norms; thresholds are scores."""
    found = class_activation_map(classifier, np.full((96, 96, 3), PAINT["yellow"], np.uint8))
    for kind, name in enumerate(NAMES):
        inside = found.maps[kind, 1:-1, 1:-1]
        assert inside.numpy() == pytest.approx(
            colour_classifier.score(name, PAINT["yellow"]), abs=1e-3
        )


def test_boxes_of_two_colors(
    classifier: ClassificationPredictor,
) -> None:
    red, blue = (8, 16, 39, 47), (60, 32, 119, 87)
    found = class_activation_map(classifier, draw(96, 128, {"red": red, "blue": blue}))
    assert [NAMES[kind] for kind in found.topk(2)] == ["blue", "red"]
    for name, box in (("red", red), ("blue", blue)):
        [corners] = found.boxes([NAMES.index(name)], [NONE])[0]
        assert np.abs(corners - np.array(box)).max() <= CELL


@pytest.mark.parametrize("see", ["whole", "centre"])
def test_center_region_excludes_borders(classifier: ClassificationPredictor, see: Any) -> None:
    """The image is twice as wide as its center crop."""
    inside, outside = (110, 30, 131, 70), (4, 4, 27, 40)
    found = class_activation_map(classifier, draw(96, 192, {"red": inside, "green": outside}), see)
    [corners] = found.boxes([NAMES.index("red")], [NONE])[0]
    assert np.abs(corners - np.array(inside)).max() <= CELL
    green = found.boxes([NAMES.index("green")], [NONE])
    assert np.isnan(green).all() == (see == "centre")
    heat = found.heat_map(NAMES.index("red"))
    assert heat.shape == (96, 192)
    y, x = np.unravel_index(heat.argmax(), heat.shape)
    assert inside[0] - CELL <= x <= inside[2] + CELL
    assert inside[1] - CELL <= y <= inside[3] + CELL


@pytest.mark.parametrize(
    ("name", "colour", "threshold", "by_hand"),
    [
        # A yellow bin for grit, whole; behind it only glints have a trace of its colour.
        ("train/0006R0_f03810", "yellow", 1.5, (9, 218, 88, 297)),
        # The paint of a red car at the left border, without its wheels. There is more red further
        # away, on signs and trolleys, which is fainter.
        ("train/0006R0_f03240", "red", 2.0, (0, 168, 88, 263)),
        # A telephone box, half of it in the shade. Two cars are of a darker red.
        ("test/Seq05VD_f00030", "red", 1.0, (0, 39, 32, 239)),
    ],
)
def test_boxes_in_photographs_match_annotations(
    classifier: ClassificationPredictor,
    camvid_source: Path,
    name: str,
    colour: str,
    threshold: float,
    by_hand: tuple[int, int, int, int],
) -> None:
    image = read_image(camvid_source / f"{name}.png")
    found = class_activation_map(replace(classifier, resize=256), image)
    boxes = found.boxes([NAMES.index(colour)], [threshold])
    assert iou(boxes[0, 0], Box(colour, *by_hand)) > 0.6

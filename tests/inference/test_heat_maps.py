"""Heat map overlays and npz files."""

import io

import numpy as np
import pytest
import torch

from drn_cli.inference.activation import ClassActivationMap
from drn_cli.inference.heat_maps import encode_npz, heat_map_overlay

HEIGHT, WIDTH = 48, 72
GREY = np.full((HEIGHT, WIDTH, 3), 128, np.uint8)
NOTHING = np.full(4, np.nan)
BOX = np.array([16.4, 8.0, 50.6, 40.0])


@pytest.fixture
def found() -> ClassActivationMap:
    """Maps where class 1 is highest around row 1 and column 6, and lowest in the last rows."""
    maps = torch.zeros(3, 6, 9)
    maps[0] = torch.arange(54).reshape(6, 9)
    maps[1, 0:3, 5:8] = 4
    maps[1, 1, 6] = 8
    maps[1, 4:] = -8
    likely = torch.tensor([0.2, 0.5, 0.3], dtype=torch.float64)
    whole = (0.0, 0.0, float(HEIGHT), float(WIDTH))
    return ClassActivationMap(maps, likely, (HEIGHT, WIDTH), whole, (HEIGHT, WIDTH))


def test_overlay_is_red_for_high_and_blue_for_low_scores(
    found: ClassActivationMap,
) -> None:
    drawn = heat_map_overlay(GREY, found, 1).astype(int)
    assert drawn.shape == (HEIGHT, WIDTH, 3)
    red_to_blue = drawn[..., 0] - drawn[..., 2]
    assert red_to_blue[8:16, 48:56].min() > 30
    assert red_to_blue[36:, :].max() < 0
    assert not np.array_equal(drawn, heat_map_overlay(GREY, found, 0)), "each class has its own map"


def test_overlay_is_half_transparent(found: ClassActivationMap) -> None:
    """Half of each pixel comes from the image."""
    black, white = (heat_map_overlay(np.full_like(GREY, v), found, 1).astype(int) for v in (0, 255))
    assert np.abs(white - black - 127.5).max() <= 1


def test_overlay_does_not_change_image(found: ClassActivationMap) -> None:
    image = GREY.copy()
    image.setflags(write=False)  # like arrays from Pillow
    heat_map_overlay(image, found, 1, BOX)
    assert np.array_equal(image, GREY)


def test_box_has_dark_outline(found: ClassActivationMap) -> None:
    plain, boxed = heat_map_overlay(GREY, found, 1), heat_map_overlay(GREY, found, 1, BOX)
    for x, y in ((16, 8), (51, 8), (16, 40), (51, 40), (30, 8), (30, 40), (16, 20), (51, 20)):
        assert boxed[y, x].tolist() == [255, 255, 255], (x, y)
    assert boxed[20, 15].tolist() == boxed[20, 17].tolist() == [0, 0, 0]
    untouched = np.ones((HEIGHT, WIDTH), bool)
    untouched[6:43, 14:54] = False
    untouched[12:37, 20:48] = True
    assert np.array_equal(plain[untouched], boxed[untouched])


def test_nan_box_is_not_drawn(found: ClassActivationMap) -> None:
    plain = heat_map_overlay(GREY, found, 1)
    assert np.array_equal(heat_map_overlay(GREY, found, 1, NOTHING), plain)


def test_box_at_image_border(found: ClassActivationMap) -> None:
    drawn = heat_map_overlay(GREY, found, 1, np.array([0.0, 0.0, WIDTH - 1, HEIGHT - 1]))
    for edge in (drawn[0], drawn[-1], drawn[:, 0], drawn[:, -1]):
        assert (edge == 255).all()


def test_npz_contents(found: ClassActivationMap) -> None:
    limits = (float("-inf"), 5.0, 9.0)
    boxes = found.boxes([1, 0], limits)
    content = encode_npz(found, [1, 0], ("cat", "dog", "bird"), boxes, limits)
    with np.load(io.BytesIO(content), allow_pickle=False) as read:
        back = dict(read)
    assert np.array_equal(back.pop("maps"), found.maps[[1, 0]].numpy())
    assert np.array_equal(back.pop("boxes"), boxes, equal_nan=True)
    assert {name: values.tolist() for name, values in back.items()} == {
        "classes": [1, 0],
        "names": ["dog", "cat"],
        "probabilities": [0.5, 0.2],
        "thresholds": [float("-inf"), 5, 9],
        "size": [HEIGHT, WIDTH],
        "seen": [0, 0, HEIGHT, WIDTH],
    }
    assert np.isnan(boxes).any() and not np.isnan(boxes).all(), (
        "the test needs boxes with and without NaN"
    )

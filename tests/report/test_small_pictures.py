import io

import numpy as np
from PIL import Image

from drn_cli.data.classes import ClassSet
from drn_cli.report.small_pictures import (
    RIGHT,
    VOID,
    WRONG,
    WRONG_STRIPE,
    error_map,
    error_png,
    jpeg,
    label_png,
    small,
    small_label,
)

CLASSES = ClassSet(("a", "b"), ((10, 20, 30), (0, 0, 0)))


def opened(content: bytes) -> Image.Image:
    return Image.open(io.BytesIO(content))


def test_large_pictures_shrink_and_small_ones_stay() -> None:
    assert small(np.zeros((1024, 2048, 3), np.uint8)).shape == (320, 640, 3)
    assert small(np.zeros((2000, 10, 3), np.uint8)).shape == (640, 3, 3)
    assert small(np.zeros((48, 64, 3), np.uint8)).shape == (48, 64, 3)


def test_labels_shrink_to_labels() -> None:
    label = np.tile(np.array([0, 255], np.uint8), (900, 650))
    shrunk = small_label(label)
    assert shrunk.shape == (443, 640)
    assert set(np.unique(shrunk)) == {0, 255}


def test_the_errors_are_striped_and_the_void_is_neither() -> None:
    label = np.zeros((60, 90), np.uint8)
    label[:, 30:60] = 1
    label[:10] = 255
    errors = error_map(label, np.zeros_like(label))
    assert set(np.unique(errors[10:, :30])) == {RIGHT}
    assert set(np.unique(errors[:10])) == {VOID}
    wrong = errors[10:, 30:60]
    assert set(np.unique(wrong)) == {WRONG, WRONG_STRIPE}
    assert 0.4 < (wrong == WRONG_STRIPE).mean() < 0.6


def test_a_label_file_has_the_colours_and_is_clear_where_void() -> None:
    label = np.array([[0, 1, 255]], np.uint8)
    pixels = np.asarray(opened(label_png(label, CLASSES)).convert("RGBA"))
    assert pixels[0].tolist() == [[10, 20, 30, 255], [0, 0, 0, 255], [0, 0, 0, 0]]


def test_an_error_file_dims_what_is_right_and_marks_what_is_wrong() -> None:
    errors = np.array([[RIGHT, WRONG, WRONG_STRIPE, VOID]], np.uint8)
    right, wrong, stripe, void = np.asarray(opened(error_png(errors)).convert("RGBA"))[0].tolist()
    assert right[:3] == [0, 0, 0]
    assert 100 < right[3] < 200
    assert wrong[3] == 0
    assert stripe[3] == 255
    assert min(stripe[:2]) > 200  # bright, whatever the eye makes of its hue
    assert len(set(void[:3])) == 1


def test_pictures_are_jpegs() -> None:
    grey = np.full((20, 30, 3), 99, np.uint8)
    image = opened(jpeg(grey))
    assert (image.format, image.size) == ("JPEG", (30, 20))
    assert abs(int(np.asarray(image)[10, 10, 0]) - 99) < 3

import numpy as np

from drn_cli.data.classes import ClassSet
from drn_cli.data.showing.label_paint import STRIPE, colorize, hatch, outline, overlay

CLASSES = ClassSet(("red", "green"), ((200, 40, 40), (40, 200, 40)))


def halves() -> np.ndarray:
    """Red above green."""
    return np.repeat(np.array([0, 1], np.uint8), 10)[:, None].repeat(20, axis=1)


def test_classes_have_their_colors() -> None:
    painted = colorize(halves(), CLASSES)
    assert (painted[:10] == (200, 40, 40)).all()
    assert (painted[10:] == (40, 200, 40)).all()


def test_only_ignored_pixels_are_hatched() -> None:
    label = halves()
    label[:, :10] = 255
    for made in (
        colorize(label, CLASSES),
        overlay(np.full((20, 20, 3), 90, np.uint8), label, CLASSES),
        outline(np.full((20, 20, 3), 90, np.uint8), label, CLASSES),
    ):
        assert made.dtype == np.uint8
        ignored = made[:, :10].mean(axis=-1)
        assert ignored.max() - ignored.min() > 30
        # Along a diagonal the grey stays, across it changes.
        assert ignored[STRIPE, 0] == ignored[0, STRIPE] != ignored[0, 0]
    assert (colorize(label, CLASSES)[:, 10:] == colorize(halves(), CLASSES)[:, 10:]).all()


def test_hatching_is_translucent() -> None:
    label = np.full((8, 8), 255, np.uint8)
    dark, light = (hatch(np.full((8, 8, 3), grey, np.uint8), label) for grey in (0, 200))
    assert (light.astype(int) - dark == 50).all()


def test_overlay_blends_class_colors() -> None:
    mixed = overlay(np.full((20, 20, 3), 100, np.uint8), halves(), CLASSES)
    assert (mixed[:10] == (150, 70, 70)).all()
    assert (mixed[10:] == (70, 150, 70)).all()


def test_outline_marks_class_boundaries() -> None:
    image = np.full((20, 20, 3), 100, np.uint8)
    drawn = outline(image, halves(), CLASSES)
    assert (drawn[9] == (200, 40, 40)).all()
    assert (drawn[10] == (40, 200, 40)).all()
    assert (np.delete(drawn, [9, 10], axis=0) == 100).all()
    assert (image == 100).all()

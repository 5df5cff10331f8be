"""Label maps painted for a person to look at; what is ignored gets slanting stripes."""

import cv2
import numpy as np

from drn_cli.data import images
from drn_cli.data.classes import IGNORED, ClassSet
from drn_cli.data.images import Pixels

STRIPE = 5  # width of a stripe in pixels
DARK, LIGHT = 45, 105  # grey of the stripes


def colorize(label: Pixels, classes: ClassSet) -> Pixels:
    """Paint a label map in the colours of its classes.

    Shapes: `(H, W)` in, `(H, W, 3)` out.
    """
    return hatch(_colours(label, classes), label)


def overlay(image: Pixels, label: Pixels, classes: ClassSet) -> Pixels:
    """Lay the classes' colours over an image.

    Shapes: `(H, W, 3)` and `(H, W)` in, `(H, W, 3)` out.
    """
    return hatch(images.overlay(image, label, classes), label)


def outline(image: Pixels, label: Pixels, classes: ClassSet) -> Pixels:
    """Draw lines where classes meet, each side in its colour, over an image.

    Shapes: `(H, W, 3)` and `(H, W)` in, `(H, W, 3)` out.
    """
    around = np.ones((3, 3), np.uint8)
    border = cv2.dilate(label, around) != cv2.erode(label, around)
    return hatch(np.where(border[..., None], _colours(label, classes), image), label)


def hatch(image: Pixels, label: Pixels) -> Pixels:
    """Put stripes over ignored pixels; a quarter of the image shines through.

    Shapes: `(H, W, 3)` and `(H, W)` in, `(H, W, 3)` out.
    """
    height, width = label.shape
    diagonal = np.arange(height)[:, None] + np.arange(width)
    grey = np.where(diagonal // STRIPE % 2 == 0, DARK, LIGHT)[..., None]
    made = np.where((label == IGNORED)[..., None], (3 * grey + image) // 4, image)
    return made.astype(np.uint8)


def _colours(label: Pixels, classes: ClassSet) -> Pixels:
    colours: Pixels = np.frombuffer(classes.palette(), np.uint8).reshape(256, 3)[label]
    return colours

"""Visualization of label maps; ignored pixels are hatched."""

import cv2
import numpy as np

from drn_cli.data import images
from drn_cli.data.classes import IGNORED, ClassSet
from drn_cli.data.images import Pixels

STRIPE = 5  # width of a stripe in pixels
DARK, LIGHT = 45, 105  # gray levels of the stripes


def colorize(label: Pixels, classes: ClassSet) -> Pixels:
    """Map a label map `(H, W)` to the colors of its classes `(H, W, 3)`."""
    return hatch(_colors(label, classes), label)


def overlay(image: Pixels, label: Pixels, classes: ClassSet) -> Pixels:
    """Blend the class colors `(H, W)` over an image `(H, W, 3)`."""
    return hatch(images.overlay(image, label, classes), label)


def outline(image: Pixels, label: Pixels, classes: ClassSet) -> Pixels:
    """Draw class boundaries `(H, W)` over an image `(H, W, 3)`, each side in its class color."""
    around = np.ones((3, 3), np.uint8)
    border = cv2.dilate(label, around) != cv2.erode(label, around)
    return hatch(np.where(border[..., None], _colors(label, classes), image), label)


def hatch(image: Pixels, label: Pixels) -> Pixels:
    """Hatch the pixels of an image `(H, W, 3)` that are ignored, with an opacity of 3/4."""
    height, width = label.shape
    diagonal = np.arange(height)[:, None] + np.arange(width)
    gray = np.where(diagonal // STRIPE % 2 == 0, DARK, LIGHT)[..., None]
    hatched = np.where((label == IGNORED)[..., None], (3 * gray + image) // 4, image)
    return hatched.astype(np.uint8)


def _colors(label: Pixels, classes: ClassSet) -> Pixels:
    colors: Pixels = np.frombuffer(classes.palette(), np.uint8).reshape(256, 3)[label]
    return colors

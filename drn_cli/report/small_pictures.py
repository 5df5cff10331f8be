"""Pictures and label maps as small files for a page."""

import io
from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
from PIL import Image

from drn_cli.data.classes import IGNORED, ClassSet
from drn_cli.data.images import Pixels

LONGEST = 640  # side of a picture on the page, in pixels
QUALITY = 82

# The values of an error map.
RIGHT, WRONG, WRONG_STRIPE, VOID = range(4)
ERROR_COLOURS = ((0, 0, 0), (0, 0, 0), (255, 214, 10), (128, 128, 128))
ERROR_OPACITY = bytes((160, 0, 255, 165))  # over the picture, 0 to 255
STRIPE = 0.008  # width of a stripe, as a share of the picture's longer side


def small(image: Pixels) -> Pixels:
    """Shrink a picture until it fits on the page: `(H, W, 3)` to `(h, w, 3)`."""
    size = _small_size(*image.shape[:2])
    return np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.uint8)


def small_label(label: Pixels) -> Pixels:
    """Shrink a label map by its nearest pixels: `(H, W)` to `(h, w)`."""
    size = _small_size(*label.shape)
    return np.asarray(cv2.resize(label, size, interpolation=cv2.INTER_NEAREST_EXACT), np.uint8)


def error_map(label: Pixels, prediction: Pixels) -> Pixels:
    """Mark what is right, wrong and void; what is wrong has stripes, which need no colour.

    Shapes: `(H, W)` both, and out.
    """
    height, width = label.shape
    stripe = max(2, round(STRIPE * max(height, width)))
    diagonal = np.arange(height)[:, None] + np.arange(width)
    wrong = np.where(diagonal // stripe % 2 == 0, WRONG_STRIPE, WRONG)
    marked = np.where(label == prediction, RIGHT, wrong)
    marked[label == IGNORED] = VOID
    return marked.astype(np.uint8)


def jpeg(image: Pixels) -> bytes:
    """Encode a picture `(H, W, 3)`."""
    return _encoded(Image.fromarray(image), "JPEG", quality=QUALITY, optimize=True)


def label_png(label: Pixels, classes: ClassSet) -> bytes:
    """Encode class ids `(H, W)` in the colours of the classes; what is void is transparent."""
    opacity = bytes((255,)) * IGNORED + bytes((0,))
    return _palette_png(label, classes.palette(), opacity)


def error_png(errors: Pixels) -> bytes:
    """Encode an error map `(H, W)` to be laid over the picture."""
    return _palette_png(errors, bytes(np.asarray(ERROR_COLOURS, np.uint8)), ERROR_OPACITY)


def _palette_png(values: Pixels, palette: Sequence[int], opacity: bytes) -> bytes:
    image = Image.fromarray(values)
    image.putpalette(palette)
    return _encoded(image, "PNG", transparency=opacity, optimize=True)


def _encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def _small_size(height: int, width: int) -> tuple[int, int]:
    """Give width and height, as OpenCV wants them."""
    ratio = min(1.0, LONGEST / max(height, width))
    return max(1, round(ratio * width)), max(1, round(ratio * height))

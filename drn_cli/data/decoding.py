"""Decoding a sample: image and label map of the same size, with valid labels."""

from pathlib import Path

import cv2
import numpy as np

from drn_cli.data.classes import IGNORED
from drn_cli.data.folders import Sample
from drn_cli.data.images import Pixels, read_image, read_label
from drn_cli.data.orientation import size_error
from drn_cli.errors import DrnError


def decode(sample: Sample) -> tuple[Pixels, Pixels]:
    """Read an image and its label map.

    Shapes: `(H, W, 3)` and `(H, W)`.

    Raises:
        DrnError: A file is missing or broken, or their sizes differ.
    """
    assert sample.label is not None, "the lists were read without labels"
    image, label = read_image(sample.image), read_label(sample.label)
    if image.shape[:2] != label.shape:
        sizes = [(pixels.shape[1], pixels.shape[0]) for pixels in (label, image)]
        raise size_error(sample.label, sizes[0], sample.image, sizes[1])
    return image, label


def read_pair(sample: Sample, classes: int) -> tuple[Pixels, Pixels]:
    """Read an image and its label map, and check each label value.

    Shapes: `(H, W, 3)` and `(H, W)`.

    Raises:
        DrnError: A file is missing or broken, their sizes differ, or a label is neither a class
            nor 255.
    """
    image, label = decode(sample)
    check_labels(label, classes, sample.label)
    return image, label


def check_labels(label: Pixels, classes: int, path: Path | None) -> None:
    """Check that each value of a label map, or of a crop of one, is a class or 255.

    Raises:
        DrnError: A value is not; the message names `path`, the first invalid value and its number
            of pixels.
    """
    if classes >= IGNORED or not cv2.hasNonZero(cv2.inRange(label, (classes,), (IGNORED - 1,))):
        return
    wrong = label[(label >= classes) & (label != IGNORED)]
    raise DrnError(
        f"{path}: {np.sum(wrong == wrong[0])} pixels have the label {wrong[0]}; "
        f"labels are 0 to {classes - 1}, or 255 for ignored",
        "are these label ids instead of train ids, or is data.classes too small?",
    )

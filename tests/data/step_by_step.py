"""The augmentation step by step on whole images with Pillow, as in the original code.

It is the reference for the fast implementation, and the baseline of its benchmark.
"""

import numpy as np
from PIL import Image

from drn_cli.data.augment import AugmentParams

Pair = tuple[np.ndarray, np.ndarray]


def augment(image: np.ndarray, label: np.ndarray, draw: AugmentParams, crop: int) -> Pair:
    """Rotate, scale, crop and flip `(H, W, 3)` and `(H, W)`."""
    if draw.angle:
        image, label = rotate(image, label, draw.angle)
    if draw.ratio != 1:
        image, label = resize(image, label, draw.ratio)
    image, label = pad(image, label, crop)
    height, width = label.shape
    y, x = int(draw.down * (height - crop + 1)), int(draw.across * (width - crop + 1))
    image, label = image[y : y + crop, x : x + crop], label[y : y + crop, x : x + crop]
    if draw.mirrored:
        image, label = np.fliplr(image), np.fliplr(label)
    return image, label


def rotate(image: np.ndarray, label: np.ndarray, angle: float) -> Pair:
    """Extend the image by reflection to 3x3 copies, rotate these, and crop the center."""
    height, width = label.shape
    border = ((height, height), (width, width))
    middle = (width, height, 2 * width, 2 * height)
    padded = Image.fromarray(np.pad(image, (*border, (0, 0)), "reflect"))
    labels = Image.fromarray(np.pad(label, border, constant_values=255))
    return (
        np.asarray(padded.rotate(angle, resample=Image.Resampling.BILINEAR).crop(middle)),
        np.asarray(labels.rotate(angle, resample=Image.Resampling.NEAREST).crop(middle)),
    )


def resize(image: np.ndarray, label: np.ndarray, ratio: float) -> Pair:
    """Shrink with Lanczos, enlarge with bicubic; labels nearest. Sizes are truncated."""
    size = tuple(max(1, int(side * ratio)) for side in label.shape[::-1])
    kernel = Image.Resampling.LANCZOS if ratio < 1 else Image.Resampling.BICUBIC
    return (
        np.asarray(Image.fromarray(image).resize(size, kernel)),
        np.asarray(Image.fromarray(label).resize(size, Image.Resampling.NEAREST)),
    )


def pad(image: np.ndarray, label: np.ndarray, side: int) -> Pair:
    """Center an image smaller than the crop; pad with reflection, and the label with 255."""
    lacking = [max(0, side - length) for length in label.shape]
    border = [(lack // 2, lack - lack // 2) for lack in lacking]
    return (
        np.pad(image, (*border, (0, 0)), "reflect"),
        np.pad(label, border, constant_values=255),
    )

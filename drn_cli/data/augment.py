"""Joint augmentation of a picture and its label map.

What is drawn (`Draw`) is kept apart from how it is applied (`apply`): the draws are a function of
the seed, the epoch and the sample alone, so another way to compute the same crop trains on the
same crops.
"""

import math
from dataclasses import dataclass

import numpy as np
from PIL import Image

from drn_cli.data.classes import IGNORED
from drn_cli.data.images import Pixels


@dataclass(frozen=True, slots=True)
class Draw:
    """One sample's luck.

    Attributes:
        angle: Degrees, counter-clockwise.
        ratio: Size after scaling, relative to the picture.
        down, across: Where the crop lies, 0 (top, left) up to but without 1.
        mirrored: Whether left and right change places.
    """

    angle: int
    ratio: float
    down: float
    across: float
    mirrored: bool


@dataclass(frozen=True, slots=True)
class Augmentation:
    """Rotate, scale, crop and mirror, in this order, as the paper's code does.

    Attributes:
        crop: Side of the square crop, in pixels.
        scale: The ratio is uniform in [1/scale, scale].
        rotate: The angle is a whole number of degrees, uniform in [-rotate, rotate].
        flip: Whether to mirror with probability one half.
    """

    crop: int
    scale: float = 1.0
    rotate: int = 0
    flip: bool = True

    def draw(self, seed: int, epoch: int, index: int) -> Draw:
        """Draw for one sample of one epoch; every call with the same numbers gives the same.

        Turning one kind off leaves the others alone: all are always drawn, and the angle last,
        because how much randomness an integer takes depends on its range.
        """
        random = np.random.default_rng((seed, epoch, index))
        ratio = float(random.uniform(1 / self.scale, self.scale))
        down, across = float(random.random()), float(random.random())
        mirrored = bool(random.random() < 0.5) and self.flip
        angle = int(random.integers(-self.rotate, self.rotate, endpoint=True))
        return Draw(angle=angle, ratio=ratio, down=down, across=across, mirrored=mirrored)

    def apply(self, image: Pixels, label: Pixels, draw: Draw) -> tuple[Pixels, Pixels]:
        """Cut the crop that was drawn.

        Shapes: `(H, W, 3)` and `(H, W)` in, `(crop, crop, 3)` and `(crop, crop)` out. Beyond the
        picture's edge the picture is reflected and the label is 255.
        """
        if draw.angle:
            image, label = rotate(image, label, draw.angle)
        if draw.ratio != 1:
            image, label = resize(image, label, draw.ratio)
        image, label = pad(image, label, self.crop, self.crop)
        top = int(draw.down * (image.shape[0] - self.crop + 1))
        left = int(draw.across * (image.shape[1] - self.crop + 1))
        image = image[top : top + self.crop, left : left + self.crop]
        label = label[top : top + self.crop, left : left + self.crop]
        if draw.mirrored:
            image, label = image[:, ::-1], label[:, ::-1]
        return np.ascontiguousarray(image), np.ascontiguousarray(label)


def rotate(image: Pixels, label: Pixels, angle: int) -> tuple[Pixels, Pixels]:
    """Turn by `angle` degrees about the centre, keeping the size: bilinear, label nearest."""
    height, width = label.shape
    # As much border as can turn into view; a pixel more feeds the interpolation.
    sine, cosine = abs(math.sin(math.radians(angle))), abs(math.cos(math.radians(angle)))
    down = max(0, math.ceil((width * sine + height * (cosine - 1)) / 2)) + 2
    across = max(0, math.ceil((height * sine + width * (cosine - 1)) / 2)) + 2
    image, label = _border(image, label, (down, down), (across, across))
    inside = (across, down, across + width, down + height)
    turned = Image.fromarray(image).rotate(angle, Image.Resampling.BILINEAR).crop(inside)
    labels = Image.fromarray(label).rotate(angle, Image.Resampling.NEAREST, fillcolor=IGNORED)
    return np.asarray(turned), np.asarray(labels.crop(inside))


def resize(image: Pixels, label: Pixels, ratio: float) -> tuple[Pixels, Pixels]:
    """Scale by `ratio`, sizes truncated: Lanczos to shrink, bicubic to grow, label nearest."""
    size = (max(1, int(ratio * label.shape[1])), max(1, int(ratio * label.shape[0])))
    kernel = Image.Resampling.LANCZOS if ratio < 1 else Image.Resampling.BICUBIC
    return (
        np.asarray(Image.fromarray(image).resize(size, kernel)),
        np.asarray(Image.fromarray(label).resize(size, Image.Resampling.NEAREST)),
    )


def pad(image: Pixels, label: Pixels, height: int, width: int) -> tuple[Pixels, Pixels]:
    """Bring a picture to at least `height` by `width`, centred."""
    below, right = (
        max(0, want - have) for want, have in zip((height, width), label.shape, strict=True)
    )
    if not below and not right:
        return image, label
    top, left = below // 2, right // 2
    return _border(image, label, (top, below - top), (left, right - left))


def _border(
    image: Pixels, label: Pixels, rows: tuple[int, int], columns: tuple[int, int]
) -> tuple[Pixels, Pixels]:
    """Reflect the picture about its edge pixels, as often as it takes; the label gets 255."""
    return (
        np.pad(image, (rows, columns, (0, 0)), mode="reflect"),
        np.pad(label, (rows, columns), constant_values=IGNORED),
    )

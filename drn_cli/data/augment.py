"""Joint augmentation of an image and its label map.

What is drawn (`Draw`) is kept apart from how it is applied (`apply`): the draws are a function of
the seed, the epoch and the sample alone, so another way to compute the same crop trains on the
same crops.
"""

from dataclasses import dataclass

import cv2
import numpy as np

from drn_cli.data.classes import IGNORED
from drn_cli.data.images import Pixels
from drn_cli.data.window import AxisSpan, CropWindow, crop, scaled_length


@dataclass(frozen=True, slots=True)
class AugmentParams:
    """One sample's luck.

    Attributes:
        angle: Degrees, counter-clockwise.
        ratio: Size after scaling, relative to the image.
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

    def draw(self, seed: int, epoch: int, index: int) -> AugmentParams:
        """Draw for one sample of one epoch; every call with the same numbers gives the same.

        Turning one kind off leaves the others alone: all are always drawn, and the angle last,
        because how much randomness an integer takes depends on its range.
        """
        random = np.random.default_rng((seed, epoch, index))
        ratio = float(random.uniform(1 / self.scale, self.scale))
        down, across = float(random.random()), float(random.random())
        mirrored = bool(random.random() < 0.5) and self.flip
        angle = int(random.integers(-self.rotate, self.rotate, endpoint=True))
        return AugmentParams(angle=angle, ratio=ratio, down=down, across=across, mirrored=mirrored)

    def apply(self, image: Pixels, label: Pixels, draw: AugmentParams) -> tuple[Pixels, Pixels]:
        """Cut the crop that was drawn.

        Shapes: `(H, W, 3)` and `(H, W)` in, `(crop, crop, 3)` and `(crop, crop)` out. Beyond the
        image's edge the image is reflected and the label is 255.
        """
        (rows, above), (columns, before) = (
            self._place(scaled_length(length, draw.ratio), at)
            for length, at in zip(label.shape, (draw.down, draw.across), strict=True)
        )
        image, label = crop(image, label, draw.angle, draw.ratio, CropWindow(rows, columns))
        image, label = self._pad(image, label, above, before)
        if draw.mirrored:
            image = np.asarray(cv2.flip(image, 1), np.uint8)
            label = np.asarray(cv2.flip(label, 1), np.uint8)
        return np.ascontiguousarray(image), np.ascontiguousarray(label)

    def _place(self, length: int, at: float) -> tuple[AxisSpan, int]:
        """Choose rows or columns of a resized image, and how much goes before them.

        An image smaller than the crop is centred.
        """
        if length < self.crop:
            return AxisSpan(0, length), (self.crop - length) // 2
        start = int(at * (length - self.crop + 1))
        return AxisSpan(start, start + self.crop), 0

    def _pad(self, image: Pixels, label: Pixels, above: int, before: int) -> tuple[Pixels, Pixels]:
        """Bring a window to the size of the crop."""
        height, width = label.shape
        if height == width == self.crop:
            return image, label
        sides = (above, self.crop - height - above, before, self.crop - width - before)
        padded = cv2.copyMakeBorder(image, *sides, cv2.BORDER_REFLECT_101)
        labels = cv2.copyMakeBorder(label, *sides, cv2.BORDER_CONSTANT, value=(IGNORED,))
        return np.asarray(padded, np.uint8), np.asarray(labels, np.uint8)

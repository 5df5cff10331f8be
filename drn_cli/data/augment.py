"""Joint augmentation of an image and its label map.

Random parameters (`AugmentParams`) are separate from their application (`apply`): they are a
function of seed, epoch and sample alone, so every implementation of `apply` trains on the same
crops.
"""

from dataclasses import dataclass

import cv2
import numpy as np

from drn_cli.data.classes import IGNORED
from drn_cli.data.images import Pixels
from drn_cli.data.window import AxisSpan, CropWindow, crop, scaled_length


@dataclass(frozen=True, slots=True)
class AugmentParams:
    """Random parameters of one sample."""

    angle: int  # degrees, counterclockwise
    ratio: float  # size after scaling, relative to the image
    down: float  # position of the crop from the top, in 0..1 (exclusive)
    across: float  # likewise from the left
    mirrored: bool  # flipped horizontally


@dataclass(frozen=True, slots=True)
class Augmentation:
    """Rotate, scale, crop and flip, in this order, as in the paper's code."""

    crop: int  # side of the square crop, in pixels
    scale: float = 1.0  # largest ratio, which is uniform in [1/scale, scale]
    rotate: int = 0  # largest angle, an integer in degrees, uniform in [-rotate, rotate]
    flip: bool = True  # horizontally, with probability 0.5

    def draw(self, seed: int, epoch: int, index: int) -> AugmentParams:
        """Draw the parameters of a sample in an epoch, a pure function of the arguments.

        Disabling one augmentation does not change the others: all are always drawn, the angle last,
        because the number of random bits that an integer consumes depends on its range.
        """
        random = np.random.default_rng((seed, epoch, index))
        ratio = float(random.uniform(1 / self.scale, self.scale))
        down, across = float(random.random()), float(random.random())
        mirrored = bool(random.random() < 0.5) and self.flip
        angle = int(random.integers(-self.rotate, self.rotate, endpoint=True))
        return AugmentParams(angle=angle, ratio=ratio, down=down, across=across, mirrored=mirrored)

    def apply(self, image: Pixels, label: Pixels, params: AugmentParams) -> tuple[Pixels, Pixels]:
        """Return the augmented crops of an image and its label map.

        Shapes: `(H, W, 3)` and `(H, W)` to `(crop, crop, 3)` and `(crop, crop)`. Beyond the edges,
        the image is reflected and the label is 255.
        """
        (rows, above), (columns, before) = (
            self._place(scaled_length(length, params.ratio), at)
            for length, at in zip(label.shape, (params.down, params.across), strict=True)
        )
        image, label = crop(image, label, params.angle, params.ratio, CropWindow(rows, columns))
        image, label = self._pad(image, label, above, before)
        if params.mirrored:
            image = np.asarray(cv2.flip(image, 1), np.uint8)
            label = np.asarray(cv2.flip(label, 1), np.uint8)
        return np.ascontiguousarray(image), np.ascontiguousarray(label)

    def _place(self, length: int, at: float) -> tuple[AxisSpan, int]:
        """Return the rows or columns of the crop, and the padding before them.

        An image smaller than the crop is centered.
        """
        if length < self.crop:
            return AxisSpan(0, length), (self.crop - length) // 2
        start = int(at * (length - self.crop + 1))
        return AxisSpan(start, start + self.crop), 0

    def _pad(self, image: Pixels, label: Pixels, above: int, before: int) -> tuple[Pixels, Pixels]:
        """Pad a window to the size of the crop."""
        height, width = label.shape
        if height == width == self.crop:
            return image, label
        sides = (above, self.crop - height - above, before, self.crop - width - before)
        padded = cv2.copyMakeBorder(image, *sides, cv2.BORDER_REFLECT_101)
        labels = cv2.copyMakeBorder(label, *sides, cv2.BORDER_CONSTANT, value=(IGNORED,))
        return np.asarray(padded, np.uint8), np.asarray(labels, np.uint8)

"""Crops of image classification: random resized crops for training, fixed crops for evaluation.

Equivalent to torchvision's RandomResizedCrop, Resize, CenterCrop and TenCrop: bilinear with
anti-aliasing. As in `augment`, random parameters are separate from their application.

Images are resampled by PyTorch's uint8 kernel, which torchvision uses for tensors: same values in
half of torchvision's time. Pillow takes four times as long and rounds some values differently;
OpenCV's linear filter is faster but has no anti-aliasing, and its area filter differs. Images are
decoded at full size: from a JPEG decoded at half size, a crop of 224 out of 600 pixels differs by
up to 6 of 255. `benchmarks/classification_input.py` measures all of this.
"""

import math
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from torch.nn import functional as F

from drn_cli.data.images import Pixels

AREA = (0.08, 1.0)  # relative to the image's area
ASPECT = (3 / 4, 4 / 3)  # width over height
TRIES = 10


@dataclass(frozen=True, slots=True)
class CropParams:
    """Random parameters of one sample: the part of the image that is resized, in pixels."""

    top: int
    left: int
    height: int
    width: int
    mirrored: bool  # flipped horizontally


@dataclass(frozen=True, slots=True)
class ResizedCrop:
    """Crop a window of random area, aspect ratio and position, resize it to a square, flip it."""

    crop: int = 224  # side of the output, in pixels
    flip: bool = True  # horizontally, with probability 0.5

    def draw(self, seed: int, epoch: int, index: int, height: int, width: int) -> CropParams:
        """Draw the parameters of a sample in an epoch, a pure function of the arguments.

        The area is uniform in 8% to 100% of the image's, and the aspect ratio log-uniform in 3/4 to
        4/3. If ten windows in a row do not fit into the image, the largest centered window with an
        aspect ratio in this range is used.

        Args:
            seed: Seed of the run.
            epoch: Epoch number.
            index: Sample number.
            height: Image height in pixels.
            width: Image width in pixels.
        """
        random = np.random.default_rng((seed, epoch, index))
        # Drawn first, because the number of tries depends on the shape of the image.
        mirrored = bool(random.random() < 0.5) and self.flip
        narrow, wide = (math.log(aspect) for aspect in ASPECT)
        # One call for all tries is faster than one per try.
        for size, shape, at, beside in random.random((TRIES, 4)).tolist():
            area = height * width * (AREA[0] + size * (AREA[1] - AREA[0]))
            aspect = math.exp(narrow + shape * (wide - narrow))
            across, down = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
            if 0 < across <= width and 0 < down <= height:
                top, left = int(at * (height - down + 1)), int(beside * (width - across + 1))
                return CropParams(top, left, down, across, mirrored)
        narrowest, widest = ASPECT
        down = min(height, round(width / narrowest))
        across = min(width, round(height * widest))
        return CropParams((height - down) // 2, (width - across) // 2, down, across, mirrored)

    def apply(self, image: Pixels, params: CropParams) -> Pixels:
        """Return the resized crop: `(H, W, 3)` to `(crop, crop, 3)`."""
        rows = slice(params.top, params.top + params.height)
        columns = slice(params.left, params.left + params.width)
        resized = resample(image[rows, columns], self.crop, self.crop)
        return mirror(resized) if params.mirrored else resized


def center_crop(image: Pixels, size: int = 224, resize: int = 256) -> Pixels:
    """Resize the shorter side to `resize` pixels and crop the center.

    Shapes: `(H, W, 3)` to `(size, size, 3)`. Smaller images are padded with black.
    """
    whole = _pad(resize_shorter_side(image, resize), size)
    return np.ascontiguousarray(_center(whole, size))


def ten_crops(image: Pixels, size: int = 224, resize: int = 256) -> Pixels:
    """Resize the shorter side to `resize` pixels and crop the corners and the center.

    Shapes: `(H, W, 3)` to `(10, size, size, 3)`: top left, top right, bottom left, bottom right,
    center, and the same of the flipped image.
    """
    whole = _pad(resize_shorter_side(image, resize), size)
    crops = []
    for view in (whole, mirror(whole)):
        for rows in (slice(size), slice(view.shape[0] - size, None)):
            for columns in (slice(size), slice(view.shape[1] - size, None)):
                crops.append(view[rows, columns])
        crops.append(_center(view, size))
    return np.stack(crops)


def resample(image: Pixels, height: int, width: int) -> Pixels:
    """Resize an image, bilinear with anti-aliasing: `(H, W, 3)` to `(height, width, 3)`."""
    if image.shape[:2] == (height, width):
        return np.ascontiguousarray(image)
    image = np.require(image, requirements=["C", "W"])  # required by torch
    rows, columns, channels = image.shape
    # A view as (1, 3, H, W) in channels-last layout. PyTorch only recognizes this layout, and reads
    # it without a copy, if the batch stride is given as well.
    strides = (image.size, 1, columns * channels, channels)
    pixels = torch.from_numpy(image).as_strided((1, channels, rows, columns), strides)
    resized = F.interpolate(pixels, (height, width), mode="bilinear", antialias=True)
    return np.ascontiguousarray(resized[0].permute(1, 2, 0).numpy())


def mirror(image: Pixels) -> Pixels:
    """Flip an image `(H, W, 3)` horizontally."""
    return np.asarray(cv2.flip(image, 1), np.uint8)


def resize_shorter_side(image: Pixels, side: int) -> Pixels:
    """Resize an image `(H, W, 3)`, keeping its aspect ratio, to a shorter side of `side` pixels."""
    height, width = image.shape[:2]
    longer = int(side * max(height, width) / min(height, width))
    return resample(image, longer, side) if height > width else resample(image, side, longer)


def _pad(image: Pixels, side: int) -> Pixels:
    """Pad an image with black to at least `side` by `side`, centered."""
    missing = [max(0, side - length) for length in image.shape[:2]]
    if not any(missing):
        return image
    return np.pad(image, (*((n // 2, n - n // 2) for n in missing), (0, 0)))


def _center(image: Pixels, side: int) -> Pixels:
    """Crop the center; halves are rounded to even, as in torchvision."""
    top, left = (round((length - side) / 2) for length in image.shape[:2])
    return image[top : top + side, left : left + side]

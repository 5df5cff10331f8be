"""How a classifier sees an image: random resized crops to train on, fixed crops to be tested on.

The meaning is that of torchvision's RandomResizedCrop, Resize, CenterCrop and TenCrop: bilinear
with anti-aliasing. As in `augment`, what is drawn is kept apart from how it is applied.

The resampling is PyTorch's own for uint8, the one behind torchvision's tensors: it gives their
very values in half their time. Pillow takes four times as long and rounds some values to the next.
OpenCV's linear filter is quicker but has no anti-aliasing, and its area filter is another one.
Images are decoded whole: from a JPEG decoded at half its size, a crop of 224 out of 600 pixels is
off by up to 6 of 255. `benchmarks/classification_input.py` measures all of this.
"""

import math
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from torch.nn import functional as F

from drn_cli.data.images import Pixels

AREA = (0.08, 1.0)  # of the image's area
ASPECT = (3 / 4, 4 / 3)  # width over height
TRIES = 10


@dataclass(frozen=True, slots=True)
class CropParams:
    """One sample's luck: the part of an image that becomes the crop, in pixels.

    Attributes:
        top, left: Its upper left corner.
        height, width: Its size.
        mirrored: Whether left and right change places.
    """

    top: int
    left: int
    height: int
    width: int
    mirrored: bool


@dataclass(frozen=True, slots=True)
class ResizedCrop:
    """Cut a window of random area, shape and place, bring it to one size, and mirror it.

    Attributes:
        crop: Side of the square that comes out, in pixels.
        flip: Whether to mirror with probability one half.
    """

    crop: int = 224
    flip: bool = True

    def draw(self, seed: int, epoch: int, index: int, height: int, width: int) -> CropParams:
        """Draw for one sample of one epoch; every call with the same numbers gives the same.

        The area is uniform in 8% to 100% of the image's, the logarithm of the aspect ratio in
        that of 3/4 to 4/3. If ten such windows do not fit into the image, it is the largest
        centred one whose aspect ratio is in these limits.

        Args:
            seed: Of the run.
            epoch: The epoch.
            index: The sample.
            height: Of the image, in pixels.
            width: Of the image, in pixels.
        """
        random = np.random.default_rng((seed, epoch, index))
        # Before the tries: how many it takes depends on the image's shape.
        mirrored = bool(random.random() < 0.5) and self.flip
        narrow, wide = (math.log(aspect) for aspect in ASPECT)
        # The numbers of all tries at once: a call costs more than they do.
        for size, shape, at, beside in random.random((TRIES, 4)).tolist():
            area = height * width * (AREA[0] + size * (AREA[1] - AREA[0]))
            aspect = math.exp(narrow + shape * (wide - narrow))
            across, down = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
            if 0 < across <= width and 0 < down <= height:
                top, left = int(at * (height - down + 1)), int(beside * (width - across + 1))
                return CropParams(top, left, down, across, mirrored)
        down, across = _largest(height, width)
        return CropParams((height - down) // 2, (width - across) // 2, down, across, mirrored)

    def apply(self, image: Pixels, window: CropParams) -> Pixels:
        """Cut the window that was drawn.

        Shapes: `(H, W, 3)` in, `(crop, crop, 3)` out.
        """
        rows = slice(window.top, window.top + window.height)
        columns = slice(window.left, window.left + window.width)
        made = resample(image[rows, columns], self.crop, self.crop)
        return mirror(made) if window.mirrored else made


def center_crop(image: Pixels, size: int = 224, resize: int = 256) -> Pixels:
    """Bring the shorter side to `resize` pixels and cut out the centre.

    Shapes: `(H, W, 3)` in, `(size, size, 3)` out; black where the image does not reach.
    """
    whole = _pad(resize_shorter_side(image, resize), size)
    return np.ascontiguousarray(_centre(whole, size))


def ten_crops(image: Pixels, size: int = 224, resize: int = 256) -> Pixels:
    """Bring the shorter side to `resize` pixels and cut out the corners and the centre.

    Shapes: `(H, W, 3)` in, `(10, size, size, 3)` out: top left, top right, bottom left, bottom
    right, centre, and the same of the mirrored image.
    """
    whole = _pad(resize_shorter_side(image, resize), size)
    crops = []
    for view in (whole, mirror(whole)):
        for rows in (slice(size), slice(view.shape[0] - size, None)):
            for columns in (slice(size), slice(view.shape[1] - size, None)):
                crops.append(view[rows, columns])
        crops.append(_centre(view, size))
    return np.stack(crops)


def resample(image: Pixels, height: int, width: int) -> Pixels:
    """Bring an image to a size: bilinear, anti-aliased where it shrinks.

    Shapes: `(H, W, 3)` in, `(height, width, 3)` out.
    """
    if image.shape[:2] == (height, width):
        return np.ascontiguousarray(image)
    image = np.require(image, requirements=["C", "W"])  # torch takes no other memory
    rows, columns, channels = image.shape
    # The pixels as they lie, seen as (1, 3, H, W). PyTorch recognises this layout, works on it
    # without a copy and answers in it only when the stride of the batch is told too.
    strides = (image.size, 1, columns * channels, channels)
    pixels = torch.from_numpy(image).as_strided((1, channels, rows, columns), strides)
    made = F.interpolate(pixels, (height, width), mode="bilinear", antialias=True)
    return np.ascontiguousarray(made[0].permute(1, 2, 0).numpy())


def mirror(image: Pixels) -> Pixels:
    """Swap left and right: `(H, W, 3)` in and out."""
    return np.asarray(cv2.flip(image, 1), np.uint8)


def _largest(height: int, width: int) -> tuple[int, int]:
    """Give height and width of the largest window whose aspect ratio is in the limits."""
    narrowest, widest = ASPECT
    if width < narrowest * height:
        return round(width / narrowest), width
    if width > widest * height:
        return height, round(height * widest)
    return height, width


def resize_shorter_side(image: Pixels, side: int) -> Pixels:
    """Bring the shorter side to some pixels: `(H, W, 3)` in, of the same shape but for its size."""
    height, width = image.shape[:2]
    longer = int(side * max(height, width) / min(height, width))
    return resample(image, longer, side) if height > width else resample(image, side, longer)


def _pad(image: Pixels, side: int) -> Pixels:
    """Bring an image to at least `side` by `side`, centred on black."""
    lacking = [max(0, side - have) for have in image.shape[:2]]
    if not any(lacking):
        return image
    before = [lack // 2 for lack in lacking]
    borders = [(part, lack - part) for part, lack in zip(before, lacking, strict=True)]
    return np.pad(image, (*borders, (0, 0)))


def _centre(image: Pixels, side: int) -> Pixels:
    """Cut out the centre; halves are rounded to the even number, as torchvision does."""
    top, left = (round((have - side) / 2) for have in image.shape[:2])
    return image[top : top + side, left : left + side]

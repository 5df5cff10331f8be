"""A window of a rotated and resized image, computed from no more of the image than it shows.

A window is that of the whole image treated step by step as the DRN code does with Pillow: rotate
about the centre and keep the size (bilinear, the image reflected beyond its edges), then resize
(Lanczos to shrink, bicubic to grow). The filters and their order are kept, so that crops stay
comparable with those of published networks; only the pixels that nobody looks at are left out.
Labels go the same ways to their nearest pixel, and are 255 beyond the edges.
"""

import math
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image

from drn_cli.data.classes import IGNORED
from drn_cli.data.images import Pixels

SUPPORT = {Image.Resampling.LANCZOS: 3, Image.Resampling.BICUBIC: 2}  # pixels to either side


@dataclass(frozen=True, slots=True)
class AxisSpan:
    """Rows or columns from `start` up to but without `stop`."""

    start: int
    stop: int

    def __len__(self) -> int:
        return self.stop - self.start


@dataclass(frozen=True, slots=True)
class CropWindow:
    """Rows and columns of an image."""

    rows: AxisSpan
    columns: AxisSpan

    def of(self, pixels: Pixels) -> Pixels:
        """Cut it out, without copying. It must lie inside."""
        return pixels[self.rows.start : self.rows.stop, self.columns.start : self.columns.stop]


def scaled_length(length: int, ratio: float) -> int:
    """Give a side after resizing: truncated, as in the original, but never 0."""
    return max(1, int(ratio * length))


def crop(
    image: Pixels, label: Pixels, angle: float, ratio: float, window: CropWindow
) -> tuple[Pixels, Pixels]:
    """Cut a window out of an image and its label, rotated and then resized.

    Args:
        image: `(H, W, 3)`.
        label: `(H, W)`.
        angle: Degrees, counter-clockwise.
        ratio: Size after resizing, relative to the image.
        window: In pixels of the resized image, inside it.

    Returns:
        Shapes `(rows, columns, 3)` and `(rows, columns)`; they may share the given memory.
    """
    if ratio == 1:
        return _turned_image(image, angle, window), _turned_label(label, angle, window)
    return _resized_image(image, angle, ratio, window), _resized_label(label, angle, ratio, window)


def _resized_image(image: Pixels, angle: float, ratio: float, window: CropWindow) -> Pixels:
    """Resize what the filter needs of the rotated image; Pillow leaves out the rest."""
    kernel = Image.Resampling.LANCZOS if ratio < 1 else Image.Resampling.BICUBIC
    needed, places = zip(
        *(
            _source(span, length, ratio, SUPPORT[kernel])
            for span, length in zip((window.rows, window.columns), image.shape, strict=False)
        ),
        strict=True,
    )
    turned = Image.fromarray(_turned_image(image, angle, CropWindow(*needed)))
    (top, bottom), (left, right) = places
    size = (len(window.columns), len(window.rows))
    return np.asarray(turned.resize(size, kernel, box=(left, top, right, bottom)))


def _source(
    span: AxisSpan, length: int, ratio: float, support: int
) -> tuple[AxisSpan, tuple[float, float]]:
    """Find where rows or columns of the resized image come from.

    Returns:
        What of the image the filter sees, and the span's own place in that, without the
        filter's margins.
    """
    step = length / scaled_length(length, ratio)
    margin = support * max(1.0, step) + 1
    start, stop = span.start * step, min(span.stop * step, length)
    seen = AxisSpan(max(0, math.floor(start - margin)), min(length, math.ceil(stop + margin)))
    return seen, (start - seen.start, stop - seen.start)


def _resized_label(label: Pixels, angle: float, ratio: float, window: CropWindow) -> Pixels:
    """Look up the nearest pixel of the rotated label for each row and column."""
    rows, columns = (
        _nearest(span, length, ratio)
        for span, length in zip((window.rows, window.columns), label.shape, strict=True)
    )
    inside = CropWindow(AxisSpan(rows[0], rows[-1] + 1), AxisSpan(columns[0], columns[-1] + 1))
    turned = _turned_label(label, angle, inside)
    chosen: Pixels = turned[(rows - rows[0])[:, None], columns - columns[0]]
    return chosen


def _nearest(span: AxisSpan, length: int, ratio: float) -> npt.NDArray[np.intp]:
    """Give the nearest row or column of the image for each of the resized image's.

    Steps are added up as Pillow does: with ratios such as 3/4 a place falls between two pixels,
    and the sum's last bit decides.
    """
    steps = np.full(span.stop, length / scaled_length(length, ratio))
    steps[0] /= 2
    places = np.cumsum(steps)[span.start :].astype(np.intp)
    return np.minimum(places, length - 1)


def _turned_image(image: Pixels, angle: float, window: CropWindow) -> Pixels:
    return _turned(image, angle, window, cv2.INTER_LINEAR, cv2.BORDER_REFLECT_101)


def _turned_label(label: Pixels, angle: float, window: CropWindow) -> Pixels:
    return _turned(label, angle, window, cv2.INTER_NEAREST, cv2.BORDER_CONSTANT)


def _turned(pixels: Pixels, angle: float, window: CropWindow, filter_: int, border: int) -> Pixels:
    """Cut a window out of the image rotated about its centre."""
    if angle % 360 == 0:
        return window.of(pixels)
    height, width = pixels.shape[:2]
    sine, cosine = math.sin(math.radians(angle)), math.cos(math.radians(angle))
    turn = np.array([[cosine, -sine], [sine, cosine]])  # (x, y) of the window to (x, y) below
    centre = np.array([(width - 1) / 2, (height - 1) / 2])
    corner = np.array([window.columns.start, window.rows.start])
    start = turn @ (corner - centre) + centre
    # Only rows and columns that the window comes from: OpenCV takes sides up to 32767.
    reach = (
        turn
        @ np.array(
            [(x, y) for x in (0, len(window.columns) - 1) for y in (0, len(window.rows) - 1)]
        ).T
        + start[:, None]
    )
    columns, rows = (
        _reflected(math.floor(low), math.ceil(high), length)
        for low, high, length in zip(reach.min(1), reach.max(1), (width, height), strict=True)
    )
    shift = start - (columns.start, rows.start)
    return np.asarray(
        cv2.warpAffine(
            CropWindow(rows, columns).of(pixels),
            np.column_stack([turn, shift]),
            (len(window.columns), len(window.rows)),
            flags=filter_ | cv2.WARP_INVERSE_MAP,
            borderMode=border,
            borderValue=(IGNORED,) * 3,
        ),
        np.uint8,
    )


def _reflected(low: int, high: int, length: int) -> AxisSpan:
    """Give the part of 0..length that the places low to high, reflected at both ends, can meet.

    A part that is cut off on one side is never looked at beyond that cut.
    """
    low, high = low - 1, high + 1  # the filter's neighbours, and roundings
    start, stop = max(0, low), min(length, high + 1)
    if low < 0:
        stop = max(stop, 1 - low)
    if high >= length:
        start = min(start, 2 * (length - 1) - high)
    start, stop = max(0, start), min(length, stop)
    return AxisSpan(start, stop)

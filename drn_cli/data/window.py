"""Crops of a rotated and resized image, computed only from the pixels that they need.

The result equals a crop of the whole image transformed with Pillow as in the DRN code: rotate about
the center, keeping the size (bilinear, with reflection at the edges), then resize (Lanczos to
shrink, bicubic to enlarge). Filters and their order are kept so that crops stay comparable with
those of published networks. Labels are transformed with nearest-neighbor interpolation, with 255
beyond the edges.
"""

import math
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image

from drn_cli.data.classes import IGNORED
from drn_cli.data.images import Pixels

SUPPORT = {Image.Resampling.LANCZOS: 3, Image.Resampling.BICUBIC: 2}  # filter radius in pixels


@dataclass(frozen=True, slots=True)
class AxisSpan:
    """Rows or columns from `start` up to, but excluding, `stop`."""

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
        """Return a view of these rows and columns, which have to lie inside."""
        return pixels[self.rows.start : self.rows.stop, self.columns.start : self.columns.stop]


def scaled_length(length: int, ratio: float) -> int:
    """Return a side length after resizing: truncated, as in the original code, but at least 1."""
    return max(1, int(ratio * length))


def crop(
    image: Pixels, label: Pixels, angle: float, ratio: float, window: CropWindow
) -> tuple[Pixels, Pixels]:
    """Rotate and resize an image and its label, and crop a window of the result.

    Args:
        image: `(H, W, 3)`.
        label: `(H, W)`.
        angle: Degrees, counterclockwise.
        ratio: Size after resizing, relative to the image.
        window: In pixels of the resized image, inside it.

    Returns:
        Arrays `(rows, columns, 3)` and `(rows, columns)`, perhaps views of the inputs.
    """
    if ratio == 1:
        return _rotate_image(image, angle, window), _rotate_label(label, angle, window)
    return _resize_image(image, angle, ratio, window), _resize_label(label, angle, ratio, window)


def _resize_image(image: Pixels, angle: float, ratio: float, window: CropWindow) -> Pixels:
    """Rotate only the part of the image that the resampling filter needs, then resize it."""
    kernel = Image.Resampling.LANCZOS if ratio < 1 else Image.Resampling.BICUBIC
    needed, boxes = zip(
        *(
            _source(span, length, ratio, SUPPORT[kernel])
            for span, length in zip((window.rows, window.columns), image.shape, strict=False)
        ),
        strict=True,
    )
    rotated = Image.fromarray(_rotate_image(image, angle, CropWindow(*needed)))
    (top, bottom), (left, right) = boxes
    size = (len(window.columns), len(window.rows))
    return np.asarray(rotated.resize(size, kernel, box=(left, top, right, bottom)))


def _source(
    span: AxisSpan, length: int, ratio: float, support: int
) -> tuple[AxisSpan, tuple[float, float]]:
    """Return the source of rows or columns of the resized image.

    Returns:
        The rows or columns of the image that the filter reads, and the start and stop of the span
        relative to these, without the filter's margins.
    """
    step = length / scaled_length(length, ratio)
    margin = support * max(1.0, step) + 1
    start, stop = span.start * step, min(span.stop * step, length)
    needed = AxisSpan(max(0, math.floor(start - margin)), min(length, math.ceil(stop + margin)))
    return needed, (start - needed.start, stop - needed.start)


def _resize_label(label: Pixels, angle: float, ratio: float, window: CropWindow) -> Pixels:
    """Rotate and resize a label with nearest-neighbor interpolation."""
    rows, columns = (
        _nearest(span, length, ratio)
        for span, length in zip((window.rows, window.columns), label.shape, strict=True)
    )
    inside = CropWindow(AxisSpan(rows[0], rows[-1] + 1), AxisSpan(columns[0], columns[-1] + 1))
    rotated = _rotate_label(label, angle, inside)
    resized: Pixels = rotated[(rows - rows[0])[:, None], columns - columns[0]]
    return resized


def _nearest(span: AxisSpan, length: int, ratio: float) -> npt.NDArray[np.intp]:
    """Return the nearest row or column of the image for each one of the resized image.

    Steps are accumulated as in Pillow: at ratios such as 3/4, positions fall between two pixels
    and the last bit of the sum decides.
    """
    steps = np.full(span.stop, length / scaled_length(length, ratio))
    steps[0] /= 2
    positions = np.cumsum(steps)[span.start :].astype(np.intp)
    return np.minimum(positions, length - 1)


def _rotate_image(image: Pixels, angle: float, window: CropWindow) -> Pixels:
    return _rotate(image, angle, window, cv2.INTER_LINEAR, cv2.BORDER_REFLECT_101)


def _rotate_label(label: Pixels, angle: float, window: CropWindow) -> Pixels:
    return _rotate(label, angle, window, cv2.INTER_NEAREST, cv2.BORDER_CONSTANT)


def _rotate(pixels: Pixels, angle: float, window: CropWindow, filter_: int, border: int) -> Pixels:
    """Return a window of the image rotated about its center."""
    if angle % 360 == 0:
        return window.of(pixels)
    height, width = pixels.shape[:2]
    sine, cosine = math.sin(math.radians(angle)), math.cos(math.radians(angle))
    rotation = np.array([[cosine, -sine], [sine, cosine]])  # (x, y) of the window to the image
    center = np.array([(width - 1) / 2, (height - 1) / 2])
    corner = np.array([window.columns.start, window.rows.start])
    start = rotation @ (corner - center) + center
    # Only the rows and columns that the window reads: OpenCV accepts sides up to 32767.
    corners = (
        rotation
        @ np.array(
            [(x, y) for x in (0, len(window.columns) - 1) for y in (0, len(window.rows) - 1)]
        ).T
        + start[:, None]
    )
    columns, rows = (
        _reflected_span(math.floor(low), math.ceil(high), length)
        for low, high, length in zip(corners.min(1), corners.max(1), (width, height), strict=True)
    )
    shift = start - (columns.start, rows.start)
    return np.asarray(
        cv2.warpAffine(
            CropWindow(rows, columns).of(pixels),
            np.column_stack([rotation, shift]),
            (len(window.columns), len(window.rows)),
            flags=filter_ | cv2.WARP_INVERSE_MAP,
            borderMode=border,
            borderValue=(IGNORED,) * 3,
        ),
        np.uint8,
    )


def _reflected_span(low: int, high: int, length: int) -> AxisSpan:
    """Return the part of 0..length read by positions low to high, reflected at both ends.

    An end that is cut off lies beyond all positions read, so OpenCV's reflection is not affected.
    """
    low, high = low - 1, high + 1  # neighbors that the filter reads, and rounding
    start, stop = max(0, low), min(length, high + 1)
    if low < 0:
        stop = max(stop, 1 - low)
    if high >= length:
        start = min(start, 2 * (length - 1) - high)
    return AxisSpan(max(0, start), min(length, stop))

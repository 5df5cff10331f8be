"""Layout of a contact sheet: rows of small images with captions, a title and a legend."""

from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import zip_longest

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from drn_cli.data.images import Pixels

# In pixels of the sheet.
TALLEST, WIDEST = 220, 440  # of a cell: a sheet of 2048x1024 images stays a few megabytes
NARROWEST = 200  # minimum width of a column, for the captions
ACROSS = 6  # cells in a row
GAP, MARGIN = 10, 16
TEXT, TITLE = 13, 18  # font sizes
LINE = 20  # height of a line of text
SWATCH = 14  # side of a color in the legend

INK, PAPER = (32, 32, 32), (255, 255, 255)


@dataclass(frozen=True, slots=True)
class Cell:
    """A small image, uint8 `(H, W, 3)`, and its caption."""

    pixels: Pixels
    caption: str


@dataclass(frozen=True, slots=True)
class LegendEntry:
    """A name and its swatch, uint8 `(SWATCH, SWATCH, 3)`."""

    name: str
    swatch: Pixels


def thumbnail(image: Pixels) -> Pixels:
    """Resize an image to fit a cell: `(H, W, 3)` to `(h, w, 3)`."""
    size = _cell_size(*image.shape[:2])
    kind = cv2.INTER_AREA if size[1] < image.shape[0] else cv2.INTER_CUBIC
    return np.asarray(cv2.resize(image, size, interpolation=kind), np.uint8)


def label_thumbnail(label: Pixels) -> Pixels:
    """Resize a label map to fit a cell, nearest neighbor: `(H, W)` to `(h, w)`."""
    size = _cell_size(*label.shape)
    return np.asarray(cv2.resize(label, size, interpolation=cv2.INTER_NEAREST_EXACT), np.uint8)


def _cell_size(height: int, width: int) -> tuple[int, int]:
    """Return width and height, in OpenCV's order."""
    ratio = min(TALLEST / height, WIDEST / width)
    return max(1, round(ratio * width)), max(1, round(ratio * height))


def draw_sheet(
    title: str, samples: Sequence[Sequence[Cell]], keys: Sequence[LegendEntry]
) -> Pixels:
    """Draw a contact sheet with a row per sample; samples with few cells share a row.

    Args:
        title: One line at the top.
        samples: At least one sample, each of at least one cell.
        keys: The legend, at the bottom.

    Returns:
        uint8 `(H, W, 3)`.
    """
    together = max(1, ACROSS // max(map(len, samples)))
    groups = [samples[start : start + together] for start in range(0, len(samples), together)]
    rows = [[cell for sample in group for cell in sample] for group in groups]
    widths = [
        max([NARROWEST, *(cell.pixels.shape[1] for cell in column if cell is not None)])
        for column in zip_longest(*rows)
    ]
    heights = [max(cell.pixels.shape[0] for cell in row) + LINE + GAP for row in rows]
    inside = sum(widths) + GAP * (len(widths) - 1)
    lines = _in_lines(keys, inside)
    above = MARGIN + TITLE + GAP
    size = (inside + 2 * MARGIN, above + sum(heights) + LINE * len(lines) + MARGIN)
    sheet = Image.new("RGB", size, PAPER)
    _write(sheet, (MARGIN, MARGIN - 4), title, inside, TITLE)
    for row, height in zip(rows, heights, strict=True):
        left = MARGIN
        for cell, width in zip(row, widths, strict=False):
            sheet.paste(Image.fromarray(cell.pixels), (left, above))
            _write(sheet, (left, above + cell.pixels.shape[0] + 2), cell.caption, width, TEXT)
            left += width + GAP
        above += height
    for line in lines:
        for left, key in line:
            sheet.paste(Image.fromarray(key.swatch), (left, above + 3))
            beside = left + SWATCH + GAP // 2
            _write(sheet, (beside, above + 1), key.name, sheet.width - MARGIN - beside, TEXT)
        above += LINE
    return np.asarray(sheet)


def _in_lines(keys: Sequence[LegendEntry], width: int) -> list[list[tuple[int, LegendEntry]]]:
    """Break a legend into lines; each entry comes with its left edge."""
    lines: list[list[tuple[int, LegendEntry]]] = []
    left = width
    for key in keys:
        wide = SWATCH + 2 * GAP + round(ImageFont.load_default(TEXT).getlength(key.name))
        if left + wide > width:
            lines.append([])
            left = 0
        lines[-1].append((MARGIN + left, key))
        left += wide
    return lines


def _write(sheet: Image.Image, at: tuple[int, int], text: str, width: int, size: int) -> None:
    font = ImageFont.load_default(size)
    line = ellipsize(" ".join(text.split()), width, font.getlength)
    ImageDraw.Draw(sheet).text(at, line, fill=INK, font=font)


def ellipsize(text: str, width: float, length: Callable[[str], float]) -> str:
    """Replace the middle of a text by an ellipsis so that its length is at most `width`."""
    if length(text) <= width:
        return text

    def shortened(kept: int) -> str:
        front = kept // 2
        return f"{text[:front]}…{text[len(text) - (kept - front) :]}"

    longest = bisect_right(range(len(text)), width, key=lambda kept: length(shortened(kept))) - 1
    return shortened(max(0, longest))

"""A contact sheet: small images in rows with a line of text below each, a title and a legend."""

from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import zip_longest

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from drn_cli.data.images import Pixels

# All in pixels of the sheet.
TALLEST, WIDEST = 220, 440  # of a tile: a sheet of 2048x1024 images stays a few megabytes
NARROWEST = 200  # of a column, so that there is room for the text
ACROSS = 6  # tiles beside one another
GAP, MARGIN = 10, 16
TEXT, TITLE = 13, 18  # sizes of letters
LINE = 20  # height of a line of text
SWATCH = 14  # side of a colour in the legend

INK, PAPER = (32, 32, 32), (255, 255, 255)

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


@dataclass(frozen=True, slots=True)
class Cell:
    """A small image, uint8 `(H, W, 3)`, and what is written below it."""

    pixels: Pixels
    caption: str


@dataclass(frozen=True, slots=True)
class LegendEntry:
    """An entry of the legend: what is written beside a swatch, uint8 `(SWATCH, SWATCH, 3)`."""

    name: str
    swatch: Pixels


def thumbnail(image: Pixels) -> Pixels:
    """Bring an image to the size of a tile, whether it is larger or smaller.

    Shapes: `(H, W, 3)` in, `(h, w, 3)` out.
    """
    size = _tile_size(*image.shape[:2])
    kind = cv2.INTER_AREA if size[1] < image.shape[0] else cv2.INTER_CUBIC
    return np.asarray(cv2.resize(image, size, interpolation=kind), np.uint8)


def label_thumbnail(label: Pixels) -> Pixels:
    """Bring a label map to the size of a tile by its nearest pixels: `(H, W)` to `(h, w)`."""
    size = _tile_size(*label.shape)
    return np.asarray(cv2.resize(label, size, interpolation=cv2.INTER_NEAREST_EXACT), np.uint8)


def _tile_size(height: int, width: int) -> tuple[int, int]:
    """Give width and height, as OpenCV wants them."""
    ratio = min(TALLEST / height, WIDEST / width)
    return max(1, round(ratio * width)), max(1, round(ratio * height))


def draw_sheet(
    title: str, samples: Sequence[Sequence[Cell]], keys: Sequence[LegendEntry]
) -> Pixels:
    """Draw a contact sheet, a row a sample; samples of few tiles share a row.

    Args:
        title: Stands at the top, in one line.
        samples: At least one sample, each of at least one tile.
        keys: The legend, at the bottom.

    Returns:
        uint8 `(H, W, 3)`.
    """
    together = max(1, ACROSS // max(map(len, samples)))
    groups = [samples[start : start + together] for start in range(0, len(samples), together)]
    rows = [[tile for sample in group for tile in sample] for group in groups]
    widths = [
        max([NARROWEST, *(tile.pixels.shape[1] for tile in column if tile is not None)])
        for column in zip_longest(*rows)
    ]
    heights = [max(tile.pixels.shape[0] for tile in row) + LINE + GAP for row in rows]
    inside = sum(widths) + GAP * (len(widths) - 1)
    lines = _in_lines(keys, inside)
    above = MARGIN + TITLE + GAP
    size = (inside + 2 * MARGIN, above + sum(heights) + LINE * len(lines) + MARGIN)
    sheet = Image.new("RGB", size, PAPER)
    _write(sheet, (MARGIN, MARGIN - 4), title, inside, TITLE)
    for row, height in zip(rows, heights, strict=True):
        _draw_row(sheet, above, row, widths)
        above += height
    for line in lines:
        _draw_keys(sheet, above, line)
        above += LINE
    return np.asarray(sheet)


def _draw_row(sheet: Image.Image, top: int, row: list[Cell], widths: list[int]) -> None:
    left = MARGIN
    for tile, width in zip(row, widths, strict=False):
        sheet.paste(Image.fromarray(tile.pixels), (left, top))
        _write(sheet, (left, top + tile.pixels.shape[0] + 2), tile.caption, width, TEXT)
        left += width + GAP


def _in_lines(keys: Sequence[LegendEntry], width: int) -> list[list[tuple[int, LegendEntry]]]:
    """Break a legend into lines; each key comes with the place where it starts."""
    lines: list[list[tuple[int, LegendEntry]]] = []
    left = width
    for key in keys:
        wide = SWATCH + 2 * GAP + round(_font(TEXT).getlength(key.name))
        if left + wide > width:
            lines.append([])
            left = 0
        lines[-1].append((MARGIN + left, key))
        left += wide
    return lines


def _draw_keys(sheet: Image.Image, top: int, line: list[tuple[int, LegendEntry]]) -> None:
    for left, key in line:
        sheet.paste(Image.fromarray(key.swatch), (left, top + 3))
        beside = left + SWATCH + GAP // 2
        _write(sheet, (beside, top + 1), key.name, sheet.width - MARGIN - beside, TEXT)


def _write(sheet: Image.Image, at: tuple[int, int], text: str, width: int, size: int) -> None:
    font = _font(size)
    line = ellipsize(" ".join(text.split()), width, font.getlength)
    ImageDraw.Draw(sheet).text(at, line, fill=INK, font=font)


def _font(size: int) -> Font:
    return ImageFont.load_default(size)


def ellipsize(text: str, width: float, length: Callable[[str], float]) -> str:
    """Take letters out of the middle until the text is no longer than `width`, if it is."""
    if length(text) <= width:
        return text

    def shortened(kept: int) -> str:
        front = kept // 2
        return f"{text[:front]}…{text[len(text) - (kept - front) :]}"

    longest = bisect_right(range(len(text)), width, key=lambda kept: length(shortened(kept))) - 1
    return shortened(max(0, longest))

"""Read label files as class ids, by looking up each color or value in a table."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt

from drn_cli.data.classes import IGNORED, Colour
from drn_cli.data.images import Pixels, has_single_channel, read_header, read_image, read_label
from drn_cli.errors import DrnError

LOSSY = frozenset({".jpg", ".jpeg"})  # suffixes of lossy formats, which change colors
LOSSY_NOTE = "; JPEG compression changes colors: use PNG"

Codes = npt.NDArray[np.uint32]  # per pixel a 24-bit color, or a label value


def pack(image: Pixels) -> Codes:
    """Encode each color as 0xRRGGBB: uint8 `(H, W, 3)` to uint32 `(H, W)`."""
    codes = image[..., 0].astype(np.uint32)
    for channel in (1, 2):
        codes <<= 8
        codes |= image[..., channel]
    return codes


def unpack(code: int) -> Colour:
    """Decode a color encoded by `pack`."""
    return (code >> 16, (code >> 8) & 255, code & 255)


def color_name(color: Colour) -> str:
    """Format a color as `128,64,128`."""
    return ",".join(map(str, color))


def ids_of_colors(
    path: Path, ids: Mapping[Colour, int], *, unknown_as_void: bool = False
) -> Pixels:
    """Read a color label as class ids. Alpha is dropped, palette images are converted to RGB.

    Args:
        path: The label.
        ids: Class id of each color; 255 is ignored.
        unknown_as_void: Ignore all other colors instead of raising an error.

    Returns:
        uint8 `(H, W)`.

    Raises:
        DrnError: A broken file, or a color without an id.
    """
    table = {(red << 16) | (green << 8) | blue: id_ for (red, green, blue), id_ in ids.items()}
    codes = pack(read_image(path))
    found = _look_up(codes, table, 1 << 24)
    if not unknown_as_void and not found.all():
        raise _unknown_color(path, codes, found)
    return _as_ids(found)


def ids_of_values(path: Path, ids: Mapping[int, int], *, unknown_as_void: bool = False) -> Pixels:
    """Read a label of single values as class ids, like `ids_of_colors`.

    A color image with three equal channels counts as grayscale.

    Raises:
        DrnError: A broken file, a value without an id, or colors.
    """
    values = read_values(path)
    if values is None:
        raise DrnError(f"{path}: contains colors, but other labels contain values from 0 to 255")
    found = _look_up(values, ids, 256)
    if not unknown_as_void and not found.all():
        x, y, count = _first(found)
        raise DrnError(
            f"{path}: value {values[y, x]} at x {x}, y {y} is not a class ({_pixels(count)} in "
            "total)",
            "assign it to a class, or use --unknown-as-void to ignore such pixels",
        )
    return _as_ids(found)


def read_values(path: Path) -> Pixels | None:
    """Read a label of single values, uint8 `(H, W)`; None if the file contains colors.

    Raises:
        DrnError: A broken file, or a value above 255.
    """
    if has_single_channel(read_header(path).mode):
        return read_label(path)
    image = read_image(path)
    gray = image[..., 0]
    return gray if (image == gray[..., None]).all() else None


def _look_up(
    codes: npt.NDArray[np.unsignedinteger], ids: Mapping[int, int], size: int
) -> npt.NDArray[np.uint16]:
    """Return id + 1 of each code, and 0 for codes without an id.

    The table has an entry for every possible code, but the system allocates pages of zeros only
    when they are accessed: a few pages for the few colors of a label.
    """
    table = np.zeros(size, np.uint16)
    table[list(ids)] = np.fromiter(ids.values(), np.uint16, len(ids)) + 1
    found: npt.NDArray[np.uint16] = table[codes]
    return found


def _as_ids(found: npt.NDArray[np.uint16]) -> Pixels:
    found[found == 0] = IGNORED + 1
    return (found - 1).astype(np.uint8)


def _first(found: npt.NDArray[np.uint16]) -> tuple[int, int, int]:
    """Return x and y of the first pixel without an id, and the number of such pixels."""
    ys, xs = np.nonzero(found == 0)
    return int(xs[0]), int(ys[0]), len(xs)


def _unknown_color(path: Path, codes: Codes, found: npt.NDArray[np.uint16]) -> DrnError:
    x, y, count = _first(found)
    others = len(np.unique(codes[found == 0])) - 1
    more = f", with {others} more unknown colors" if others else ""
    return DrnError(
        f"{path}: color {color_name(unpack(int(codes[y, x])))} at x {x}, y {y} "
        f"is not a class ({_pixels(count)}{more})"
        f"{LOSSY_NOTE if path.suffix.lower() in LOSSY else ''}",
        "assign it to a class in the class file, or use --unknown-as-void to ignore such pixels",
    )


def _pixels(count: int) -> str:
    return "1 pixel" if count == 1 else f"{count} pixels"

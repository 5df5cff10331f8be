"""Label files as class ids: each colour, or each value, is looked up in one table."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt

from drn_cli.data.classes import IGNORED, Colour
from drn_cli.data.images import Pixels, has_single_channel, read_header, read_image, read_label
from drn_cli.errors import DrnError

LOSSY = frozenset({".jpg", ".jpeg"})  # a format that changes colours a little

Codes = npt.NDArray[np.uint32]  # one number a pixel: a colour in 24 bits, or a label value


def pack(image: Pixels) -> Codes:
    """Make one number, 0xRRGGBB, of each colour: `(H, W, 3)` in, `(H, W)` out."""
    codes = image[..., 0].astype(np.uint32)
    for channel in (1, 2):
        codes <<= 8
        codes |= image[..., channel]
    return codes


def unpack(code: int) -> Colour:
    """Give the colour of a number made by `pack`."""
    return (code >> 16, (code >> 8) & 255, code & 255)


def colour_name(colour: Colour) -> str:
    """Write a colour as people do: `128,64,128`."""
    return ",".join(map(str, colour))


def pixel_mode(path: Path) -> str:
    """Give Pillow's name for how a file holds its pixels; only the header is read.

    Raises:
        DrnError: The file is missing, or no image.
    """
    return read_header(path).mode


def ids_of_colours(
    path: Path, ids: Mapping[Colour, int], *, unknown_as_void: bool = False
) -> Pixels:
    """Read a colour label as class ids. Transparency is dropped, a palette gives its colours.

    Args:
        path: The label.
        ids: The id of each colour, 255 for what is ignored.
        unknown_as_void: Whether other colours are ignored; they are an error otherwise.

    Returns:
        uint8 `(H, W)`.

    Raises:
        DrnError: A broken file, or a colour that has no id.
    """
    table = {(red << 16) | (green << 8) | blue: id_ for (red, green, blue), id_ in ids.items()}
    codes = pack(read_image(path))
    found = _look_up(codes, table, 1 << 24)
    if not unknown_as_void and not found.all():
        raise _unknown_colour(path, codes, found)
    return _as_ids(found)


def ids_of_values(path: Path, ids: Mapping[int, int], *, unknown_as_void: bool = False) -> Pixels:
    """Read a label of single values as class ids; what `ids_of_colours` is to colours.

    A colour image whose three channels are the same is taken for a grey one.

    Raises:
        DrnError: A broken file, a value that has no id, or colours.
    """
    values = read_values(path)
    if values is None:
        raise DrnError(f"{path}: holds colours, other labels hold values from 0 up")
    found = _look_up(values, ids, 256)
    if not unknown_as_void and not found.all():
        x, y, count = _first(found)
        raise DrnError(
            f"{path}: has the value {values[y, x]} at x {x}, y {y}, which is no class "
            f"({_pixels(count)} in all)",
            "give it a class, or ignore such pixels with --unknown-as-void",
        )
    return _as_ids(found)


def read_values(path: Path) -> Pixels | None:
    """Read a label of single values, uint8 `(H, W)`; None if the file holds colours.

    Raises:
        DrnError: A broken file, or a value above 255.
    """
    if has_single_channel(pixel_mode(path)):
        return read_label(path)
    image = read_image(path)
    grey = image[..., 0]
    return grey if (image == grey[..., None]).all() else None


def _look_up(
    codes: npt.NDArray[np.unsignedinteger], ids: Mapping[int, int], size: int
) -> npt.NDArray[np.uint16]:
    """Give 1 + id of each code, and 0 where it has none.

    The table is as long as there are codes, but zeros take no memory until they are written or
    read: a few pages for the few colours of a label.
    """
    table = np.zeros(size, np.uint16)
    table[list(ids)] = np.fromiter(ids.values(), np.uint16, len(ids)) + 1
    found: npt.NDArray[np.uint16] = table[codes]
    return found


def _as_ids(found: npt.NDArray[np.uint16]) -> Pixels:
    found[found == 0] = IGNORED + 1
    return (found - 1).astype(np.uint8)


def _first(found: npt.NDArray[np.uint16]) -> tuple[int, int, int]:
    """Give x and y of the first pixel without an id, and how many there are."""
    ys, xs = np.nonzero(found == 0)
    return int(xs[0]), int(ys[0]), len(xs)


def _unknown_colour(path: Path, codes: Codes, found: npt.NDArray[np.uint16]) -> DrnError:
    x, y, count = _first(found)
    others = len(np.unique(codes[found == 0])) - 1
    more = f" and {others} more such colours" if others else ""
    message = (
        f"{path}: the colour {colour_name(unpack(int(codes[y, x])))} at x {x}, y {y} "
        f"is no class ({_pixels(count)}{more})"
    )
    if path.suffix.lower() in LOSSY:
        return DrnError(
            f"{message}; JPEG files change colours a little",
            "take labels that were saved as PNG, or ignore such pixels with --unknown-as-void",
        )
    return DrnError(
        message,
        "give the colour a class in the file that names them, "
        "or ignore such pixels with --unknown-as-void",
    )


def _pixels(count: int) -> str:
    return "1 pixel" if count == 1 else f"{count} pixels"

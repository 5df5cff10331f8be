"""Reading and writing images and label maps."""

import io
import logging
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, Literal, NamedTuple

import cv2
import imagecodecs
import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps, UnidentifiedImageError
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import IMAGELENGTH, IMAGEWIDTH, TiffImageFile

from drn_cli.data.classes import IGNORED, ClassSet
from drn_cli.data.file_ends import PNG_MAGIC
from drn_cli.data.image_formats import (
    FORMATS,
    LIMIT_VARIABLE,
    check_png,
    pixel_limit,
    unsupported_format,
    without_pillow_limits,
)
from drn_cli.errors import DrnError, refused_by_system
from drn_cli.files import atomic, read_bytes

log = logging.getLogger(__name__)

# Many processes read images, one per core. A process forked from one that runs OpenCV threads would
# wait for them forever.
cv2.setNumThreads(1)

Pixels = npt.NDArray[np.uint8]  # (H, W, 3) for images, (H, W) for labels
Source = Path | bytes | IO[bytes] | Image.Image  # what an image is read from

TAIL = 0x20000  # bytes at the end of a PNG that are searched for EXIF, which has 64 KB at most
ORIENTATION = 0x0112  # EXIF tag; 1 is upright
MOST_FRAMES = 64  # counted in a TIFF: Pillow's time grows with the square of their number
REDUCED = 254  # TIFF tag NewSubfileType: its lowest bit marks a reduced-resolution copy

SUFFIXES = frozenset(
    {".png", ".jpg", ".jpeg", ".mpo", ".bmp", ".tif", ".tiff", ".webp"}
    | {".ppm", ".pgm", ".pbm", ".pnm", ".gif"}
)


class Header(NamedTuple):
    """Header of an image file."""

    size: tuple[int, int]  # width and height as stored
    mode: str  # Pillow mode
    orientation: int  # EXIF, 1 (upright) to 8; in PNG files, only if it precedes the pixels

    @property
    def upright(self) -> tuple[int, int]:
        """Width and height after rotation: orientations 5 to 8 swap them."""
        width, height = self.size
        return (height, width) if self.orientation >= 5 else (width, height)


def read_image(source: Source, *, frames: Literal["one", "first"] = "one") -> Pixels:
    """Read an image of any supported format as RGB, upright.

    Palette, gray, CMYK and 16-bit images are converted, transparency is dropped, and the EXIF
    orientation is applied.

    Args:
        source: A file, its content, or a Pillow image, which is left unchanged and gives the same
            pixels as the current frame of its file.
        frames: For an image with several frames: `one` raises an error, `first` reads the first
            with a warning.

    Returns:
        uint8 `(H, W, 3)`.

    Raises:
        DrnError: The file is missing, broken, too large, or not a supported image.
    """
    image = _open(source, frames)
    if isinstance(image, np.ndarray):
        return image if image.ndim == 3 else np.asarray(cv2.cvtColor(image, cv2.COLOR_GRAY2RGB))
    if image.mode == "F":
        raise DrnError(
            f"{_name(source)}: float pixels have no defined black and white",
            "save it with 8 or 16 bits per channel",
        )
    if image.mode.startswith("I"):  # up to 16 bits; values of at most 255 are not scaled
        values = np.asarray(image).astype(np.float64)
        if values.max() > 255:
            values = values / 257
        image = Image.fromarray(np.clip(np.rint(values), 0, 255).astype(np.uint8))
    image.info.pop("transparency", None)  # Pillow warns when it drops a palette's
    with _failures(_name(source)):
        return np.asarray(image.convert("RGB"))


def read_label(source: Source) -> Pixels:
    """Read a label map: one class id per pixel. In a palette image, the indices are the ids.

    Returns:
        uint8 `(H, W)`.

    Raises:
        DrnError: The file is missing, broken, a color image, has several frames, or has values
            that are not integers from 0 to 255.
    """
    values = read_label_values(source)
    if values.dtype == np.uint8:
        return values.astype(np.uint8, copy=False)
    low, high = values.min(), values.max()
    if low < 0 or high > 255:
        raise DrnError(
            f"{_name(source)}: label values range from {low} to {high}; class ids are 0 to 255"
        )
    return values.astype(np.uint8)


def read_label_values(source: Source) -> npt.NDArray[np.integer[Any]]:
    """Read the values of a label map of any bit depth. Floats count if they are integers.

    Returns:
        Integers `(H, W)`; uint8 for files of up to 8 bits.

    Raises:
        DrnError: As in `read_label`, except that values may exceed 255.
    """
    image = _open(source, "one")
    if isinstance(image, np.ndarray) and image.ndim == 2:
        return image
    if isinstance(image, np.ndarray):
        image = Image.fromarray(image)
    if image.mode in {"L", "P", "1"}:
        return np.asarray(image).astype(np.uint8)
    if image.mode.startswith("I"):
        return np.asarray(image)
    if image.mode == "F":
        return _integers(np.asarray(image), _name(source))
    raise DrnError(
        f"{_name(source)}: a label map has one class id per pixel, this is a color image "
        f"({image.mode})",
        "convert its colors to class ids first",
    )


def read_header(source: Path | bytes) -> Header:
    """Read the header of an image file without decoding pixels.

    Raises:
        DrnError: The file is missing, its header is broken, or it is not a supported image.
    """
    with _failures(_name(source)), without_pillow_limits:
        if isinstance(source, Path) and not source.is_file():
            read_bytes(source)  # raises the reason; opening a named pipe would block
        file = io.BytesIO(source) if isinstance(source, bytes) else source
        with suppress(UnidentifiedImageError), Image.open(file, formats=FORMATS) as image:
            _check_size(image)
            # Pillow decodes a whole PNG to find EXIF that does not come before the pixels.
            has_exif = image.format != "PNG" or "exif" in image.info
            orientation = image.getexif().get(ORIENTATION, 1) if has_exif else 1
            valid = isinstance(orientation, int) and 1 < orientation <= 8
            size = image.size
            if isinstance(image, TiffImageFile):  # newer versions of Pillow have rotated it
                size = (image.tag_v2[IMAGEWIDTH], image.tag_v2[IMAGELENGTH])
            return Header(size, image.mode, orientation if valid else 1)
    _open(source, "first")  # raises what the file is instead
    raise AssertionError("Pillow opened a file that it had not identified")


def has_single_channel(mode: str) -> bool:
    """Whether the pixels of a Pillow mode are single values, such as palette indices."""
    return mode in {"1", "L", "P", "F"} or mode.startswith("I")


def source_name(source: object) -> str | None:
    """Return the file name of an image source, or None."""
    if isinstance(source, str | os.PathLike):
        return str(source)
    name = getattr(source, "filename", None) or getattr(source, "name", None)
    return str(name) if isinstance(name, str | os.PathLike) and str(name) else None


def _name(source: Source) -> str:
    return source_name(source) or "image"


@contextmanager
def _failures(name: str) -> Iterator[None]:
    """Convert exceptions raised while reading an image to a DrnError that starts with its name."""
    try:
        yield
    except DrnError as error:
        if error.message.startswith(f"{name}: "):
            raise
        raise type(error)(f"{name}: {error.message}", error.hint) from error
    except MemoryError:
        raise
    except Exception as error:  # broken files raise errors of any type
        if refused_by_system(error):
            raise DrnError(f"{name}: cannot be read: {error.strerror}") from error
        text = " ".join(str(error).split()) or type(error).__name__
        raise DrnError(f"{name}: broken image: {text}") from error


def _open(source: Source, frames: Literal["one", "first"]) -> Image.Image | Pixels:
    """Decode a whole file, which detects truncation, and apply its EXIF orientation.

    Returns:
        Pixels `(H, W)` or `(H, W, 3)` if a fast decoder read them, otherwise a Pillow image.
    """
    name = _name(source)
    with _failures(name), without_pillow_limits:
        if isinstance(source, Image.Image):
            return _upright(source)
        data = (
            read_bytes(source)
            if isinstance(source, Path)
            else source
            if isinstance(source, bytes)
            else source.read()
        )
        try:
            opened = Image.open(io.BytesIO(data), formats=FORMATS)
        except UnidentifiedImageError as error:
            if data.startswith(PNG_MAGIC):  # Pillow rejects PNGs whose first checksums are wrong
                check_png(data)
            raise unsupported_format(data) from error
        with opened as image:
            _check_size(image)
            _check_frames(image, name, frames)
            if image.format == "PNG":
                check_png(data)
            if (pixels := _decode_fast(image, data)) is not None:
                return pixels
            image.load()
            return ImageOps.exif_transpose(image)


def _upright(image: Image.Image) -> Image.Image:
    """Check a Pillow image as a file is checked, and return a copy with its orientation applied."""
    _check_size(image)
    file = image.fp if isinstance(image, PngImageFile) and image.tile else None
    if file is not None:  # its pixels are not decoded yet
        position = file.tell()
        file.seek(0)
        check_png(file.read())
        file.seek(position)
    return ImageOps.exif_transpose(image)


def _check_size(image: Image.Image) -> None:
    pixels, size = math.prod(image.size), "{}x{}".format(*image.size)
    if not pixels:
        raise DrnError(f"has no pixels: {size}")
    if pixels > (limit := pixel_limit()):
        raise DrnError(
            f"{size}, {pixels / 1e6:.1f} million pixels; the limit is {limit / 1e6:g} million",
            f"use --max-pixels {pixels}, or {LIMIT_VARIABLE}={pixels} in commands without it",
        )


def _check_frames(image: Image.Image, name: str, frames: Literal["one", "first"]) -> None:
    """Reject, or warn of, an image with several frames; reduced copies in a TIFF do not count."""
    if image.format == "TIFF":
        count = _tiff_frames(image)
    else:
        count = 1 if image.format == "MPO" else getattr(image, "n_frames", 1)
    if count == 1:
        return
    number = f"more than {MOST_FRAMES}" if count > MOST_FRAMES else str(count)
    if frames == "one":
        raise DrnError(
            f"{image.format} with {number} frames, expected one", "save one frame as a PNG file"
        )
    log.warning("%s: has %s frames; only the first is read", name, number)


def _tiff_frames(image: Image.Image) -> int:
    """Count the frames of a TIFF without reduced copies, up to `MOST_FRAMES + 1`."""
    count = 1
    for number in range(1, MOST_FRAMES + 1):
        try:
            image.seek(number)
        except EOFError:
            break
        count += not int(image.tag_v2.get(REDUCED, 0)) & 1  # type: ignore[attr-defined]
    else:
        count = MOST_FRAMES + 1
    image.seek(0)
    return count


def _decode_fast(image: Image.Image, data: bytes) -> Pixels | None:
    """Decode complete, upright, 8-bit gray or RGB images in half of Pillow's time.

    Returns:
        The same pixels as Pillow's; None for other files, and for broken ones, for which Pillow
        has the better error messages.
    """
    if image.mode not in {"L", "RGB"}:
        return None
    if image.format == "PNG":
        # Pillow has read the chunks before the pixels; EXIF may follow them.
        odd = {"transparency", "exif"} & image.info.keys() or b"eXIf" in data[-TAIL:]
        plain = data[24] == 8 and data[28] == 0 and not odd  # depth, interlacing
        decode = imagecodecs.spng_decode if image.mode == "RGB" else imagecodecs.png_decode
    elif image.format == "JPEG":
        plain = data.endswith(b"\xff\xd9") and image.getexif().get(ORIENTATION, 1) == 1
        decode = imagecodecs.jpeg8_decode
    else:
        return None
    try:
        return np.asarray(decode(data), np.uint8) if plain else None
    except (RuntimeError, ValueError):
        return None


def _integers(values: npt.NDArray[np.float32], name: str) -> npt.NDArray[np.integer[Any]]:
    """Convert float class ids to integers; raise DrnError if one is not an integer."""
    wrong = ~np.isfinite(values) | (values != np.rint(values)) | (np.abs(values) > 2**24)
    if wrong.any():
        y, x = np.argwhere(wrong)[0]
        raise DrnError(
            f"{name}: value {values[y, x]:g} at x={x}, y={y} is not a class id",
            "save class ids as a gray PNG",
        )
    return values.astype(np.int32)


def write_png(path: Path, pixels: Pixels) -> None:
    """Write an image `(H, W, 3)` or a label map `(H, W)` as PNG, atomically."""
    with atomic(path, durable=False) as temporary:
        temporary.write_bytes(encode_png(pixels))


def encode_png(pixels: Pixels) -> bytes:
    """Encode an image `(H, W, 3)` as RGB PNG, or a label map `(H, W)` as gray PNG."""
    return _png(Image.fromarray(pixels))


def colored_png(classes: Pixels, class_set: ClassSet) -> bytes:
    """Encode class ids `(H, W)` as a palette PNG, which shows class colors."""
    image = Image.fromarray(classes)
    image.putpalette(class_set.palette())
    return _png(image)


def _png(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, format="PNG", compress_level=1)
    return file.getvalue()


def overlay(image: Pixels, classes: Pixels, class_set: ClassSet, opacity: float = 0.5) -> Pixels:
    """Blend the class colors over an image; ignored pixels (255) keep the image.

    Shapes: `(H, W, 3)` and `(H, W)` to `(H, W, 3)`.
    """
    palette = np.frombuffer(class_set.palette(), np.uint8).reshape(256, 1, 3)
    colors = cv2.applyColorMap(classes, palette)
    mixed = cv2.addWeighted(image, 1 - opacity, colors, opacity, 0)
    if (ignored := classes == IGNORED).any():
        mixed[ignored] = image[ignored]
    return np.asarray(mixed, np.uint8)

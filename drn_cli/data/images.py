"""The one way an image or a label map is read and written."""

import io
import logging
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
from PIL.TiffImagePlugin import IMAGELENGTH, IMAGEWIDTH, TiffImageFile

from drn_cli.data.classes import IGNORED, ClassSet
from drn_cli.data.file_ends import PNG_MAGIC
from drn_cli.data.image_formats import (
    FORMATS,
    check_png,
    pixel_limit,
    too_large_error,
    undecoded_png,
    unsupported_format,
    without_pillow_limits,
)
from drn_cli.errors import DrnError, refused_by_system
from drn_cli.files import atomic, read_bytes

log = logging.getLogger(__name__)

# Images are read by many processes at once, a core for each, and a process that was forked from
# one with OpenCV's threads waits for them forever.
cv2.setNumThreads(1)

Pixels = npt.NDArray[np.uint8]  # (H, W, 3) for images, (H, W) for labels
Source = Path | bytes | IO[bytes] | Image.Image  # what an image is read from

TAIL = 0x20000  # bytes at the end of a PNG in which EXIF would be found: it has 64 KB at most
ORIENTATION = 0x0112  # of EXIF: 1 is upright
MOST_FRAMES = 64  # that are looked for in a TIFF: Pillow's time grows with their number squared
REDUCED = 254  # tag of a TIFF's smaller copies of itself, whose lowest bit is 1

SUFFIXES = frozenset(
    {".png", ".jpg", ".jpeg", ".mpo", ".bmp", ".tif", ".tiff", ".webp"}
    | {".ppm", ".pgm", ".pbm", ".pnm", ".gif"}
)


class Header(NamedTuple):
    """What a file says of its image before the pixels.

    Attributes:
        size: Width and height as they are stored.
        mode: Pillow's name for the kind of its pixels.
        orientation: Of EXIF, 1 to 8; 1 is upright. Of PNG files, if it precedes the pixels.
    """

    size: tuple[int, int]
    mode: str
    orientation: int

    @property
    def upright(self) -> tuple[int, int]:
        """Width and height as the image is read: orientations from 5 on swap them."""
        width, height = self.size
        return (height, width) if self.orientation >= 5 else (width, height)


def read_image(source: Source, *, frames: Literal["one", "first"] = "one") -> Pixels:
    """Read an image of any supported format as RGB, upright.

    Palette, grey, CMYK and 16-bit images are converted, transparency is dropped, and the EXIF
    orientation is applied.

    Args:
        source: A file, its content, or an image of Pillow's, which gives the same pixels as its
            file (of the frame that it is at) and is not changed.
        frames: Of an image of several frames, `first` is read, with a warning; `one` refuses it.

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
            f"{_name(source)}: its pixels are floats, with no defined black and white",
            "save it with 8 or 16 bits a channel",
        )
    if image.mode.startswith("I"):
        image = _eight_bits(image)
    image.info.pop("transparency", None)  # Pillow warns when it drops a palette's
    with _failures(_name(source)):
        return np.asarray(image.convert("RGB"))


def read_label(source: Source) -> Pixels:
    """Read a label map: one class id a pixel. A palette's indices are the ids.

    Returns:
        uint8 `(H, W)`.

    Raises:
        DrnError: The file is missing, broken, a colour image, of several frames, or has values
            that are not whole numbers from 0 to 255.
    """
    values = read_label_values(source)
    if values.dtype == np.uint8:
        return values.astype(np.uint8, copy=False)
    low, high = values.min(), values.max()
    if low < 0 or high > 255:
        raise DrnError(
            f"{_name(source)}: label values go from {low} to {high}; class ids are 0 to 255"
        )
    return values.astype(np.uint8)


def read_label_values(source: Source) -> npt.NDArray[np.integer[Any]]:
    """Read the values of a label map, of however many bits. Floats are ids if they are whole.

    Returns:
        Integers `(H, W)`; uint8 where the file has up to 8 bits.

    Raises:
        DrnError: As `read_label`; values beyond 255 are none.
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
        return _whole(np.asarray(image), _name(source))
    raise DrnError(
        f"{_name(source)}: a label map has one class id a pixel, this is a colour image "
        f"({image.mode})",
        "convert its colours to class ids first",
    )


def read_header(source: Path | bytes) -> Header:
    """Read what a file says of its image, and no pixels.

    Raises:
        DrnError: The file is missing, its header is broken, or it is not a supported image.
    """
    with _failures(_name(source)), without_pillow_limits:
        if isinstance(source, Path) and not source.is_file():
            read_bytes(source)  # says why not; a named pipe would wait for a writer
        file = io.BytesIO(source) if isinstance(source, bytes) else source
        with suppress(UnidentifiedImageError), Image.open(file, formats=FORMATS) as image:
            _check_size(image)
            # Asked for what its header does not have, a PNG would be decoded to the end.
            asked = image.format != "PNG" or "exif" in image.info
            orientation = image.getexif().get(ORIENTATION, 1) if asked else 1
            turned = isinstance(orientation, int) and 1 < orientation <= 8
            size = image.size
            if isinstance(image, TiffImageFile):  # newer versions of Pillow have turned it already
                size = (image.tag_v2[IMAGEWIDTH], image.tag_v2[IMAGELENGTH])
            return Header(size, image.mode, orientation if turned else 1)
    _open(source, "first")  # says what it is instead
    raise AssertionError("Pillow knows the file after all")


def has_single_channel(mode: str) -> bool:
    """Whether pixels of a mode are single values, as a palette's are, and not colours."""
    return mode in {"1", "L", "P", "F"} or mode.startswith("I")


def source_name(source: object) -> str | None:
    """Return the name of the file that an image comes from, if it has one."""
    if isinstance(source, str | os.PathLike):
        return str(source)
    name = getattr(source, "filename", None) or getattr(source, "name", None)
    return str(name) if isinstance(name, str | os.PathLike) and str(name) else None


def _name(source: Source) -> str:
    """Return what messages call a source."""
    return source_name(source) or "image"


@contextmanager
def _failures(name: str) -> Iterator[None]:
    """Turn whatever reading an image raises into an error that names it."""
    try:
        yield
    except DrnError as error:
        if error.message.startswith(f"{name}: "):
            raise
        raise type(error)(f"{name}: {error.message}", error.hint) from error
    except MemoryError:
        raise
    except Exception as error:  # what a broken file raises has no bounds
        if refused_by_system(error):
            raise DrnError(f"{name}: cannot be read: {error.strerror}") from error
        text = " ".join(str(error).split()) or type(error).__name__
        raise DrnError(f"{name}: broken image: {text}") from error


def _open(source: Source, frames: Literal["one", "first"]) -> Image.Image | Pixels:
    """Decode a file whole, so that a truncated one is found here, and turn it upright.

    Returns:
        Pixels `(H, W)` or `(H, W, 3)` where there was a quick way, or else Pillow's image.
    """
    name = _name(source)
    with _failures(name), without_pillow_limits:
        if isinstance(source, Image.Image):
            return _loaded(source)
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
            if data.startswith(PNG_MAGIC):  # Pillow knows none whose first checksums are wrong
                check_png(data)
            raise unsupported_format(data) from error
        with opened as image:
            _check_size(image)
            _check_frames(image, name, frames)
            if image.format == "PNG":
                check_png(data)
            if (pixels := _quickly(image, data)) is not None:
                return pixels
            image.load()
            return ImageOps.exif_transpose(image)


def _loaded(image: Image.Image) -> Image.Image:
    """Turn an image of Pillow's upright, which leaves it as it is, after the checks of a file."""
    _check_size(image)
    if (file := undecoded_png(image)) is not None:
        place = file.tell()
        file.seek(0)
        check_png(file.read())
        file.seek(place)
    return ImageOps.exif_transpose(image)


def _check_size(image: Image.Image) -> None:
    width, height = image.size
    if not width * height:
        raise DrnError(f"has no pixels: {width}x{height}")
    if width * height > pixel_limit():
        raise too_large_error(f"{width}x{height}, ", width * height)


def _check_frames(image: Image.Image, name: str, frames: Literal["one", "first"]) -> None:
    """Find out whether an image has frames besides the first; smaller copies of it are none."""
    if image.format == "TIFF":
        count = _tiff_frames(image)
    else:
        count = 1 if image.format == "MPO" else getattr(image, "n_frames", 1)
    if count == 1:
        return
    number = f"more than {MOST_FRAMES}" if count > MOST_FRAMES else str(count)
    if frames == "one":
        raise DrnError(
            f"{image.format} of {number} frames, and one is meant", "save that one as a PNG file"
        )
    log.warning("%s: has %s frames; the first is read", name, number)


def _tiff_frames(image: Image.Image) -> int:
    """Count the frames of a TIFF but for smaller copies; `MOST_FRAMES + 1` stands for any more."""
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


def _quickly(image: Image.Image, data: bytes) -> Pixels | None:
    """Decode in half of Pillow's time what is plain: whole, upright, 8-bit grey or RGB.

    Returns:
        The same pixels as Pillow's; None for a file that is not plain, or is broken: Pillow knows
        better how to say what is wrong with it.
    """
    if image.mode not in {"L", "RGB"}:
        return None
    if image.format == "PNG":
        # Pillow has read the chunks before the pixels; an orientation may follow them.
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


def _whole(values: npt.NDArray[np.float32], name: str) -> npt.NDArray[np.integer[Any]]:
    """Take floats for ids, if they are whole numbers."""
    wrong = ~np.isfinite(values) | (values != np.rint(values)) | (np.abs(values) > 2**24)
    if wrong.any():
        y, x = np.argwhere(wrong)[0]
        raise DrnError(
            f"{name}: a label map has one class id a pixel, and its float at x {x}, y {y} is "
            f"{values[y, x]:g}",
            "save class ids as a grey PNG",
        )
    return values.astype(np.int32)


def _eight_bits(image: Image.Image) -> Image.Image:
    """Bring 16-bit grey values to 0..255; values up to 255 stay."""
    values = np.asarray(image).astype(np.float64)
    if values.max() > 255:
        values = values / 257
    return Image.fromarray(np.clip(np.rint(values), 0, 255).astype(np.uint8))


def write_index(path: Path, classes: Pixels) -> None:
    """Write class ids `(H, W)` as a grey PNG, atomically."""
    _write(path, index_png(classes))


def write_coloured(path: Path, classes: Pixels, class_set: ClassSet) -> None:
    """Write class ids `(H, W)` as a palette PNG, atomically."""
    _write(path, colored_png(classes, class_set))


def write_image(path: Path, image: Pixels) -> None:
    """Write an image `(H, W, 3)` as PNG, atomically."""
    _write(path, image_png(image))


def index_png(classes: Pixels) -> bytes:
    """Encode class ids `(H, W)` as a grey PNG."""
    return _png(Image.fromarray(classes))


def colored_png(classes: Pixels, class_set: ClassSet) -> bytes:
    """Encode class ids `(H, W)` as a palette PNG: it shows colours and still holds the ids."""
    image = Image.fromarray(classes)
    image.putpalette(class_set.palette())
    return _png(image)


def image_png(image: Pixels) -> bytes:
    """Encode an image `(H, W, 3)` as PNG."""
    return _png(Image.fromarray(image))


def overlay(image: Pixels, classes: Pixels, class_set: ClassSet, opacity: float = 0.5) -> Pixels:
    """Lay the classes' colours over an image; what is ignored (255) stays as it was.

    Shapes: `(H, W, 3)` and `(H, W)` in, `(H, W, 3)` out.
    """
    palette = np.frombuffer(class_set.palette(), np.uint8).reshape(256, 1, 3)
    colours = cv2.applyColorMap(classes, palette)
    mixed = cv2.addWeighted(image, 1 - opacity, colours, opacity, 0)
    if (ignored := classes == IGNORED).any():
        mixed[ignored] = image[ignored]
    return np.asarray(mixed, np.uint8)


def _png(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, format="PNG", compress_level=1)
    return file.getvalue()


def _write(path: Path, content: bytes) -> None:
    with atomic(path, durable=False) as temporary:
        temporary.write_bytes(content)

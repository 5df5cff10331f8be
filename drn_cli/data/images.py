"""The one way a picture or a label map is read and written."""

import io
from pathlib import Path
from typing import IO

import cv2
import imagecodecs
import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps, UnidentifiedImageError

from drn_cli.data.classes import IGNORED, ClassSet
from drn_cli.data.silence import silence
from drn_cli.errors import DrnError
from drn_cli.files import atomic

# Pictures are read by many processes at once, a core for each, and a process that was forked from
# one with OpenCV's threads waits for them forever.
cv2.setNumThreads(1)

Pixels = npt.NDArray[np.uint8]  # (H, W, 3) for pictures, (H, W) for labels

TAIL = 0x20000  # bytes at the end of a PNG in which EXIF would be found: it has 64 KB at most
ORIENTATION = 0x0112  # of EXIF: 1 is upright

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp", ".ppm", ".pgm"})


def read_image(path: Path | IO[bytes]) -> Pixels:
    """Read any picture as RGB, upright.

    Palette, grey, CMYK and 16-bit pictures are converted, transparency is dropped, and the EXIF
    orientation is applied.

    Returns:
        uint8 `(H, W, 3)`.

    Raises:
        DrnError: The file is missing, broken, or no picture.
    """
    image = _open(path)
    if isinstance(image, np.ndarray):
        return image if image.ndim == 3 else np.asarray(cv2.cvtColor(image, cv2.COLOR_GRAY2RGB))
    if image.mode == "F" or image.mode.startswith("I"):
        image = _eight_bits(image)
    image.info.pop("transparency", None)  # Pillow warns when it drops a palette's
    return np.asarray(image.convert("RGB"))


def read_label(path: Path) -> Pixels:
    """Read a label map: one class id a pixel. A palette's indices are the ids.

    Returns:
        uint8 `(H, W)`.

    Raises:
        DrnError: The file is missing, broken, a colour picture, or has values above 255.
    """
    image = _open(path)
    if isinstance(image, np.ndarray) and image.ndim == 2:
        return image
    if isinstance(image, np.ndarray):
        image = Image.fromarray(image)
    if image.mode in {"L", "P", "1"}:
        return np.asarray(image).astype(np.uint8)
    if image.mode.startswith("I"):
        values = np.asarray(image)
        if values.min() < 0 or values.max() > 255:
            raise DrnError(f"{path}: label values go up to {values.max()}; 255 is the highest")
        return values.astype(np.uint8)
    raise DrnError(
        f"{path}: a label map has one class id a pixel, this is a colour picture ({image.mode})",
        "convert its colours to class ids first",
    )


def _open(path: Path | IO[bytes]) -> Image.Image | Pixels:
    """Decode a file whole, so that a truncated one is found here, and turn it upright.

    Returns:
        Pixels `(H, W)` or `(H, W, 3)` where there was a quick way, or else Pillow's picture.
    """
    name = path if isinstance(path, Path) else getattr(path, "name", "picture")
    try:
        data = path.read_bytes() if isinstance(path, Path) else path.read()
        with silence, Image.open(io.BytesIO(data)) as image:
            pixels = _quickly(image, data)
            if pixels is not None:
                return pixels
            image.load()
            return ImageOps.exif_transpose(image)
    except FileNotFoundError as error:
        raise DrnError(f"{name}: no such file") from error
    except UnidentifiedImageError as error:
        raise DrnError(f"{name}: not a picture in a known format") from error
    except Image.DecompressionBombError as error:
        raise DrnError(f"{name}: refused: {error}") from error
    except MemoryError:
        raise
    except Exception as error:  # what a broken file raises has no bounds
        raise DrnError(f"{name}: broken picture: {error}") from error


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
        plain = data[24] == 8 and not odd
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


def _eight_bits(image: Image.Image) -> Image.Image:
    """Bring 16-bit grey values, or floats of whatever range, to 0..255."""
    values = np.asarray(image).astype(np.float64)
    values[~np.isfinite(values)] = 0
    if image.mode == "F":
        low, high = float(values.min()), float(values.max())
        values = (values - low) * (255 / (high - low) if high > low else 0)
    elif values.max() > 255:
        values = values / 257
    return Image.fromarray(np.clip(np.rint(values), 0, 255).astype(np.uint8))


def write_index(path: Path, classes: Pixels) -> None:
    """Write class ids `(H, W)` as a grey PNG, atomically."""
    _write(path, index_png(classes))


def write_coloured(path: Path, classes: Pixels, class_set: ClassSet) -> None:
    """Write class ids `(H, W)` as a palette PNG, atomically."""
    _write(path, coloured_png(classes, class_set))


def write_image(path: Path, picture: Pixels) -> None:
    """Write a picture `(H, W, 3)` as PNG, atomically."""
    _write(path, image_png(picture))


def index_png(classes: Pixels) -> bytes:
    """Encode class ids `(H, W)` as a grey PNG."""
    return _png(Image.fromarray(classes))


def coloured_png(classes: Pixels, class_set: ClassSet) -> bytes:
    """Encode class ids `(H, W)` as a palette PNG: it shows colours and still holds the ids."""
    image = Image.fromarray(classes)
    image.putpalette(class_set.palette())
    return _png(image)


def image_png(picture: Pixels) -> bytes:
    """Encode a picture `(H, W, 3)` as PNG."""
    return _png(Image.fromarray(picture))


def overlay(picture: Pixels, classes: Pixels, class_set: ClassSet, opacity: float = 0.5) -> Pixels:
    """Lay the classes' colours over a picture; what is ignored (255) stays as it was.

    Shapes: `(H, W, 3)` and `(H, W)` in, `(H, W, 3)` out.
    """
    palette = np.frombuffer(class_set.palette(), np.uint8).reshape(256, 1, 3)
    colours = cv2.applyColorMap(classes, palette)
    mixed = cv2.addWeighted(picture, 1 - opacity, colours, opacity, 0)
    if (ignored := classes == IGNORED).any():
        mixed[ignored] = picture[ignored]
    return np.asarray(mixed, np.uint8)


def _png(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, format="PNG", compress_level=1)
    return file.getvalue()


def _write(path: Path, content: bytes) -> None:
    with atomic(path, durable=False) as temporary:
        temporary.write_bytes(content)

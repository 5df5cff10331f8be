"""Supported image formats, size limits, PNG checksums, and recognition of other file types."""

import os
import struct
import threading
import warnings
from io import BytesIO
from types import TracebackType

import imagecodecs
from PIL import Image, TiffImagePlugin

from drn_cli.data.file_ends import PNG_MAGIC
from drn_cli.errors import DrnError

# Formats that Pillow may try, the most frequent first. Its other readers start programs (EPS) or
# are hardly maintained. MPO, several JPEG images in one file, comes with JPEG.
FORMATS = ("PNG", "JPEG", "BMP", "PPM", "GIF", "TIFF", "WEBP")
SUPPORTED = "PNG, JPEG, MPO, BMP, TIFF, WebP, PNM and GIF"

PIXEL_LIMIT = 160_000_000  # the largest cameras have 151 million, a tile of Sentinel-2 121
# An environment variable is inherited by child processes of any start method.
LIMIT_VARIABLE = "DRN_MAX_PIXELS"

TIFF_MAGICS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
HEAD = 512  # bytes searched for the start of text formats

CONVERT = "convert it to PNG or JPEG first"
SAVE = "save its images as PNG files"
EXTRACT = "extract its frames first, for example with ffmpeg -i FILE frame%05d.png"
# Magic bytes and names of unsupported file types, grouped by what to do with them.
STARTS: tuple[tuple[str, dict[bytes, str]], ...] = (
    (CONVERT, {
        b"%!PS": "PostScript (EPS) file", b"\xc5\xd0\xd3\xc6": "PostScript (EPS) file",
        b"%PDF": "PDF file",
        b"icns": "ICNS (Apple icons) file", b"\0\0\1\0": "ICO (Windows icons) file",
        b"\0\0\0\x0cjP  \r\n\x87\n": "JPEG 2000 file", b"\xff\x4f\xff\x51": "JPEG 2000 file",
        b"\xff\x0a": "JPEG XL file", b"\0\0\0\x0cJXL ": "JPEG XL file",
        b"DDS ": "DDS (texture) file", b"8BPS": "PSD (Photoshop) file", b"SIMPLE  =": "FITS file",
    }),
    ("tone-map it to an 8-bit PNG first", {
        b"v/1\x01": "OpenEXR file", b"#?RADIANCE": "Radiance HDR file",
    }),
    (EXTRACT, {
        b"\x1aE\xdf\xa3": "Matroska or WebM video", b"FLV\x01": "Flash video",
        b"OggS": "Ogg video", b"\x30\x26\xb2\x75\x8e\x66\xcf\x11": "Windows Media video",
        b"\0\0\1\xba": "MPEG video", b"\0\0\1\xb3": "MPEG video",
    }),
    ("save it as PNG, for example with Image.fromarray(array).save", {b"\x93NUMPY": "NumPy file"}),
    (SAVE, {b"\x89HDF\r\n\x1a\n": "HDF5 file"}),
    ("unpack it first", {b"PK\x03\x04": "zip archive", b"\x1f\x8b": "gzip archive"}),
    ("fetch the file itself with git lfs pull", {b"version https://git-lfs": "Git LFS pointer"}),
)  # fmt: skip
# File types whose magic bytes are at an offset: (offset, magic, name, what to do).
INSIDE = ((128, b"DICM", "DICOM file", SAVE), (8, b"AVI LIST", "AVI video", EXTRACT))
TEXTS = ((b"<svg", "SVG drawing", CONVERT), (b"<html", "web page", "download the image itself"))
# Image brands of ISO media containers; all other brands are video.
BRANDS = {
    b"heic": "HEIC", b"heix": "HEIC", b"heim": "HEIC", b"heis": "HEIC", b"hevc": "HEIC",
    b"hevx": "HEIC", b"mif1": "HEIF", b"msf1": "HEIF", b"avif": "AVIF", b"avis": "AVIF",
    b"crx ": "Canon raw (CR3)",
}  # fmt: skip


def pixel_limit() -> int:
    """Return the largest allowed number of pixels; raise DrnError if the variable is invalid."""
    text = os.environ.get(LIMIT_VARIABLE)
    if text is None:
        return PIXEL_LIMIT
    if not text.isascii() or not text.isdigit() or int(text) < 1:
        raise DrnError(f"{LIMIT_VARIABLE}: {text!r} is not a number of pixels")
    return int(text)


def set_pixel_limit(pixels: int) -> None:
    """Set the largest allowed number of pixels for this process and its children."""
    os.environ[LIMIT_VARIABLE] = str(pixels)


class _WithoutPillowLimits:
    """A context without Pillow's warnings and size limit; `pixel_limit` is checked instead.

    Warning filters and Pillow's limit are global to all threads. If each thread restored what it
    found, it could restore another's settings, so the first thread to enter changes them and the
    last to leave restores them.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside = 0
        self._before = warnings.catch_warnings()
        self._limit: int | None = None
        lock = self._lock  # no fork while another thread enters or leaves
        os.register_at_fork(
            before=lock.acquire, after_in_parent=lock.release, after_in_child=self._in_child
        )

    def __enter__(self) -> None:
        with self._lock:
            if self._inside == 0:
                self._before = warnings.catch_warnings(action="ignore")
                self._before.__enter__()
                self._limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
            self._inside += 1

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        with self._lock:
            self._inside -= 1
            if self._inside == 0:
                Image.MAX_IMAGE_PIXELS = self._limit
                self._before.__exit__(None, None, None)

    def _in_child(self) -> None:
        """Leave the context for threads that do not exist in the child."""
        if self._inside:
            Image.MAX_IMAGE_PIXELS = self._limit
            self._before.__exit__(None, None, None)
        self._inside = 0
        self._lock.release()


without_pillow_limits = _WithoutPillowLimits()


def unsupported_format(data: bytes) -> DrnError:
    """Return the error for a file that is not a supported image, naming its type if known."""
    if not data:
        return DrnError("the file is empty", "copy or download it again")
    name, remedy = _kind(data)
    if not name:
        return DrnError("not an image in a known format", f"supported: {SUPPORTED}")
    return DrnError(f"{name}, which is not a supported image", f"{remedy}; supported: {SUPPORTED}")


def _kind(data: bytes) -> tuple[str, str]:
    if data.startswith(TIFF_MAGICS):
        return f"TIFF {_tiff_pixels(data)}", "save it as a TIFF or PNG with 8 bits per channel"
    if data[4:8] == b"ftyp":
        brand = BRANDS.get(data[8:12])
        return (f"{brand} image", CONVERT) if brand else ("MP4 or QuickTime video", EXTRACT)
    for remedy, kinds in STARTS:
        for magic, name in kinds.items():
            if data.startswith(magic):
                return name, remedy
    for offset, magic, name, remedy in INSIDE:
        if data.startswith(magic, offset):
            return name, remedy
    start = data[:HEAD].lower()
    for magic, name, remedy in TEXTS:
        if magic in start:
            return name, remedy
    return "", ""


def _tiff_pixels(data: bytes) -> str:
    """Describe the pixels of a TIFF file that Pillow cannot read."""
    try:
        tags = TiffImagePlugin.ImageFileDirectory_v2(data[:8])
        file = BytesIO(data)
        file.seek(tags.next)
        tags.load(file)
        bits, kinds = tags.get(258, (1,)), tags.get(339, (1,))
        kind = {1: "integers", 2: "signed integers", 3: "floats"}.get(kinds[0], "numbers")
        return f"with {tags.get(277, 1)} channels of {bits[0]}-bit {kind}"
    except Exception:  # broken files raise errors of any type
        return "of an unsupported kind, or broken"


def check_png(data: bytes) -> None:
    """Verify the checksum of each chunk of a PNG file, and that its end is present.

    Decoders verify only some: Pillow those before the pixels, libspng those of the pixels except
    the last. Data after the end of the image is ignored. libdeflate computes CRC-32 in a tenth of
    zlib's time, which would be 2 % of the reading time.

    Raises:
        ValueError: A checksum is wrong, or the end is missing.
    """
    place = len(PNG_MAGIC)
    while place + 12 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, place)
        end = place + 12 + length
        if end > len(data):
            break
        (expected,) = struct.unpack_from(">I", data, end - 4)
        if imagecodecs.deflate_crc32(data[place + 4 : end - 4]) != expected:
            name = kind.decode("ascii", "replace")
            raise ValueError(
                f"wrong checksum of its {name if name.isalnum() else 'next'} chunk at byte {place}"
            )
        if kind == b"IEND":
            return
        place = end
    raise ValueError("the file ends before the image does")

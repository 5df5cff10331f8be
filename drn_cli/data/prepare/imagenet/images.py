"""Check images of ImageNet and write them to class folders."""

import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from drn_cli.data.file_ends import ENDS, has_end_marker
from drn_cli.data.images import SUFFIXES, read_image
from drn_cli.errors import DrnError

LARGEST = 2**28  # bytes of an image; a larger size in a header is wrong and would fill the memory

Advance = Callable[[int], None]  # called with the number of bytes of the source that are done


@dataclass(frozen=True, slots=True)
class CorruptImage:
    """A file of the source that is not a complete image and was left out."""

    name: str  # name in the archive, or path
    error: str


@dataclass(frozen=True, slots=True)
class SplitResult:
    """Number of images in the class folders of a split, and the files left out."""

    images: int
    corrupt: tuple[CorruptImage, ...]


def is_wnid(name: str) -> bool:
    """Return whether a name is a WordNet id: `n` and eight digits."""
    return len(name) == 9 and name[0] == "n" and name[1:].isascii() and name[1:].isdigit()


def is_image(name: str) -> bool:
    """Return whether a file name has an image suffix and is not hidden."""
    return not name.startswith(".") and f".{name.rpartition('.')[2].lower()}" in SUFFIXES


def image_error(data: bytes) -> str | None:
    """Return what is wrong with an image, or None.

    The first and last bytes of a complete image are enough. Otherwise it is decoded, because an
    image with padding after its end is valid.
    """
    if not data:
        return "empty"
    if has_end_marker(data[:ENDS], data[-ENDS:], len(data)):
        return None
    try:
        read_image(io.BytesIO(data))
    except DrnError as error:
        return error.message.removeprefix("image: ")
    return None


def file_error(path: Path) -> str | None:
    """Return what is wrong with an image file, or None; usually reads only its two ends."""
    try:
        size = path.stat().st_size
        if not 0 < size <= LARGEST:
            return "too large for an image" if size else "empty"
        with path.open("rb") as file:
            head = file.read(ENDS)
            file.seek(max(0, size - ENDS))
            if has_end_marker(head, file.read(), size):
                return None
        return image_error(path.read_bytes())
    except OSError as error:
        return f"cannot be read: {error.strerror or error}"


def is_complete(target: Path, size: int) -> bool:
    """Return whether an earlier run has written an image; files are renamed when complete."""
    try:
        return target.stat().st_size == size
    except FileNotFoundError:
        return False
    except OSError as error:
        raise DrnError(f"{target}: cannot be written: {error.strerror or error}") from error

"""Whether a file is a whole image, and how images get into the class folders of ImageNet."""

import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from drn_cli.data.file_ends import ENDS, has_end_marker
from drn_cli.data.images import SUFFIXES, read_image
from drn_cli.errors import DrnError
from drn_cli.files import atomic

LARGEST = 2**28  # bytes; a header that says more is broken, and would fill the memory

Advance = Callable[[int], None]  # called with the bytes of a source that are behind us


@dataclass(frozen=True, slots=True)
class Corrupt:
    """A file of the source that is no whole image, and was left out.

    Attributes:
        name: As the archive or the folder has it.
        fault: What is wrong with it.
    """

    name: str
    fault: str


@dataclass(frozen=True, slots=True)
class Taken:
    """What a split gave: images that are now in its class folders, and what was left out."""

    images: int
    corrupt: tuple[Corrupt, ...]


def is_wnid(name: str) -> bool:
    """Tell whether a name is that of a class: `n` and eight digits."""
    return len(name) == 9 and name[0] == "n" and name[1:].isascii() and name[1:].isdigit()


def is_image(name: str) -> bool:
    """Tell by its suffix whether a file should be an image; hidden files are none."""
    return not name.startswith(".") and f".{name.rpartition('.')[2].lower()}" in SUFFIXES


def fault(data: bytes) -> str | None:
    """Tell what is wrong with an image, or give None.

    The first and the last bytes are enough to know that it is whole. Where they are not as usual,
    the image is decoded: some have padding after their end, and are fine.
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


def file_fault(path: Path) -> str | None:
    """Tell what is wrong with an image in a folder; of most, only the two ends are read."""
    try:
        size = path.stat().st_size
        if not 0 < size <= LARGEST:
            return "larger than any image" if size else "empty"
        with path.open("rb") as file:
            head = file.read(ENDS)
            file.seek(max(0, size - ENDS))
            if has_end_marker(head, file.read(), size):
                return None
        return fault(path.read_bytes())
    except OSError as error:
        return f"cannot be read: {error.strerror or error}"


def is_there(target: Path, size: int) -> bool:
    """Tell whether an earlier run has written an image: what is written in part has no name."""
    try:
        return target.stat().st_size == size
    except FileNotFoundError:
        return False
    except OSError as error:
        raise DrnError(f"{target}: cannot be written: {error.strerror or error}") from error


def write_image(target: Path, data: bytes) -> None:
    """Write an image's bytes as they are."""
    with atomic(target, durable=False) as temporary:
        temporary.write_bytes(data)

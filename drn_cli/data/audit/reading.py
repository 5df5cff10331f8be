"""Reading one file of a data folder, whole and once, for all that an audit wants to know of it."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from drn_cli.data.audit.findings import CheckFinding
from drn_cli.data.audit.labels import colour_finding
from drn_cli.data.images import read_header, read_image, read_label, read_label_values
from drn_cli.data.parallel import Progress, RunningStats, in_parallel
from drn_cli.errors import DrnError

Size = tuple[int, int]  # width and height, upright


@dataclass(frozen=True, slots=True)
class DataFile:
    """A file to read.

    Attributes:
        path: The file.
        label: Whether it is read as a label map.
        sums: Whether its sums are wanted; only those of training images are.
    """

    path: Path
    label: bool = False
    sums: bool = False


@dataclass(frozen=True, slots=True)
class FileInfo:
    """What reading a file told.

    Attributes:
        size: None if it cannot be read.
        digest: Of an image's size and pixels; empty if there is none.
        moments: Sums over an image's pixels, if they were asked for.
        pixels: Pixels of each value in a label map, by rising value.
        fault: Why it is of no use.
    """

    size: Size | None = None
    digest: bytes = b""
    moments: RunningStats | None = None
    pixels: Mapping[int, int] | None = None
    fault: CheckFinding | None = None


def read_file_infos(
    items: Sequence[DataFile], progress: Progress | None
) -> Iterator[tuple[DataFile, FileInfo]]:
    """Read files on all cores, and give what each told, in their order."""
    if items:
        yield from zip(items, in_parallel(read_file_info, items, progress), strict=True)


def read_file_info(item: DataFile) -> FileInfo:
    """Read a file. One that cannot be read is told, not raised: an audit goes on."""
    try:
        return _look_at_label(item.path) if item.label else _look_at_image(item)
    except DrnError as error:
        return FileInfo(fault=CheckFinding.of("unreadable", error, item.path))
    except Exception as error:  # decoders have their own ways to fail on broken files
        message = f"broken image: {type(error).__name__}: {error}"
        return FileInfo(fault=CheckFinding("error", "unreadable", message, item.path))


def _look_at_image(item: DataFile) -> FileInfo:
    image = read_image(item.path)
    size = (image.shape[1], image.shape[0])
    digest = hashlib.blake2b(repr(size).encode(), digest_size=16)
    digest.update(np.ascontiguousarray(image).data)
    return FileInfo(size, digest.digest(), RunningStats.of(image) if item.sums else None)


def _look_at_label(path: Path) -> FileInfo:
    try:
        label = read_label(path)
    except DrnError as error:
        return _look_at_no_label_map(path, error)
    return FileInfo((label.shape[1], label.shape[0]), pixels=_counts(np.bincount(label.ravel())))


def _look_at_no_label_map(path: Path, error: DrnError) -> FileInfo:
    """Tell why a file is no label map: it raises if the file is not even an image."""
    header = read_header(path)
    mode = header.mode
    if mode == "F":  # what `read_label` says of it, with the value that is none
        return FileInfo(header.upright, fault=CheckFinding.of("unreadable", error, path))
    image = read_image(path)
    size = (image.shape[1], image.shape[0])
    if mode.startswith("I"):  # more than 8 bits, with values that do not fit into 8
        values, counts = np.unique(read_label_values(path), return_counts=True)
        return FileInfo(size, pixels=dict(zip(values.tolist(), counts.tolist(), strict=True)))
    grey = bool((image == image[..., :1]).all())
    return FileInfo(size, fault=colour_finding(path, mode, grey=grey))


def _counts(pixels: npt.NDArray[np.int64]) -> dict[int, int]:
    return {int(value): int(pixels[value]) for value in np.flatnonzero(pixels)}

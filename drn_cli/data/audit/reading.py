"""Reading each file of a data folder once, for all checks."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from drn_cli.data.audit.findings import CheckFinding
from drn_cli.data.audit.labels import color_finding
from drn_cli.data.images import read_header, read_image, read_label, read_label_values
from drn_cli.data.parallel import Progress, RunningStats, in_parallel
from drn_cli.errors import DrnError

Size = tuple[int, int]  # width and height, upright


@dataclass(frozen=True, slots=True)
class DataFile:
    """A file to read."""

    path: Path
    label: bool = False  # whether to read it as a label map
    sums: bool = False  # whether to sum its pixels for statistics, as of training images


@dataclass(frozen=True, slots=True)
class FileInfo:
    """Content of a file, as far as checks need it."""

    size: Size | None = None  # None if it cannot be read
    digest: bytes = b""  # hash of an image's size and pixels; empty for labels and unreadable files
    sums: RunningStats | None = None  # if requested
    pixels: Mapping[int, int] | None = None  # of each value of a label map, by ascending value
    fault: CheckFinding | None = None  # why it cannot be used


def read_file_infos(
    items: Sequence[DataFile], progress: Progress | None
) -> Iterator[tuple[DataFile, FileInfo]]:
    """Read files on all cores, and yield the information on each in order."""
    if items:
        yield from zip(items, in_parallel(read_file_info, items, progress), strict=True)


def read_file_info(file: DataFile) -> FileInfo:
    """Read a file; errors are returned as `fault`, because a check continues."""
    try:
        if file.label:
            return _read_label_info(file.path)
        image = read_image(file.path)
        size = (image.shape[1], image.shape[0])
        digest = hashlib.blake2b(repr(size).encode(), digest_size=16)
        digest.update(np.ascontiguousarray(image).data)
        return FileInfo(size, digest.digest(), RunningStats.of(image) if file.sums else None)
    except DrnError as error:
        return FileInfo(fault=CheckFinding.of("unreadable", error, file.path))
    except Exception as error:  # decoders raise errors of any type for broken files
        message = f"broken image: {type(error).__name__}: {error}"
        return FileInfo(fault=CheckFinding("error", "unreadable", message, file.path))


def _read_label_info(path: Path) -> FileInfo:
    try:
        label = read_label(path)
    except DrnError as error:
        return _explain_invalid_label(path, error)
    counts = np.bincount(label.ravel())
    pixels = {int(value): int(counts[value]) for value in np.flatnonzero(counts)}
    return FileInfo((label.shape[1], label.shape[0]), pixels=pixels)


def _explain_invalid_label(path: Path, error: DrnError) -> FileInfo:
    """Return why a file is not a label map; raise DrnError if it is not even an image."""
    header = read_header(path)
    mode = header.mode
    if mode == "F":  # the error of `read_label` names the invalid value
        return FileInfo(header.upright, fault=CheckFinding.of("unreadable", error, path))
    image = read_image(path)
    size = (image.shape[1], image.shape[0])
    if mode.startswith("I"):  # more than 8 bits, with values above 255
        values, counts = np.unique(read_label_values(path), return_counts=True)
        return FileInfo(size, pixels=dict(zip(values.tolist(), counts.tolist(), strict=True)))
    gray = bool((image == image[..., :1]).all())
    return FileInfo(size, fault=color_finding(path, mode, gray=gray))

"""Cache of decoded samples in memory-mapped files: a crop reads only its own rows.

Each sample has one file: a header, then `H` rows of `W` RGB pixels followed by `W` labels, uint8
`(H, 4 * W)`. The file name identifies the sample and the state of its source files, so that a
changed source is decoded again. The header has a checksum of itself and the file name, verified on
each read, and one of the pixels, verified when a process first uses the file. Files are written
under a temporary name first, so several processes may fill a cache, and a killed process leaves no
invalid file.
"""

import hashlib
import logging
import mmap
import os
import struct
import time
import zlib
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np

from drn_cli.data.classes import IGNORED
from drn_cli.data.decoding import check_labels, decode
from drn_cli.data.folders import Sample
from drn_cli.data.images import Pixels, read_header
from drn_cli.data.memory_folder import claim, memory_folder
from drn_cli.device import free_bytes
from drn_cli.errors import DrnError, explained
from drn_cli.files import atomic
from drn_cli.formatting import size

log = logging.getLogger(__name__)

Kind = Literal["disk", "memory"]
UNCACHED = "images are decoded each time they are read"

FOLDER = "drn-cache"  # default name, in the folder of the lists
# MAGIC, height, width, highest label except 255, checksum of the rows, checksum of the header.
HEAD = struct.Struct("<4s4I4x")
HEADER_CHECKSUM = struct.Struct("<I")  # checksum of the header: the last 4 bytes of HEAD
MAGIC = b"drn2"
ENTRY = f"{'[0-9a-f]' * 24}-{'[0-9a-f]' * 16}.raw"  # glob pattern of cache files
ABANDONED = 3600  # seconds after which a temporary file is no longer being written


@dataclass(slots=True)
class DecodedCache:
    """A folder of decoded samples, on disk or in shared memory."""

    folder: Path
    root: Path  # data folder: samples are identified by their paths relative to it
    writable: bool = True  # False after the first failure to write: no samples are added
    _verified: set[str] = field(default_factory=set, repr=False)  # files with verified pixels
    _damaged: set[str] = field(default_factory=set, repr=False)  # files with a warning logged

    def read(self, sample: Sample, classes: int = IGNORED) -> tuple[Pixels, Pixels]:
        """Return a cached sample, or decode it and add it to the cache.

        A damaged cache file is reported and replaced.

        Shapes: `(H, W, 3)` and `(H, W)`, read-only.

        Raises:
            DrnError: The sample cannot be decoded, or a label is neither a class nor 255.
        """
        path = self._path(sample)
        if (cached := self._map(path)) is None:
            image, label = decode(sample)
            highest = int(label[label != IGNORED].max(initial=0))
            self._write(path, image, label, highest)
        else:
            rows, highest = cached
            height, width = rows.shape[0], rows.shape[1] // 4
            image, label = rows[:, : 3 * width].reshape(height, width, 3), rows[:, 3 * width :]
        if highest >= classes:
            check_labels(label, classes, sample.label)
        return image, label

    def add(self, sample: Sample) -> None:
        """Decode a sample into the cache, unless it is cached.

        Raises:
            DrnError: The sample cannot be decoded, or its file cannot be written.
        """
        self.read(sample)
        if not self.writable:
            raise DrnError(f"{self.folder}: cannot be written", "is the disk full?")

    def holds(self, sample: Sample) -> bool:
        """Whether the current state of a sample is cached."""
        return self._path(sample).is_file()

    def sweep(self) -> None:
        """Remove temporary files of killed processes."""
        for path in self.folder.glob(f".{ENTRY}.*.tmp"):
            with suppress(OSError):
                if time.time() - path.stat().st_mtime > ABANDONED:
                    path.unlink()

    def remove(self) -> int:
        """Remove all samples, and the folder if it is empty then; return the number of files."""
        paths = [*self.folder.glob(ENTRY), *self.folder.glob(f".{ENTRY}.*.tmp")]
        for path in paths:
            path.unlink(missing_ok=True)
        with suppress(OSError):
            self.folder.rmdir()
        return len(paths)

    def _path(self, sample: Sample) -> Path:
        assert sample.label is not None, "the lists were read without labels"
        name, state = hashlib.blake2b(digest_size=12), hashlib.blake2b(MAGIC, digest_size=8)
        for path in (sample.image, sample.label):
            try:
                status = path.stat()
            except OSError as error:
                raise DrnError(f"{path}: cannot be read: {error.strerror}") from error
            name.update(os.path.relpath(path, self.root).encode() + b"\0")
            state.update(f"{status.st_size}\0{status.st_mtime_ns}\0".encode())
        return self.folder / f"{name.hexdigest()}-{state.hexdigest()}.raw"

    def _map(self, path: Path) -> tuple[Pixels, int] | None:
        """Map a file into memory; return its rows `(H, 4 * W)` and highest label.

        Returns None if it is missing or damaged.
        """
        try:
            file = os.open(path, os.O_RDONLY)
        except OSError:
            return None
        name = path.name
        try:
            data = mmap.mmap(file, 0, prot=mmap.PROT_READ)
            problem = _find_damage(data, name, rows=name not in self._verified)
        except (OSError, ValueError) as error:  # it cannot be mapped, for example if it is empty
            problem = str(error)
        finally:
            os.close(file)
        if problem is None:
            self._verified.add(name)
            _, height, width, highest, _ = HEAD.unpack_from(data)
            rows = np.frombuffer(data, np.uint8, offset=HEAD.size)
            return rows.reshape(height, 4 * width), highest
        if name not in self._damaged:
            self._damaged.add(name)
            log.warning("%s: damaged: %s; decoding its sample again", path, problem)
        self._verified.discard(name)
        return None

    def _write(self, path: Path, image: Pixels, label: Pixels, highest: int) -> None:
        if not self.writable:
            return
        height, width = label.shape
        try:
            with atomic(path, durable=False) as temporary, temporary.open("wb") as file:
                rows = np.hstack([image.reshape(height, 3 * width), label]).data
                header = HEAD.pack(MAGIC, height, width, highest, zlib.crc32(rows))
                file.write(
                    header[: -HEADER_CHECKSUM.size]
                    + HEADER_CHECKSUM.pack(_header_checksum(header, path.name))
                )
                file.write(rows)
            for old in self.folder.glob(f"{path.name.partition('-')[0]}-*"):
                if old != path:
                    old.unlink(missing_ok=True)
        except DrnError as error:
            self.writable = False
            log.warning("%s; samples not in the cache yet are decoded each time", error.message)


def _header_checksum(header: bytes, name: str) -> int:
    """Return the checksum of a header and its file's name, so that renamed files are invalid."""
    return zlib.crc32(name.encode(), zlib.crc32(header[: -HEADER_CHECKSUM.size]))


def _find_damage(data: mmap.mmap, name: str, *, rows: bool) -> str | None:
    """Describe the damage of a file; None if it is intact. Pixels are checked only with `rows`."""
    if len(data) < HEAD.size:
        return f"only {len(data)} bytes"
    _, height, width, _, checksum = HEAD.unpack_from(data)
    if HEADER_CHECKSUM.unpack_from(data, HEAD.size - HEADER_CHECKSUM.size)[0] != _header_checksum(
        data[: HEAD.size], name
    ):
        return "wrong checksum of its header"
    if len(data) != HEAD.size + 4 * height * width:
        return f"{len(data)} bytes instead of {HEAD.size + 4 * height * width}"
    if rows and zlib.crc32(memoryview(data)[HEAD.size :]) != checksum:
        return "wrong checksum of its pixels"
    return None


@dataclass(frozen=True, slots=True)
class CachePlan:
    """Samples that a cache lacks, and the space that they need."""

    samples: Sequence[Sample]
    bytes: int  # size of the samples, decoded
    free: int  # bytes

    @property
    def fits(self) -> bool:
        return self.bytes <= self.free


def cache_plan(cache: DecodedCache, samples: Sequence[Sample]) -> CachePlan:
    """Return the samples that a cache lacks and their size, from headers, without decoding."""
    missing = [sample for sample in samples if not cache.holds(sample)]
    needed = HEAD.size * len(missing)
    for sample in missing:
        with suppress(DrnError):  # reported when it is decoded
            width, height = read_header(sample.image).size
            needed += 4 * width * height
    return CachePlan(missing, needed, free_bytes(cache.folder))


@dataclass(frozen=True, slots=True)
class OpenedCache:
    """The result of opening a cache."""

    cache: DecodedCache | None  # None if it cannot be used
    message: str  # for the user, in one sentence
    refused: bool = False  # the requested cache cannot be used


def open_cache(kind: Kind, root: Path, folder: Path, samples: Sequence[Sample]) -> OpenedCache:
    """Open or create a cache for samples, which are added when they are first read.

    Args:
        kind: `disk`, or `memory`: a folder in shared memory, removed by the last run using it.
        root: Data folder.
        folder: Cache folder on disk.
        samples: Samples that will be read.
    """
    try:
        if kind == "memory":
            folder = memory_folder(str(root.absolute()))
        else:
            claim(folder)
    except (OSError, DrnError) as error:
        reason = explained(error)
        hint = f"; {reason.hint}" if reason.hint else ""
        message = f"data.cache={kind}: {reason.message}; {UNCACHED}{hint}"
        return OpenedCache(None, message, refused=True)
    if not os.access(folder, os.W_OK):
        message = f"data.cache={kind}: {folder} cannot be written; {UNCACHED}"
        return OpenedCache(None, message, refused=True)
    cache = DecodedCache(folder, root)
    plan = cache_plan(cache, samples)
    if not plan.samples:
        return OpenedCache(cache, f"all {len(samples)} samples are cached in {folder}")
    message = f"{len(plan.samples)} samples take {size(plan.bytes)} decoded in {folder}"
    if not plan.fits:
        message = f"{message}, but only {size(plan.free)} are free; {UNCACHED}"
        return OpenedCache(None, message, refused=True)
    return OpenedCache(cache, f"{message}; they are cached when first read")

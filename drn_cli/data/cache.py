"""Decoded samples in files that are mapped into memory: a crop reads its own rows and no others.

Each sample has one file: a header, then `H` rows of `W` RGB pixels and, after them in the same row,
`W` labels: uint8 `(H, 4 * W)`. Its name says which sample it holds and what the source files were
like, so that a changed source is decoded again. The header has a checksum of itself and its file's
name, verified on each read, and one of the pixels, verified when a process first uses the file.
Files are written under another name first: several processes may build the same cache at once, and
one that is killed leaves nothing that is wrong.
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
WITHOUT = "images are decoded each time they are read"

FOLDER = "drn-cache"  # its name, in the folder of the lists
# MAGIC, height, width, highest label but 255, checksum of the rows; the header's own follows.
HEAD = struct.Struct("<4s4I4x")
OWN = struct.Struct("<I")  # the last 4 bytes of HEAD
MAGIC = b"drn2"
ENTRY = f"{'[0-9a-f]' * 24}-{'[0-9a-f]' * 16}.raw"  # a pattern that nobody else's files have
ABANDONED = 3600  # seconds after which nobody is still writing a file


@dataclass(slots=True)
class DecodedCache:
    """Decoded samples on a disk, or in memory that looks like one.

    Attributes:
        folder: Where the files are.
        root: The data folder; samples are known by their paths in it.
        writable: Whether samples are still kept; not after the first failure.
    """

    folder: Path
    root: Path
    writable: bool = True
    _verified: set[str] = field(default_factory=set, repr=False)  # files whose rows are right
    _damaged: set[str] = field(default_factory=set, repr=False)  # files that were reported

    def read(self, sample: Sample, classes: int = IGNORED) -> tuple[Pixels, Pixels]:
        """Return a sample: mapped if it is kept, or else decoded, and kept for the next time.

        A damaged file is reported, and counts as not kept.

        Shapes: `(H, W, 3)` and `(H, W)`, not to be written to.

        Raises:
            DrnError: The sample cannot be decoded, or a label is neither a class nor 255.
        """
        path = self._path(sample)
        if (kept := self._mapped(path)) is None:
            image, label = decode(sample)
            highest = int(label[label != IGNORED].max(initial=0))
            self._keep(path, image, label, highest)
        else:
            rows, highest = kept
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
        """Tell whether a sample is kept, as its files are now."""
        return self._path(sample).is_file()

    def sweep(self) -> None:
        """Remove what processes that were killed had begun to write."""
        for path in self.folder.glob(f".{ENTRY}.*.tmp"):
            with suppress(OSError):
                if time.time() - path.stat().st_mtime > ABANDONED:
                    path.unlink()

    def remove(self) -> int:
        """Remove every sample, and the folder unless it holds something else.

        Returns:
            How many there were.
        """
        kept = [*self.folder.glob(ENTRY), *self.folder.glob(f".{ENTRY}.*.tmp")]
        for path in kept:
            path.unlink(missing_ok=True)
        with suppress(OSError):
            self.folder.rmdir()
        return len(kept)

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

    def _mapped(self, path: Path) -> tuple[Pixels, int] | None:
        """Map a file into memory; None if it is not there or damaged.

        Returns:
            Its rows, `(H, 4 * W)`, and the highest label.
        """
        try:
            file = os.open(path, os.O_RDONLY)
        except OSError:
            return None
        name = path.name
        try:
            data = mmap.mmap(file, 0, prot=mmap.PROT_READ)
            fault = _fault(data, name, rows=name not in self._verified)
        except (OSError, ValueError) as error:  # it cannot be mapped: it is empty, say
            fault = str(error)
        finally:
            os.close(file)
        if fault is None:
            self._verified.add(name)
            _, height, width, highest, _ = HEAD.unpack_from(data)
            rows = np.frombuffer(data, np.uint8, offset=HEAD.size)
            return rows.reshape(height, 4 * width), highest
        if name not in self._damaged:
            self._damaged.add(name)
            log.warning("%s: damaged: %s; its sample is decoded again", path, fault)
        self._verified.discard(name)
        return None

    def _keep(self, path: Path, image: Pixels, label: Pixels, highest: int) -> None:
        if not self.writable:
            return
        height, width = label.shape
        try:
            with atomic(path, durable=False) as temporary, temporary.open("wb") as file:
                rows = np.hstack([image.reshape(height, 3 * width), label]).data
                header = HEAD.pack(MAGIC, height, width, highest, zlib.crc32(rows))
                file.write(header[: -OWN.size] + OWN.pack(_own(header, path.name)))
                file.write(rows)
            for old in self.folder.glob(f"{path.name.partition('-')[0]}-*"):
                if old != path:
                    old.unlink(missing_ok=True)
        except DrnError as error:
            self.writable = False
            log.warning("%s; what is not in the cache yet is decoded each time", error.message)


def _own(header: bytes, name: str) -> int:
    """Return the checksum of a header, which is right under no other name."""
    return zlib.crc32(name.encode(), zlib.crc32(header[: -OWN.size]))


def _fault(data: mmap.mmap, name: str, *, rows: bool) -> str | None:
    """Return what is wrong with a file, if anything; the rows are checked only if `rows` is set."""
    if len(data) < HEAD.size:
        return f"it has {len(data)} bytes"
    _, height, width, _, checksum = HEAD.unpack_from(data)
    if OWN.unpack_from(data, HEAD.size - OWN.size)[0] != _own(data[: HEAD.size], name):
        return "the checksum of its header is wrong"
    if len(data) != HEAD.size + 4 * height * width:
        return f"it has {len(data)} bytes instead of {HEAD.size + 4 * height * width}"
    if rows and zlib.crc32(memoryview(data)[HEAD.size :]) != checksum:
        return "the checksum of its pixels is wrong"
    return None


@dataclass(frozen=True, slots=True)
class CachePlan:
    """What a cache lacks.

    Attributes:
        samples: Those that are not kept yet.
        bytes: What they take, decoded.
        free: What there is room for.
    """

    samples: Sequence[Sample]
    bytes: int
    free: int

    @property
    def fits(self) -> bool:
        return self.bytes <= self.free


def cache_plan(cache: DecodedCache, samples: Sequence[Sample]) -> CachePlan:
    """Find out what a cache lacks, from the heads of the images, without decoding any."""
    missing = [sample for sample in samples if not cache.holds(sample)]
    taken = sum(4 * _pixels(sample.image) + HEAD.size for sample in missing)
    return CachePlan(missing, taken, free_bytes(cache.folder))


def _pixels(path: Path) -> int:
    try:
        width, height = read_header(path).size
        return width * height
    except DrnError:
        return 0  # it will be reported when it is decoded


@dataclass(frozen=True, slots=True)
class CacheHandle:
    """A cache to read through, if there can be one.

    Attributes:
        cache: None when every crop is to be decoded.
        message: What a person should know, in one sentence.
        refused: Whether a cache was asked for and there is none.
    """

    cache: DecodedCache | None
    message: str
    refused: bool = False


def open_cache(kind: Kind, root: Path, folder: Path, samples: Sequence[Sample]) -> CacheHandle:
    """Find or make room for decoded samples; they are kept as they are first read.

    Args:
        kind: `disk`, or `memory`: a folder in shared memory that goes with the last run using it.
        root: The data folder.
        folder: Where files go on a disk.
        samples: What will be read.
    """
    try:
        if kind == "memory":
            folder = memory_folder(str(root.absolute()))
        else:
            claim(folder)
    except (OSError, DrnError) as error:
        found = explained(error)
        hint = f"; {found.hint}" if found.hint else ""
        return CacheHandle(
            None, f"data.cache={kind}: {found.message}; {WITHOUT}{hint}", refused=True
        )
    if not os.access(folder, os.W_OK):
        return CacheHandle(
            None, f"data.cache={kind}: {folder} cannot be written; {WITHOUT}", refused=True
        )
    cache = DecodedCache(folder, root)
    lacking = cache_plan(cache, samples)
    if not lacking.samples:
        return CacheHandle(cache, f"all {len(samples)} samples are decoded in {folder}")
    wants = f"{len(lacking.samples)} samples take {size(lacking.bytes)} decoded in {folder}"
    if not lacking.fits:
        return CacheHandle(
            None, f"{wants}, where {size(lacking.free)} are free; {WITHOUT}", refused=True
        )
    return CacheHandle(cache, f"{wants}, and are kept there as they are first read")

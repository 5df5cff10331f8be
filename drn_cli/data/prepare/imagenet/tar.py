"""Read tar archives that may be truncated or malicious."""

import bz2
import gzip
import lzma
import tarfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path, PurePosixPath
from typing import IO, Any, cast

from drn_cli.data.prepare.archives import NOT_OFFICIAL
from drn_cli.errors import DrnError

HINT = "download the file again; finished images are kept, and the same command resumes"
LARGEST = 2**28  # bytes of a file in an archive; a larger size in a header is wrong
UNPACKED = 2**30  # bytes of an unpacked archive; the largest compressed one of ImageNet has 0.1 GB

COMPRESSED: Mapping[bytes, Callable[[Path], Any]] = {
    b"\x1f\x8b": gzip.open,
    b"BZh": bz2.open,
    b"\xfd7zXZ": lzma.open,
}

# Errors of tarfile and of the decompressors for a damaged archive.
DAMAGE = (tarfile.TarError, EOFError, zlib.error, lzma.LZMAError, OSError)


class CorruptArchiveError(DrnError):
    """An archive is truncated or damaged; another copy of it may be intact."""

    def __init__(self, message: str, hint: str | None = HINT) -> None:
        super().__init__(message, hint)


class _Stream:
    """File object for tarfile with a size limit, because a few KB may unpack to terabytes.

    Args:
        file: The archive, decompressed while it is read.
        where: Its name in errors.
        end: Largest offset that may be read; None has no limit.
    """

    def __init__(self, file: IO[bytes], where: str, end: int | None) -> None:
        self.file, self.where, self.end = file, where, end

    def read(self, size: int) -> bytes:
        # tarfile reads files in blocks of a few KB, but an extended header at once.
        if size > LARGEST:
            raise DrnError(f"{self.where}: a header claims to have {size / 1e9:.1f} GB")
        self._check(self.file.tell() + size)
        return self.file.read(size)

    def seek(self, offset: int) -> int:
        self._check(offset)
        return self.file.seek(offset)

    def tell(self) -> int:
        return self.file.tell()

    def close(self) -> None:
        self.file.close()

    def _check(self, offset: int) -> None:
        if self.end is not None and offset > self.end:
            raise DrnError(
                f"{self.where}: refused: unpacks to more than {self.end / 1e9:.1f} GB", NOT_OFFICIAL
            )


def _stream(path: Path) -> _Stream:
    with path.open("rb") as file:
        start = file.read(6)
    for magic, unpack in COMPRESSED.items():
        if start.startswith(magic):
            return _Stream(unpack(path), str(path), UNPACKED)
    return _Stream(path.open("rb"), str(path), None)


@contextmanager
def open_tar(where: str, file: Path | IO[bytes]) -> Iterator[tarfile.TarFile]:
    """Open an archive by its path, or a file object at the start of an archive.

    Raises:
        DrnError: The archive is missing or damaged.
    """
    with ExitStack() as stack:  # errors in the caller's block must not reach the `except` clauses
        try:
            stream: Any = file
            if isinstance(file, Path):
                stream = stack.enter_context(closing(_stream(file)))
            archive = stack.enter_context(tarfile.open(fileobj=stream, mode="r:"))
        except FileNotFoundError as error:
            raise DrnError(f"{where}: no such file") from error
        except DAMAGE as error:
            why = f": {error.strerror}" if isinstance(error, OSError) and error.strerror else ""
            raise CorruptArchiveError(f"{where}: damaged, or not a tar archive{why}") from error
        yield archive


@contextmanager
def open_inner(
    archive: tarfile.TarFile, member: tarfile.TarInfo, where: str
) -> Iterator[tarfile.TarFile]:
    """Open an archive inside another one; its offsets are relative to the outer file."""
    file = archive.fileobj
    assert file is not None  # only None for an archive opened in another mode
    file.seek(member.offset_data)
    with open_tar(where, cast(IO[bytes], file)) as inner:
        yield inner


def members(
    archive: tarfile.TarFile, where: str, end: int | None = None
) -> Iterator[tarfile.TarInfo]:
    """Yield the files of an archive in order.

    Args:
        archive: The archive, of which nothing was read.
        where: Its name in errors.
        end: Offset in the file at which the archive ends, if known.

    Raises:
        DrnError: The archive is truncated or damaged, or contains a link, a device, or a path that
            points outside.
    """
    last = None
    while True:
        try:
            member = archive.next()
            # tarfile stops at an invalid header without an error.
            if member is None and not _at_end(archive):
                raise tarfile.ReadError
            if member and end is not None and member.offset_data + member.size > end:
                raise tarfile.ReadError
        except DAMAGE as error:
            after = f"after {last}" if last else "before its first file"
            raise CorruptArchiveError(f"{where}: truncated or damaged {after}") from error
        if member is None:
            return
        last = member.name
        path = PurePosixPath(member.name)
        if path.is_absolute() or ".." in path.parts:
            raise DrnError(f"{where}: {member.name}: refused: path points outside the archive")
        if member.isfile():
            yield member
        elif not member.isdir():
            raise DrnError(f"{where}: {member.name}: refused: neither a file nor a folder")


def _at_end(archive: tarfile.TarFile) -> bool:
    """Return whether a block of zeros follows, which marks the end of an archive."""
    file = archive.fileobj
    assert file is not None
    file.seek(archive.offset)
    return file.read(tarfile.BLOCKSIZE) == bytes(tarfile.BLOCKSIZE)


def read_member(archive: tarfile.TarFile, member: tarfile.TarInfo, where: str) -> bytes:
    """Read a file of an archive; raises DrnError if the archive is truncated or damaged."""
    file = archive.extractfile(member)
    try:
        return file.read() if file else b""
    except DAMAGE as error:
        raise CorruptArchiveError(f"{where}: truncated or damaged in {member.name}") from error


def read_members(path: Path, wanted: Callable[[str], bool]) -> Iterator[tuple[str, bytes]]:
    """Yield name and content of the files in an archive whose names `wanted` accepts.

    Args:
        path: The archive; it may be compressed.
        wanted: Called with the name of each file.

    Raises:
        DrnError: The archive is missing or damaged, or contains links, paths that point outside,
            or a file above `LARGEST`.
    """
    with open_tar(str(path), path) as archive:
        for member in members(archive, str(path)):
            if wanted(member.name):
                if member.size > LARGEST:
                    raise DrnError(f"{path}: {member.name}: too large: {member.size:,} bytes")
                yield member.name, read_member(archive, member, str(path))

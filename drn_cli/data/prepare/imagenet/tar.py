"""Reading tar archives, with care: they come from elsewhere, and may be cut off or made to harm."""

import bz2
import gzip
import lzma
import tarfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path, PurePosixPath
from typing import IO, Any, cast

from drn_cli.errors import DrnError

HINT = "get the file again; what is done is kept, and the same command goes on from there"
LARGEST = 2**28  # bytes; a file of which the header says more is broken
UNPACKED = 2**30  # bytes of a compressed archive, unpacked; the largest of ImageNet has 0.1 GB

COMPRESSED: Mapping[bytes, Callable[[Path], Any]] = {
    b"\x1f\x8b": gzip.open,
    b"BZh": bz2.open,
    b"\xfd7zXZ": lzma.open,
}

# What tarfile raises for a damaged archive; a compressed one can fail in two more ways.
BROKEN = (tarfile.TarError, EOFError, zlib.error, lzma.LZMAError, OSError)


class DamagedError(DrnError):
    """An archive breaks off, or is broken. Another copy of it may be whole."""

    def __init__(self, message: str, hint: str | None = HINT) -> None:
        super().__init__(message, hint)


class _Stream:
    """The bytes of an archive as tarfile wants them, up to a limit: a few KB may unpack to TBs.

    Args:
        file: The archive, unpacked while it is read if it is compressed.
        where: What errors call it.
        end: Where to stop; None for a file that is as long as it is.
    """

    def __init__(self, file: IO[bytes], where: str, end: int | None) -> None:
        self.file, self.where, self.end = file, where, end

    def read(self, size: int) -> bytes:
        # Of files, tarfile reads blocks of a few KB, but a header as long as it says it is.
        if size > LARGEST:
            raise DrnError(f"{self.where}: a part of it says that it has {size / 1e9:.1f} GB")
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
                f"{self.where}: unpacks to more than {self.end / 1e9:.1f} GB, refused",
                "this is not the official archive: get it from where the data set is published",
            )


def _stream(path: Path) -> _Stream:
    with path.open("rb") as file:
        start = file.read(6)
    for magic, unpack in COMPRESSED.items():
        if start.startswith(magic):
            return _Stream(unpack(path), str(path), UNPACKED)
    return _Stream(path.open("rb"), str(path), None)


@contextmanager
def opened(where: str, file: Path | IO[bytes]) -> Iterator[tarfile.TarFile]:
    """Open an archive, from its path or from where in a file it starts.

    Raises:
        DrnError: It is missing or broken.
    """
    with ExitStack() as stack:  # the caller's errors are not to pass through the `except`s
        try:
            stream: Any = file
            if isinstance(file, Path):
                stream = stack.enter_context(closing(_stream(file)))
            archive = stack.enter_context(tarfile.open(fileobj=stream, mode="r:"))
        except FileNotFoundError as error:
            raise DrnError(f"{where}: no such file") from error
        except BROKEN as error:
            why = f": {error.strerror}" if isinstance(error, OSError) and error.strerror else ""
            raise DamagedError(f"{where}: is broken, or no tar archive{why}") from error
        yield archive


@contextmanager
def inside(
    archive: tarfile.TarFile, member: tarfile.TarInfo, where: str
) -> Iterator[tarfile.TarFile]:
    """Open an archive where it lies in another; its offsets are those in the other's file."""
    file = archive.fileobj
    assert file is not None  # it is a mode of opening that we do not use
    file.seek(member.offset_data)
    with opened(where, cast(IO[bytes], file)) as inner:
        yield inner


def members(
    archive: tarfile.TarFile, where: str, end: int | None = None
) -> Iterator[tarfile.TarInfo]:
    """Yield the files of an archive in their order.

    Args:
        archive: Opened, and not read yet.
        where: What errors call it.
        end: Where in its file it should have come to an end.

    Raises:
        DrnError: The archive breaks off, or has a member that a data set has no use for: a link,
            a device, or a path that leads out.
    """
    last = None
    while True:
        try:
            member = archive.next()
            # Of what should be a header and is none, tarfile says nothing: it just stops.
            if member is None and not _at_end(archive):
                raise tarfile.ReadError
            if member and end is not None and member.offset_data + member.size > end:
                raise tarfile.ReadError
        except BROKEN as error:
            after = f"after {last}" if last else "before its first file"
            raise DamagedError(f"{where}: is cut off or damaged {after}") from error
        if member is None:
            return
        last = member.name
        path = PurePosixPath(member.name)
        if path.is_absolute() or ".." in path.parts:
            raise DrnError(f"{where}: {member.name}: refused: the path leads out of the archive")
        if member.isfile():
            yield member
        elif not member.isdir():
            raise DrnError(f"{where}: {member.name}: refused: neither a file nor a folder")


def _at_end(archive: tarfile.TarFile) -> bool:
    """Tell whether a block of zeros follows, which marks the end of an archive."""
    file = archive.fileobj
    assert file is not None
    file.seek(archive.offset)
    return file.read(tarfile.BLOCKSIZE) == bytes(tarfile.BLOCKSIZE)


def content(archive: tarfile.TarFile, member: tarfile.TarInfo, where: str) -> bytes:
    """Read a file of an archive; raises DrnError if the archive breaks off in it."""
    file = archive.extractfile(member)
    try:
        return file.read() if file else b""
    except BROKEN as error:
        raise DamagedError(f"{where}: is cut off or damaged in {member.name}") from error


def read_small(path: Path, wanted: Callable[[str], bool]) -> Iterator[tuple[str, bytes]]:
    """Yield name and content of the files in an archive, compressed or not, that are wanted.

    Raises:
        DrnError: The archive is missing, broken, or holds links or paths that lead out of it.
    """
    with opened(str(path), path) as archive:
        for member in members(archive, str(path)):
            if wanted(member.name):
                if member.size > LARGEST:
                    raise DrnError(f"{path}: {member.name}: is too large for what it should be")
                yield member.name, content(archive, member, str(path))

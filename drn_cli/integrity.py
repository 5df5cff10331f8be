"""Checksums: of zip archives, of files with a digest beside them, and of bytes.

CRC-32 detects damage (a flipped bit, a truncated file), not forgery.
"""

import hashlib
import lzma
import os
import re
import stat
import struct
import zipfile
import zlib
from collections.abc import Iterable
from contextlib import nullcontext
from pathlib import Path
from typing import IO

from drn_cli.errors import DrnError, FaultError, limit_reached, refused_by_system, remedy
from drn_cli.files import read_bytes

# Exceptions of zipfile for an archive that is damaged, encrypted, or has an unknown compression.
ZIP_DAMAGE = (
    *(zipfile.BadZipFile, zlib.error, lzma.LZMAError, struct.error),
    *(EOFError, NotImplementedError, RuntimeError, ValueError),
)
ZIP_ERRORS = (*ZIP_DAMAGE, OSError)
BLOCK = 1 << 20
# Weights hardly compress (pytorchcv's archives: to 93 %); zip bombs to a thousandth.
LARGEST_RATIO = 20
SMALL = 64 << 20  # bytes that may be unpacked at any ratio
LARGEST = 8 << 30
MOST_RECORDS = 50_000
LOCAL_HEADER = struct.Struct("<4s22xHH")  # signature; lengths of name and extra fields


def crc32(chunks: Iterable[bytes | bytearray | memoryview]) -> str:
    """Return the CRC-32 of the concatenated chunks, as 8 hexadecimal digits."""
    value = 0
    for chunk in chunks:
        value = zlib.crc32(chunk, value)
    return f"{value:08x}"


def check_zip(source: Path | IO[bytes], path: Path, *, stored: bool = False) -> bool:
    """Check the sizes in the index of a zip archive, then the CRC-32 of every record.

    Archives whose index exceeds the limits are refused before anything is unpacked: more than
    64 MiB and 20 times the size of the archive, 8 GiB, or 50,000 records.

    Args:
        source: The archive, or an open file (which stays open, at any position).
        path: The archive, for messages.
        stored: Whether to refuse compressed records, because the writer never creates them.

    Returns:
        Whether the archive has checksums: after `torch.serialization.set_crc32_options(False)`,
        torch writes zeros instead.

    Raises:
        DrnError: Damaged, cut short, or refused.
    """
    try:
        with (
            source.open("rb") if isinstance(source, Path) else nullcontext(source) as file,
            zipfile.ZipFile(file) as archive,
        ):
            records = archive.infolist()
            _check_index(records, file.seek(0, 2), path, stored=stored)
            if not any(record.CRC for record in records if record.file_size):
                return False
            for record in records:
                _check_record(archive, file, record)
    except ZIP_ERRORS as error:
        raise damaged(path, error) from error
    return True


def check_sizes(archive: zipfile.ZipFile, path: Path) -> None:
    """Check only the sizes in the index of an open archive, see `check_zip`."""
    file = archive.fp
    assert file is not None
    _check_index(archive.infolist(), file.seek(0, 2), path, stored=False)


def damaged(path: Path, error: Exception | str) -> DrnError:
    """Return the error for a damaged file, or for the system error that is the actual cause.

    Permissions, the limit of open files or a failing disk are no damage.
    """
    if fault := fault_of(path, error):
        return fault
    lines = [line.strip() for line in str(error).splitlines()]
    # OpenVINO and PyTorch prepend locations in their own code.
    lines = [
        line.partition("] ")[2].lstrip(". ") if line.startswith("[enforce fail at ") else line
        for line in lines
        if line and not line.startswith(("Exception from ", "Check '"))
    ]
    reason = (lines or [""])[0].split(". ")[0].strip() or type(error).__name__
    return DrnError(f"{path}: damaged or cut short: {reason}", "copy, download or export it again")


def fault_of(path: Path, error: Exception | str) -> FaultError | None:
    """Return the error for a resource limit or system error; None for damage."""
    # zipfile and PyTorch replace some of these errors by their own.
    for one in (error, getattr(error, "__context__", None)):
        if isinstance(one, Exception) and (limit := limit_reached(one)):
            return FaultError(f"{path}: {limit.message}", limit.hint)
        if refused_by_system(one):
            return FaultError(f"{path}: cannot be read: {one.strerror}", remedy(one))
    return None


def content_start(file: IO[bytes], record: zipfile.ZipInfo) -> int:
    """Return the offset of a record's content, after its local header, whose size may vary."""
    file.seek(record.header_offset)
    signature, name, extra = LOCAL_HEADER.unpack(file.read(LOCAL_HEADER.size))
    if signature != b"PK\3\4":
        raise zipfile.BadZipFile(f"no header of {record.filename!r}")
    return record.header_offset + LOCAL_HEADER.size + int(name) + int(extra)


def open_regular(path: Path, what: str) -> IO[bytes]:
    """Open a regular file for reading; pipes and devices are refused, as opening could block.

    Args:
        path: The file.
        what: Expected content, for messages: `a weight file`.

    Raises:
        DrnError: No such file, a folder, not a regular file, or it cannot be read.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    except FileNotFoundError as error:
        raise DrnError(f"{path}: no such file") from error
    except OSError as error:
        raise damaged(path, error) from error
    mode = os.fstat(descriptor).st_mode
    if not stat.S_ISREG(mode):
        os.close(descriptor)
        kind = "a folder" if stat.S_ISDIR(mode) else "a pipe or device"
        raise DrnError(f"{path}: {kind}, not {what}")
    return os.fdopen(descriptor, "rb")


def digest_file(path: Path) -> Path:
    """Return the path of the file beside `path` with its SHA-256, in the format of sha256sum."""
    return path.with_name(f"{path.name}.sha256")


def recorded_digest(path: Path) -> str | None:
    """Return the SHA-256 recorded beside a file, or None."""
    try:
        content = read_bytes(digest_file(path), BLOCK)
    except DrnError:
        return None
    found = re.match(b"[0-9a-f]{64}(?![0-9a-f])", content)
    return found and found[0].decode()


def check_recorded_digest(file: IO[bytes], path: Path) -> bool:
    """Verify the SHA-256 recorded beside a file; return whether there is one.

    Raises:
        DrnError: The digests differ, or the file cannot be read.
    """
    recorded = recorded_digest(path)
    if recorded is None:
        return False
    file.seek(0)
    try:
        found = hashlib.file_digest(file, "sha256").hexdigest()  # type: ignore[arg-type]
    except OSError as error:
        raise damaged(path, error) from error
    if found != recorded:
        raise DrnError(
            f"{path}: its SHA-256 is {found}, but {digest_file(path).name} has {recorded}",
            f"copy or download it again, or remove {digest_file(path)}",
        )
    return True


def _check_index(records: list[zipfile.ZipInfo], size: int, path: Path, *, stored: bool) -> None:
    if len(records) > MOST_RECORDS:
        raise DrnError(f"{path}: refused: {len(records):,} records, more than {MOST_RECORDS:,}")
    if len({record.filename for record in records}) < len(records):
        # Readers differ in which of them they use.
        raise DrnError(
            f"{path}: refused: two records of the same name", "copy or download it again"
        )
    for record in records if stored else ():
        if record.compress_type != zipfile.ZIP_STORED:
            raise DrnError(
                f"{path}: refused: {record.filename!r} is compressed, unlike in files of PyTorch",
                "unpack the archive and pack it again without compression",
            )
    total = sum(record.file_size for record in records)
    if total > min(LARGEST, size if stored else max(SMALL, LARGEST_RATIO * size)):
        raise DrnError(
            f"{path}: refused: an archive of {size:,} bytes that unpacks to {total:,}",
            "weights hardly compress: check where the file came from",
        )


def _check_record(archive: zipfile.ZipFile, file: IO[bytes], record: zipfile.ZipInfo) -> None:
    # Opening compares the name with that in the local header, and detects overlapping records.
    with archive.open(record) as opened:
        if record.compress_type != zipfile.ZIP_STORED:
            while opened.read(BLOCK):  # checks the CRC at the end
                pass
            return
    if record.file_size != record.compress_size:
        raise zipfile.BadZipFile(f"two sizes for {record.filename!r}")
    # As zipfile does, but without its copies: three times faster.
    file.seek(content_start(file, record))
    value, left, block = 0, record.file_size, memoryview(bytearray(min(BLOCK, record.file_size)))
    while left:
        count = file.readinto(block[: min(left, BLOCK)])  # type: ignore[attr-defined]
        if not count:
            raise EOFError(f"{record.filename!r} ends after {record.file_size - left} bytes")
        value = zlib.crc32(block[:count], value)
        left -= count
    if value != record.CRC:
        raise zipfile.BadZipFile(f"bad CRC-32 for {record.filename!r}")

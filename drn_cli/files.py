"""Validated reading and atomic writing of files.

Nothing here writes through a symbolic link: `atomic` replaces the link, `open_lock`, `open_part`
and `open_append` refuse it.
"""

import codecs
import csv
import errno
import fcntl
import hashlib
import json
import logging
import os
import re
import secrets
import shutil
import stat
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from drn_cli.errors import DrnError

log = logging.getLogger(__name__)

FORMULA = re.compile(r"'*[=+\-@\t]")  # cells that spreadsheets evaluate, escaped or not
TEXT = 2**28  # bytes, limit of text files; lists of ImageNet have 10**8
csv.field_size_limit(TEXT)  # the default, 128 KiB per cell, raises an error without file name
NAME_MAX = 255  # bytes of a file name, on all common file systems


@contextmanager
def atomic(path: Path, *, durable: bool = True) -> Iterator[Path]:
    """Yield a temporary path beside `path`, and rename it to `path` if the block succeeds.

    On any failure the temporary file is removed and `path` is not changed.

    Args:
        path: The final file. Its folder is created if it is missing.
        durable: Sync file and folder to the disk. Not needed for thousands of images.

    Raises:
        DrnError: The folder cannot be created or written.
    """
    # Named before it is created, so that an interrupt in between leaves nothing behind.
    temporary = hidden_beside(path, f"{secrets.token_hex(4)}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.touch(exist_ok=False)
        yield temporary
        if durable:
            with temporary.open("rb") as written:
                os.fsync(written.fileno())
        temporary.replace(path)
        if durable:
            sync_folder(path.parent)
    except OSError as error:
        raise DrnError(f"{path}: cannot be written: {error.strerror or error}") from error
    finally:
        with suppress(OSError):
            temporary.unlink()


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Yield a temporary folder beside `path`, and rename it to `path` if the block succeeds.

    On any failure, including interrupts, the temporary folder is removed.

    Raises:
        DrnError: `path` exists and is not empty, or cannot be written.
    """
    if path.exists() and not (path.is_dir() and not any(path.iterdir())):
        raise DrnError(f"{path}: exists already", "remove it or choose another folder")
    with scratch_folder(path) as temporary:
        yield temporary
        temporary.replace(path)
        sync_folder(path.parent)


@contextmanager
def scratch_folder(path: Path) -> Iterator[Path]:
    """Create a temporary folder beside `path` for the block.

    Raises:
        DrnError: The folder cannot be created, or the block raises an OSError.
    """
    temporary = hidden_beside(path, f"{secrets.token_hex(4)}.tmp")
    try:
        temporary.mkdir(parents=True)
        yield temporary
    except OSError as error:
        raise DrnError(f"{path}: cannot be written: {error.strerror or error}") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def sync_folder(folder: Path) -> None:
    """Sync the entries of a folder to the disk, if the file system supports it.

    Raises:
        OSError: The disk failed.
    """
    try:
        opened = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except PermissionError:  # a folder that is writable but not readable
        return
    try:
        os.fsync(opened)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EBADF):
            raise
    finally:
        os.close(opened)


def hidden_beside(path: Path, ending: str) -> Path:
    """Return the path of a hidden file beside `path`, `.NAME.ENDING`, with NAME cut if too long."""
    name = path.name
    while len(os.fsencode(f".{name}.{ending}")) > NAME_MAX:
        name = name[:-1]
    return path.with_name(f".{name}.{ending}")


def open_lock(path: Path) -> IO[bytes]:
    """Open a lock file, created if it is missing, without truncating it; raises as `open_part`."""
    return os.fdopen(_open_own(path, os.O_RDWR), "r+b", buffering=0)


@contextmanager
def locked(path: Path, busy: DrnError) -> Iterator[bool]:
    """Hold a lock file, which is created for the block and removed afterwards.

    The lock is that of flock(2), which belongs to the open file: it also excludes other threads of
    the process, and closing another handle of the file does not release it. A killed process leaves
    the unlocked file behind.

    Args:
        path: The lock file, in a folder that may be missing.
        busy: Error to raise if another process holds the lock.

    Yields:
        Whether the lock was acquired; False if the file system does not support locks.

    Raises:
        DrnError: `busy`, or the folder or file cannot be created.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DrnError(f"{path.parent}: cannot be written: {error.strerror or error}") from error
    while True:
        with open_lock(path) as file:
            acquired = True
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise busy from error
            except OSError:
                acquired = False
            try:
                current = path.stat().st_ino == os.fstat(file.fileno()).st_ino
            except FileNotFoundError:
                current = False
            if current:  # not the file that its last owner has just removed
                try:
                    yield acquired
                finally:
                    path.unlink(missing_ok=True)
                return


def clear_leftovers(path: Path) -> None:
    """Remove temporary folders that killed processes left beside `path`.

    The caller must hold the lock that guards their creation: a `hidden_beside` file with an ending
    of 12 characters, the length of temporary endings. Long names are then cut at the same character
    in both, so that names which share a temporary folder share the lock.
    """
    ending = "00000000.tmp"
    start = hidden_beside(path, ending).name.removesuffix(ending)
    pattern = re.compile(rf"{re.escape(start)}[0-9a-f]{{8}}\.tmp")
    try:
        beside = sorted(path.parent.iterdir())
    except OSError:  # a folder that is writable but not readable
        return
    for found in beside:
        if pattern.fullmatch(found.name) and found.is_dir() and not found.is_symlink():
            log.info("%s: removed leftover of a killed run", found)
            shutil.rmtree(found, ignore_errors=True)


def open_part(path: Path) -> IO[bytes]:
    """Open a binary file for appending, created if it is missing.

    Raises:
        DrnError: It is a link or not a regular file, or it cannot be opened.
    """
    return os.fdopen(_open_own(path, os.O_WRONLY | os.O_APPEND), "ab")


def open_append(path: Path) -> IO[str]:
    """Open a text file for appending, created if it is missing; raises as `open_part`."""
    return os.fdopen(_open_own(path, os.O_WRONLY | os.O_APPEND), "a", encoding="utf-8", newline="")


def _open_own(path: Path, flags: int) -> int:
    # O_NONBLOCK: opening a named pipe fails instead of waiting for a reader.
    flags |= os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        opened = os.open(path, flags, 0o666)
        if stat.S_ISREG(os.fstat(opened).st_mode):
            return opened
        os.close(opened)
    except OSError as error:
        if error.errno not in (errno.ELOOP, errno.ENXIO):
            raise DrnError(f"{path}: cannot be written: {error.strerror or error}") from error
    kind = "symbolic link" if path.is_symlink() else "special file"
    raise DrnError(
        f"{path}: is a {kind}, and nothing is written through it",
        "remove it or choose another folder",
    )


def write_text(path: Path, text: str) -> None:
    with atomic(path) as temporary:
        # File names in the text need not be UTF-8.
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace")


def write_json(path: Path, value: Any) -> None:
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Write a CSV file in which cells that look like formulas are prefixed by an apostrophe."""
    with (
        atomic(path) as temporary,
        temporary.open("w", encoding="utf-8", newline="", errors="backslashreplace") as file,
    ):
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(map(_csv_cell, header))
        writer.writerows(map(_csv_cell, row) for row in rows)


def _csv_cell(cell: object) -> object:
    if not isinstance(cell, str):
        return cell
    cell = cell.replace("\r", "\\r")  # csv does not quote it, and readers take it for a row end
    if not FORMULA.match(cell):
        return cell
    try:
        float(cell)
    except ValueError:
        return f"'{cell}"
    return cell


def csv_text(cell: str) -> str:
    """Return the original text of a cell that `write_csv` wrote."""
    return cell[1:] if cell.startswith("'") and FORMULA.match(cell) else cell


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file in hexadecimal; raises DrnError if it cannot be read."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise DrnError(f"{path}: cannot be read: {error.strerror or error}") from error


def user_path(name: str | Path) -> Path:
    """Return a path with `~` replaced by the home folder.

    Raises:
        DrnError: The home folder is unknown, as in containers with an unknown user id.
    """
    path = Path(name)
    try:
        return path.expanduser()
    except RuntimeError as error:
        raise DrnError(
            f"{path}: unknown home folder {path.parts[0]}", "set HOME, or use an absolute path"
        ) from error


def require_folder(
    path: Path, wanted: str, hint: str | None = None, *, noun: str = "folder"
) -> None:
    """Check that a path is a folder.

    Args:
        path: The path.
        wanted: Expected content, for the message: `images`.
        hint: Hint for a missing folder.
        noun: Name of the folder in the message about a missing one.

    Raises:
        DrnError: The path is missing, is a file, or cannot be read.
    """
    try:
        found = path.stat()
    except FileNotFoundError as error:
        raise DrnError(f"{path}: no such {noun}", hint) from error
    except NotADirectoryError as error:
        parent = next(one for one in path.parents if os.path.lexists(one))
        raise DrnError(f"{path}: no such {noun}: {parent} is not a folder", hint) from error
    except OSError as error:
        raise DrnError(f"{path}: cannot be read: {error.strerror or error}") from error
    if not stat.S_ISDIR(found.st_mode):
        raise DrnError(f"{path}: is a file, expected a folder of {wanted}", hint)


def read_bytes(path: Path, largest: int | None = None) -> bytes:
    """Read a file; raises DrnError if it is missing, not a regular file, or cannot be read.

    Args:
        path: The file.
        largest: Maximum size in bytes; larger files are refused before they are read.
    """
    try:
        # O_NONBLOCK: opening a named pipe must not wait for a writer.
        with open(
            path, "rb", buffering=0, opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK)
        ) as file:
            found = os.fstat(file.fileno())
            if largest is not None and found.st_size > largest:
                raise DrnError(
                    f"{path}: refused: {found.st_size:,} bytes, more than {largest:,}",
                    "check where the file came from",
                )
            if stat.S_ISREG(found.st_mode):
                return file.readall()
        raise DrnError(f"{path}: is not a regular file")
    except IsADirectoryError as error:
        raise DrnError(f"{path}: is a folder, not a file") from error
    except FileNotFoundError as error:
        raise DrnError(f"{path}: no such file") from error
    except OSError as error:
        raise DrnError(f"{path}: cannot be read: {error.strerror or error}") from error


def read_text(path: Path, limit: int = TEXT) -> str:
    """Read a UTF-8 text file, with or without byte order mark; raises as `read_bytes` does."""
    return decode_text(read_bytes(path, limit).removeprefix(codecs.BOM_UTF8), str(path))


def decode_text(content: bytes, where: str) -> str:
    """Decode UTF-8; raises DrnError with the line and the invalid byte."""
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        byte = f"byte 0x{content[error.start]:02x}"
        raise DrnError(f"{where}:{line}: not UTF-8 text: {byte}") from error


def read_json(path: Path) -> Any:
    """Read a JSON file; raises DrnError with file and line if it is invalid."""
    return _parse(decode_text(read_bytes(path, TEXT), str(path)), str(path), lines=True)


def parse_json(text: str | bytes, where: str) -> Any:
    """Parse JSON inside of a file; NaN and Infinity are accepted, as Python writes them.

    Args:
        text: The JSON; bytes must be UTF-8.
        where: Location for messages: `FILE:LINE`, or `FILE: metadata KEY`.

    Raises:
        DrnError: Not JSON, nested too deep, or with a number of thousands of digits.
    """
    decoded = decode_text(text, where) if isinstance(text, bytes) else text
    return _parse(decoded, where, lines=False)


def _parse(text: str, where: str, *, lines: bool) -> Any:
    def at(line: int) -> str:
        return f"{where}:{line}" if lines else where

    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise DrnError(f"{at(error.lineno)}: not valid JSON: {error.msg}") from error
    except RecursionError as error:
        raise DrnError(f"{where}: not usable JSON: nested too deep") from error
    except ValueError as error:  # Python limits the number of digits of integers
        digits = re.search(rf"\d{{{sys.get_int_max_str_digits() + 1},}}", text)
        line = text.count("\n", 0, digits.start()) + 1 if digits else 1
        many = f"a number of {len(digits[0])} digits" if digits else str(error)
        raise DrnError(f"{at(line)}: not usable JSON: {many}") from error

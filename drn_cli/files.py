"""Read files that may be broken; write so that a reader sees the old file or the new one.

Nothing here writes through a symbolic link that lies in place of a file: `atomic` replaces the
link, `open_lock`, `open_part` and `open_append` refuse it.
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

FORMULA = re.compile(r"'*[=+\-@\t]")  # text that spreadsheets compute, or that was kept from it
TEXT = 2**28  # bytes of a list or table: that of ImageNet has 10**8
csv.field_size_limit(TEXT)  # Python's own, 128 KiB a cell, is an error that names no file
NAME_MAX = 255  # bytes of a file's name, on every file system in use


@contextmanager
def atomic(path: Path, *, durable: bool = True) -> Iterator[Path]:
    """Yield a temporary path beside `path`; rename it to `path` if the block succeeds.

    On any failure the temporary file goes and `path` is left as it was.

    Args:
        path: The final file. Its folder is made when it is missing.
        durable: Wait until the bytes and the new name are on the disk. Images by the thousand can
            do without.

    Raises:
        DrnError: The folder cannot be made or written.
    """
    # Named before it is made: an interrupt between the two leaves nothing behind.
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
    """Yield a temporary folder beside `path`; rename it to `path` if the block succeeds.

    On any failure, an interrupt too, the temporary folder goes.

    Raises:
        DrnError: `path` exists and holds something, or cannot be written.
    """
    if path.exists() and not (path.is_dir() and not any(path.iterdir())):
        raise DrnError(f"{path}: exists already", "remove it or choose another folder")
    with scratch_folder(path) as temporary:
        yield temporary
        temporary.replace(path)
        sync_folder(path.parent)


@contextmanager
def scratch_folder(path: Path) -> Iterator[Path]:
    """Make a temporary folder beside `path` for the block.

    Raises:
        DrnError: It cannot be made, or the block ends with an OSError.
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
    """Wait until names that were made, replaced or removed in a folder are on the disk.

    Raises:
        OSError: The disk failed. A file system that has no such operation is no failure.
    """
    try:
        opened = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except PermissionError:  # a folder that may be written but not listed
        return
    try:
        os.fsync(opened)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EBADF):
            raise
    finally:
        os.close(opened)


def hidden_beside(path: Path, ending: str) -> Path:
    """Name a hidden file beside `path`, `.NAME.ENDING`; a NAME too long for that is cut short."""
    name = path.name
    while len(os.fsencode(f".{name}.{ending}")) > NAME_MAX:
        name = name[:-1]
    return path.with_name(f".{name}.{ending}")


def open_lock(path: Path) -> IO[bytes]:
    """Open a lock file, made when it is missing, as it is: neither emptied nor through a link.

    Raises:
        DrnError: It is a link or no regular file, or it cannot be opened.
    """
    return os.fdopen(_open_own(path, os.O_RDWR), "r+b", buffering=0)


@contextmanager
def locked(path: Path, busy: DrnError) -> Iterator[bool]:
    """Hold a lock file, made for the block and removed after it, in a folder that may be missing.

    The lock is flock's, which belongs to the opened file: two threads of one process exclude each
    other, and no other use of the file drops it. A process that is killed leaves the file alone.

    Args:
        path: The file.
        busy: What is raised where another process holds it.

    Yields:
        False where the file system has no locks, so that nothing is known of others.

    Raises:
        DrnError: `busy`, or the folder or the file cannot be made.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DrnError(f"{path.parent}: cannot be written: {error.strerror or error}") from error
    while True:
        with open_lock(path) as file:
            alone = True
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise busy from error
            except OSError:
                alone = False
            try:
                current = path.stat().st_ino == os.fstat(file.fileno()).st_ino
            except FileNotFoundError:
                current = False
            if current:  # and not one that its last owner has just removed
                try:
                    yield alone
                finally:
                    path.unlink(missing_ok=True)
                return


def clear_leftovers(path: Path) -> None:
    """Remove temporary folders that killed processes left beside `path`.

    The caller holds a lock without which none is made: a file beside `path` with an ending of 12
    characters, the length of a temporary ending. Then a long name is cut at the same place in
    both, so who clears temporary folders holds the lock of all that they may be of.
    """
    ending = "00000000.tmp"
    start = hidden_beside(path, ending).name.removesuffix(ending)
    pattern = re.compile(rf"{re.escape(start)}[0-9a-f]{{8}}\.tmp")
    try:
        beside = sorted(path.parent.iterdir())
    except OSError:  # a folder that may be written and not listed
        return
    for found in beside:
        if pattern.fullmatch(found.name) and found.is_dir() and not found.is_symlink():
            log.info("%s: removed, a killed run left it", found)
            shutil.rmtree(found, ignore_errors=True)


def open_part(path: Path) -> IO[bytes]:
    """Open a binary file that grows, made when it is missing, at its end, never through a link.

    Raises:
        DrnError: It is a link or no regular file, or it cannot be opened.
    """
    return os.fdopen(_open_own(path, os.O_WRONLY | os.O_APPEND), "ab")


def open_append(path: Path) -> IO[str]:
    """Open a text file to add lines to, made when it is missing, never through a link.

    Raises:
        DrnError: It is a link or no regular file, or it cannot be opened.
    """
    return os.fdopen(_open_own(path, os.O_WRONLY | os.O_APPEND), "a", encoding="utf-8", newline="")


def _open_own(path: Path, flags: int) -> int:
    # O_NONBLOCK: a named pipe in place of the file fails, instead of waiting for a reader.
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
        # Names of files need not be UTF-8.
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace")


def write_json(path: Path, value: Any) -> None:
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Write a table whose text no spreadsheet computes: formulas get an apostrophe in front."""
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
    cell = cell.replace("\r", "\\r")  # the writer would not quote it, and readers end a row there
    if not FORMULA.match(cell):
        return cell
    try:
        float(cell)
    except ValueError:
        return f"'{cell}"
    return cell


def csv_text(cell: str) -> str:
    """Return the text that `write_csv` wrote as a cell."""
    return cell[1:] if cell.startswith("'") and FORMULA.match(cell) else cell


def sha256(path: Path) -> str:
    """Give a file's SHA-256 in hexadecimal digits; raises DrnError if it cannot be read."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise DrnError(f"{path}: cannot be read: {error.strerror or error}") from error


def user_path(name: str | Path) -> Path:
    """Return a path with `~` replaced by the user's folder.

    Raises:
        DrnError: No one knows where that folder is, as in containers with a foreign user id.
    """
    path = Path(name)
    try:
        return path.expanduser()
    except RuntimeError as error:
        raise DrnError(
            f"{path}: no home folder is known for {path.parts[0]}", "set HOME, or name the folder"
        ) from error


def require_folder(
    path: Path, wanted: str, hint: str | None = None, *, noun: str = "folder"
) -> None:
    """Refuse what is not a folder.

    Args:
        path: What was given.
        wanted: What it should be a folder of, for the message: `images`.
        hint: What to do where nothing is there.
        noun: What is missing then.

    Raises:
        DrnError: Nothing is there, or it is a file, or it cannot be looked at.
    """
    try:
        found = path.stat()
    except FileNotFoundError as error:
        raise DrnError(f"{path}: no such {noun}", hint) from error
    except NotADirectoryError as error:
        above = next(one for one in path.parents if os.path.lexists(one))
        raise DrnError(f"{path}: no such {noun}: {above} is not a folder", hint) from error
    except OSError as error:
        raise DrnError(f"{path}: cannot be read: {error.strerror or error}") from error
    if not stat.S_ISDIR(found.st_mode):
        raise DrnError(f"{path}: is a file, expected a folder of {wanted}", hint)


def read_bytes(path: Path, largest: int | None = None) -> bytes:
    """Read a whole file; raises DrnError if it is missing, no regular file or cannot be read.

    Args:
        path: The file.
        largest: The most bytes that it may have, by which a sparse file is refused unread.
    """
    try:
        # A named pipe would wait for a writer for ever, and a device might never end.
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
    """Read a text file in UTF-8, with a byte order mark or without; raises as `read_bytes` does."""
    return decode_text(read_bytes(path, limit).removeprefix(codecs.BOM_UTF8), str(path))


def decode_text(content: bytes, where: str) -> str:
    """Decode UTF-8; raises DrnError naming the line and the byte that is not."""
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        byte = f"byte 0x{content[error.start]:02x}"
        raise DrnError(f"{where}:{line}: not UTF-8 text: {byte}") from error


def read_json(path: Path) -> Any:
    """Read a JSON file; raises DrnError naming the file and line when it is not one."""
    return _parse(decode_text(read_bytes(path, TEXT), str(path)), str(path), lines=True)


def parse_json(text: str | bytes, where: str) -> Any:
    """Parse JSON that is a part of something; NaN and Infinity are numbers, as Python writes them.

    Args:
        text: The JSON; bytes have to be UTF-8.
        where: What names it in a message: `FILE:LINE`, or `FILE: metadata KEY`.

    Raises:
        DrnError: It is not JSON, is nested too deep, or has a number of thousands of digits.
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
    except ValueError as error:  # Python refuses to convert whole numbers that take it too long
        digits = re.search(rf"\d{{{sys.get_int_max_str_digits() + 1},}}", text)
        line = text.count("\n", 0, digits.start()) + 1 if digits else 1
        many = f"a number of {len(digits[0])} digits" if digits else str(error)
        raise DrnError(f"{at(line)}: not usable JSON: {many}") from error

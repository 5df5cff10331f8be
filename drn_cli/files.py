"""Writing files so that a reader sees the old one or the new one, never half of either."""

import csv
import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from drn_cli.errors import DrnError


@contextmanager
def atomic(path: Path, *, durable: bool = True) -> Iterator[Path]:
    """Yield a temporary path beside `path`; rename it to `path` if the block succeeds.

    On any failure the temporary file goes and `path` is left as it was.

    Args:
        path: The final file. Its folder is made when it is missing.
        durable: Wait until the bytes are on the disk. Pictures by the thousand can do without.

    Raises:
        DrnError: The folder cannot be made or written.
    """
    temporary = _beside(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.touch(exist_ok=False)
        yield temporary
        if durable:
            with temporary.open("rb") as written:
                os.fsync(written.fileno())
        temporary.replace(path)
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
    temporary = _beside(path)
    try:
        temporary.mkdir(parents=True)
        yield temporary
        temporary.replace(path)
    except OSError as error:
        raise DrnError(f"{path}: cannot be written: {error.strerror or error}") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _beside(path: Path) -> Path:
    # Named before it is made: an interrupt between the two leaves nothing behind.
    return path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")


def write_text(path: Path, text: str) -> None:
    with atomic(path) as temporary:
        # Names of files need not be UTF-8.
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace")


def write_json(path: Path, value: Any) -> None:
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    with atomic(path) as temporary, _opened(temporary) as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(rows)


def _opened(path: Path) -> IO[str]:
    return path.open("w", encoding="utf-8", newline="", errors="backslashreplace")


def sha256(path: Path) -> str:
    """Give a file's SHA-256 in hexadecimal digits; raises DrnError if it cannot be read."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise DrnError(f"{path}: cannot be read: {error.strerror or error}") from error


def read_json(path: Path) -> Any:
    """Read a JSON file; raises DrnError naming the file and line when it is not one."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise DrnError(f"{path}: no such file") from error
    except (OSError, UnicodeDecodeError) as error:
        raise DrnError(f"{path}: cannot be read: {error}") from error
    except json.JSONDecodeError as error:
        raise DrnError(f"{path}:{error.lineno}: not valid JSON: {error.msg}") from error


def move_together(scratch: Path, names: Sequence[str], folder: Path) -> list[Path]:
    """Move finished files that belong together to another folder of the same disk, in this order.

    Older ones of these names go first, so that nobody ever finds a new one beside an old one.

    Raises:
        DrnError: The folder cannot be written.
    """
    try:
        for name in names:
            (folder / name).unlink(missing_ok=True)
        for name in names:
            with (scratch / name).open("rb") as file:
                os.fsync(file.fileno())
            (scratch / name).replace(folder / name)
    except OSError as error:
        raise DrnError(f"{folder}: cannot be written: {error.strerror or error}") from error
    return [folder / name for name in names]

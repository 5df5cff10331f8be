"""Zip archives of data sets: list their entries, and unpack some of them on all cores."""

import shutil
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path, PurePosixPath, PureWindowsPath
from zipfile import ZipFile, ZipInfo

from drn_cli.data.parallel import Progress, in_parallel
from drn_cli.errors import DrnError
from drn_cli.files import atomic
from drn_cli.integrity import ZIP_DAMAGE

DOWNLOAD_AGAIN = "download the archive again"
NOT_OFFICIAL = "this is not the official archive: download it from the data set's website"
LARGEST = 2**28  # bytes of an unpacked image; a larger size in the index would fill the disk


@dataclass(frozen=True, slots=True)
class Entry:
    """A file in a zip archive."""

    archive: Path
    name: str  # path in the archive, `leftImg8bit/train/aachen/...`
    size: int  # uncompressed size in bytes


def list_entries(archive: Path) -> list[Entry]:
    """List the files of an archive, sorted by name.

    Raises:
        DrnError: The archive is missing or damaged, or an entry is unsafe: its path points outside
            the target folder, it is a link, or it is too large.
    """
    try:
        with ZipFile(archive) as opened:
            infos = opened.infolist()
    except FileNotFoundError as error:
        raise DrnError(f"{archive}: no such file") from error
    except OSError as error:
        raise DrnError(f"{archive}: cannot be read: {error.strerror or error}") from error
    except ZIP_DAMAGE as error:
        problem = f"{archive}: damaged, or not a zip archive: {error}"
        raise DrnError(problem, DOWNLOAD_AGAIN) from error
    for info in infos:
        if reason := _unsafe(info):
            raise DrnError(
                f"{archive}: entry {info.filename!r} {reason}; nothing was unpacked", NOT_OFFICIAL
            )
    files = {info.filename: info.file_size for info in infos if not info.is_dir()}
    return [Entry(archive, name, size) for name, size in sorted(files.items())]


def _unsafe(info: ZipInfo) -> str | None:
    """Return why an entry is refused. A backslash is a separator on some systems."""
    name = info.filename
    if stat.S_ISLNK(info.external_attr >> 16):
        return "is a link"
    if "\\" in name or PureWindowsPath(name).drive:
        return "has a backslash or a drive letter in its path"
    if name.startswith("/"):
        return "has an absolute path"
    if ".." in name.split("/"):
        return "points outside the folder"
    if info.file_size > LARGEST:
        return f"unpacks to {info.file_size / 1e9:.1f} GB, too large for an image"
    return None


def unpack(entries: Sequence[Entry], folder: Path, progress: Progress | None = None) -> None:
    """Unpack entries whose paths start with the folder's name.

    They are unpacked to `NAME.unpacking` beside the folder, which is renamed at the end. Entries
    that an interrupted run has unpacked there are kept.

    Args:
        entries: Entries of one or several archives.
        folder: The folder to create.
        progress: Called with the number of files unpacked and their total.

    Raises:
        DrnError: Not enough disk space, a damaged entry, a symbolic link at or in
            `NAME.unpacking` where a folder is expected, or a folder that is not writable.
    """
    unfinished = folder.with_name(f"{folder.name}.unpacking")
    targets = {entry: _target(unfinished, entry) for entry in entries}
    for path in sorted({unfinished, *(above for to in targets.values() for above in to.parents)}):
        if path.is_relative_to(unfinished) and path.is_symlink():
            raise DrnError(f"{path}: is a symbolic link, not a folder", "remove it")
    # Files get their final name when they are complete, so comparing the size is enough.
    missing = [
        entry
        for entry, path in targets.items()
        if path.is_symlink() or not path.is_file() or path.stat().st_size != entry.size
    ]
    try:
        unfinished.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(unfinished).free
    except OSError as error:
        raise DrnError(f"{folder}: cannot be created: {error.strerror or error}") from error
    needed = sum(entry.size for entry in missing)
    if needed > free:
        raise DrnError(
            f"{folder}: not enough disk space: unpacking {len(missing)} files needs "
            f"{needed / 1e9:.1f} GB, {free / 1e9:.1f} GB are free"
        )
    if missing:
        done = len(entries) - len(missing)
        for number, _ in enumerate(in_parallel(partial(_unpack, unfinished), missing, None), 1):
            if progress is not None:
                progress(done + number, len(entries))
    complete = set(targets.values())
    for path in unfinished.rglob("*"):  # temporary files of a killed run
        if path not in complete and (path.is_symlink() or not path.is_dir()):
            path.unlink()
    try:
        unfinished.replace(folder)
    except OSError as error:
        raise DrnError(f"{folder}: cannot be written: {error.strerror or error}") from error


def _target(folder: Path, entry: Entry) -> Path:
    return folder.joinpath(*PurePosixPath(entry.name).parts[1:])


def _unpack(folder: Path, entry: Entry) -> None:
    try:
        with (
            atomic(_target(folder, entry), durable=False) as temporary,
            _opened(entry.archive).open(entry.name) as packed,
            temporary.open("wb") as unpacked,
        ):
            shutil.copyfileobj(packed, unpacked, 1 << 20)
    except ZIP_DAMAGE as error:
        problem = f"{entry.archive}: entry {entry.name!r} is damaged: {error}"
        raise DrnError(problem, DOWNLOAD_AGAIN) from error


@lru_cache(maxsize=1)
def _opened(archive: Path) -> ZipFile:
    """Open an archive once per process: opening reads its whole index."""
    return ZipFile(archive)

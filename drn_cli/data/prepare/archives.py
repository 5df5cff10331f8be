"""Zip archives of data sets: what they hold, and unpacking a part of it on all cores."""

import shutil
import stat
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path, PurePosixPath, PureWindowsPath
from zipfile import ZipFile, ZipInfo

from drn_cli.data.parallel import Progress, in_parallel
from drn_cli.errors import DrnError
from drn_cli.files import atomic
from drn_cli.integrity import ZIP_DAMAGE

AGAIN = "download the archive again"
LARGEST = 2**28  # bytes of an image; one of which the index says more would fill the disk
OTHER = "this is not the official archive: get it from where the data set is published"


@dataclass(frozen=True, slots=True)
class Entry:
    """A file in a zip archive.

    Attributes:
        archive: The archive.
        name: Its path in there, `leftImg8bit/train/aachen/...`.
        size: Bytes when it is unpacked.
    """

    archive: Path
    name: str
    size: int


def list_entries(archive: Path) -> list[Entry]:
    """List the files of an archive, in the order of their names.

    Raises:
        DrnError: The archive is missing or broken, or one of its entries would be written outside
            of the folder it is unpacked to, is a link, which can lead there, or is too large.
    """
    try:
        with ZipFile(archive) as opened:
            infos = opened.infolist()
    except FileNotFoundError as error:
        raise DrnError(f"{archive}: no such file") from error
    except OSError as error:
        raise DrnError(f"{archive}: cannot be read: {error.strerror or error}") from error
    except ZIP_DAMAGE as error:
        raise DrnError(f"{archive}: not a whole zip archive: {error}", AGAIN) from error
    for info in infos:
        reason = _unsafe(info)
        if reason:
            raise DrnError(
                f"{archive}: the entry {info.filename!r} {reason}; nothing was unpacked",
                OTHER,
            )
    files = {info.filename: info.file_size for info in infos if not info.is_dir()}
    return [Entry(archive, name, size) for name, size in sorted(files.items())]


def _unsafe(info: ZipInfo) -> str | None:
    """Say why an entry is refused. A backslash is a separator on some systems, so it counts."""
    name = info.filename
    if stat.S_ISLNK(info.external_attr >> 16):
        return "is a link"
    if "\\" in name or PureWindowsPath(name).drive:
        return "has a backslash or a drive letter in its path"
    if name.startswith("/"):
        return "has an absolute path"
    if ".." in name.split("/"):
        return "leads out of the folder"
    if info.file_size > LARGEST:
        return f"unpacks to {info.file_size / 1e9:.1f} GB, no image does"
    return None


def unpack(entries: Sequence[Entry], folder: Path, progress: Progress | None = None) -> None:
    """Unpack entries, whose paths start with the folder's name, and call them `folder` at the end.

    Until then they lie in a folder beside it, `NAME.unpacking`. What an interrupted run has left
    there is kept, so that the next one goes on from it.

    Args:
        entries: What to unpack, of one archive or several.
        folder: What the entries' paths start with, and where it goes. It does not exist yet.
        progress: Called with files unpacked and files in all.

    Raises:
        DrnError: The disk has too little space, an entry is broken, `NAME.unpacking` is or holds
            a link in place of a folder, or the folder cannot be written.
    """
    unfinished = folder.with_name(f"{folder.name}.unpacking")
    targets = {entry: _target(unfinished, entry) for entry in entries}
    for path in sorted({unfinished, *(above for to in targets.values() for above in to.parents)}):
        if path.is_relative_to(unfinished) and path.is_symlink():
            raise DrnError(f"{path}: is a symbolic link, not a folder", "remove it")
    missing = [entry for entry, path in targets.items() if not _is_there(entry, path)]
    try:
        unfinished.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(unfinished).free
    except OSError as error:
        raise DrnError(f"{folder}: cannot be made: {error.strerror or error}") from error
    needed = sum(entry.size for entry in missing)
    if needed > free:
        raise DrnError(
            f"{folder}: the {len(missing)} files to unpack take {needed / 1e9:.1f} GB, "
            f"the disk has {free / 1e9:.1f} GB left"
        )
    if missing:
        done = len(entries) - len(missing)
        for number, _ in enumerate(in_parallel(partial(_unpack, unfinished), missing, None), 1):
            if progress is not None:
                progress(done + number, len(entries))
    _remove_others(unfinished, set(targets.values()))
    try:
        unfinished.replace(folder)
    except OSError as error:
        raise DrnError(f"{folder}: cannot be written: {error.strerror or error}") from error


def _target(folder: Path, entry: Entry) -> Path:
    return folder.joinpath(*PurePosixPath(entry.name).parts[1:])


def _is_there(entry: Entry, path: Path) -> bool:
    """Tell whether an entry is unpacked; a file with its final name is whole: size is enough."""
    return path.is_file() and not path.is_symlink() and path.stat().st_size == entry.size


def _unpack(folder: Path, entry: Entry) -> None:
    try:
        with (
            atomic(_target(folder, entry), durable=False) as temporary,
            _opened(entry.archive).open(entry.name) as packed,
            temporary.open("wb") as unpacked,
        ):
            shutil.copyfileobj(packed, unpacked, 1 << 20)
    except ZIP_DAMAGE as error:
        raise DrnError(f"{entry.archive}: {entry.name} is broken: {error}", AGAIN) from error


@lru_cache(maxsize=1)
def _opened(archive: Path) -> ZipFile:
    """Open an archive once a process, not once an entry: all of its table of contents is read."""
    return ZipFile(archive)


def _remove_others(folder: Path, wanted: Collection[Path]) -> None:
    """Remove what a killed run has left half-written."""
    for path in folder.rglob("*"):
        if path not in wanted and (path.is_symlink() or not path.is_dir()):
            path.unlink()

"""Recursive search for image files, shared by all commands that take folders.

Links to folders are followed, and each folder is searched once, so that cycles end and no image is
found under two names. Skipped files and folders are counted by reason.
"""

import logging
import os
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from drn_cli.data.images import SUFFIXES
from drn_cli.errors import DrnError, reports_for_all

log = logging.getLogger(__name__)

ENDINGS = tuple(sorted(SUFFIXES))

# Reasons for skipping a file or folder.
UNSUPPORTED = "unsupported extension"
HIDDEN = "hidden"
CYCLE = "link to a folder above (cycle)"
REPEATED = "link to a folder already searched"
DANGLING = "broken link"
UNREADABLE = "unreadable"
IRREGULAR = "not a regular file"
SUBFOLDER = "folder in a class folder"
PREDICTIONS = "earlier predictions"
NO_PARTNER = "no partner"
OUTSIDE = "image outside class folders"
NO_CLASS = "folder of unknown class"
UNNAMED = "unknown file name"
SERIOUS = frozenset({CYCLE, DANGLING, UNREADABLE, IRREGULAR, SUBFOLDER, OUTSIDE, NO_CLASS})

FOLDER, FILE, DEBRIS = "folder", "file", "debris"

# Files of operating systems and editors, which are not counted.
SYSTEM_FILES = frozenset({".DS_Store", ".ipynb_checkpoints", "Thumbs.db", "__MACOSX"})
NAMED = 2  # examples of each reason in a message

Identity = tuple[int, int]  # device and inode of a folder


class LeftOut:
    """Skipped files and folders: their number by reason, and some names.

    Args:
        counted: Whether to count a reason and name given to `add`; by default all are counted.
    """

    def __init__(self, counted: Callable[[str, str], bool] = lambda reason, name: True) -> None:
        self._counted = counted
        self.counts: Counter[str] = Counter()
        self._names: dict[str, list[str]] = {}

    def add(self, reason: str, name: str) -> None:
        if not self._counted(reason, name):
            return
        self.counts[reason] += 1
        names = self._names.setdefault(reason, [])
        if len(names) < NAMED:
            names.append(name)

    def merge(self, other: "LeftOut") -> None:
        """Add the counts of another one."""
        self.counts += other.counts
        for reason, names in other._names.items():
            self._names[reason] = [*self._names.get(reason, ()), *names][:NAMED]

    def __bool__(self) -> bool:
        return bool(self.counts)

    def __str__(self) -> str:
        return "left out: " + ", ".join(
            f"{reason} {count:,} ({', '.join(self._names[reason])}{', ...' * (count > NAMED)})"
            for reason, count in self.counts.items()
        )

    def to_json(self) -> list[dict[str, object]]:
        return [{"reason": reason, "count": count} for reason, count in self.counts.items()]

    @property
    def serious(self) -> bool:
        """Whether something was skipped that the user probably wants to use."""
        return bool(SERIOUS & self.counts.keys())

    @property
    def lost(self) -> int:
        """Number of skipped files and folders that may contain images: serious ones but cycles."""
        return sum(self.counts[reason] for reason in SERIOUS - {CYCLE})

    def log(self, searched: str | Path) -> None:
        """Log one line if anything was skipped, as a warning if it is serious; rank 0 only."""
        if self and reports_for_all():
            level = logging.WARNING if self.serious else logging.INFO
            log.log(level, "%s: %s", searched, self)


def search(
    folder: str | Path,
    left_out: LeftOut,
    apart: Collection[str | Path] = (),
    *,
    apart_reason: str | None = None,
) -> Iterator[tuple[str, str]]:
    """Find the image files in a folder and all folders below it, sorted by name.

    Args:
        folder: Top folder; it may be a link.
        left_out: Collects skipped files and folders.
        apart: Folders to exclude, such as that of the labels.
        apart_reason: Reason to count excluded folders under; by default they are not counted.

    Yields:
        The path of a file, and its path relative to the folder, with `/`.

    Raises:
        DrnError: The top folder cannot be read. Unreadable folders below it are skipped.
    """
    top = _Level.open(os.fspath(folder), "")
    outside = {found for path in apart if (found := _identity(path))}
    within = os.path.realpath(top.path)
    searched = {top.identity}
    levels = [top]  # a stack instead of recursion: paths may be 2,000 folders deep
    while levels:
        level = levels[-1]
        entry = next(level.entries, None)
        if entry is None:
            levels.pop()
            continue
        inner = f"{level.relative}/{entry.name}" if level.relative else entry.name
        kind = _kind(entry)
        if kind != FOLDER:
            reason = _file_skip_reason(entry.name, kind)
            if reason is None:
                yield entry.path, inner
            else:
                left_out.add(reason, inner)
            continue
        identity = _identity(entry.path)
        reason = _folder_skip_reason(entry, identity, level.path, within, searched)
        if identity in outside:
            reason = apart_reason
        elif reason is None:
            searched.add(identity)
            try:
                levels.append(_Level.open(entry.path, inner))
            except DrnError:
                reason = UNREADABLE
        if reason:
            left_out.add(reason, inner)


def list_files(folder: Path, left_out: LeftOut, *, below: str) -> list[str]:
    """Return the names of the image files in a folder, as `list_entries` lists them."""
    return [entry.name for entry in list_entries(folder, left_out, below=below)]


def list_entries(
    folder: Path, left_out: LeftOut, *, below: str | None, broken_too: bool = False
) -> list[os.DirEntry[str]]:
    """List the image files directly in a folder, sorted by name; none if it does not exist.

    Args:
        folder: Folder to list.
        left_out: Collects skipped files and folders.
        below: Reason to count folders in it under; None does not count them.
        broken_too: Whether to list broken links and other irregular files with image names.

    Raises:
        DrnError: The folder cannot be read.
    """
    found = []
    for entry in entries(folder, missing_ok=True):
        kind = _kind(entry)
        if kind == FOLDER and below is None:
            continue
        reason = _file_skip_reason(entry.name, below if below and kind == FOLDER else kind)
        if reason is None or (broken_too and reason in (DANGLING, UNREADABLE, IRREGULAR)):
            found.append(entry)
        else:
            left_out.add(reason, f"{folder.name}/{entry.name}")
    return found


def skip_reason(path: Path, *, hidden_too: bool = False) -> str | None:
    """Return the reason for which a search skips a path; None for an image file.

    The reasons `FOLDER` and `DEBRIS` should not be counted.
    """
    if _is_debris(path.name):
        return DEBRIS
    kind = FOLDER if path.is_dir() else FILE if path.is_file() else DANGLING
    if kind == DANGLING and path.exists():
        kind = IRREGULAR
    name = path.name.lstrip(".") if hidden_too else path.name
    return FOLDER if kind == FOLDER else _file_skip_reason(name, kind)


def list_folders(folder: Path) -> list[str]:
    """Return the sorted names of the folders in a folder that are not hidden.

    The list is empty if the folder does not exist.

    Raises:
        DrnError: The folder cannot be read.
    """
    return [
        entry.name
        for entry in entries(folder, missing_ok=True)
        if not entry.name.startswith(".") and _kind(entry) == FOLDER
    ]


@dataclass(frozen=True, slots=True)
class _Level:
    """A folder that is being searched, with the entries that are left."""

    path: str
    relative: str
    identity: Identity | None
    entries: Iterator[os.DirEntry[str]]

    @classmethod
    def open(cls, path: str, relative: str) -> "_Level":
        return cls(path, relative, _identity(path), iter(entries(path)))


def entries(folder: str | Path, *, missing_ok: bool = False) -> list[os.DirEntry[str]]:
    """List the entries of a folder, sorted by name, without files of operating systems.

    Raises:
        DrnError: It cannot be read, or, without `missing_ok`, is not a folder.
    """
    try:
        with os.scandir(folder) as listed:
            found = [entry for entry in listed if not _is_debris(entry.name)]
    except OSError as error:
        if missing_ok and isinstance(error, FileNotFoundError | NotADirectoryError):
            return []
        raise DrnError(f"{folder}: cannot be read: {error.strerror or error}") from error
    return sorted(found, key=lambda entry: entry.name)


def _is_debris(name: str) -> bool:
    return name.startswith("._") or name in SYSTEM_FILES


def _kind(entry: os.DirEntry[str]) -> str:
    """Return `FOLDER`, `FILE`, or the reason why it is neither. Links are followed."""
    try:
        if entry.is_dir():
            return FOLDER
        if entry.is_file():
            return FILE
        return IRREGULAR if Path(entry.path).exists() else DANGLING
    except OSError:  # a link that leads to itself, a folder that may not be searched
        return UNREADABLE


def _file_skip_reason(name: str, kind: str) -> str | None:
    if name.startswith("."):
        return HIDDEN
    if kind in (FILE, DANGLING, IRREGULAR, UNREADABLE) and not name.lower().endswith(ENDINGS):
        return UNSUPPORTED
    return None if kind == FILE else kind


def _folder_skip_reason(
    entry: os.DirEntry[str],
    identity: Identity | None,
    above: str,
    top: str,
    searched: Collection[Identity | None],
) -> str | None:
    if entry.name.startswith("."):
        return HIDDEN
    if identity is None:
        return UNREADABLE
    if entry.is_symlink():
        end = os.path.realpath(entry.path)
        places = (os.path.realpath(above), top)
        if any(f"{place}/".startswith(f"{end.rstrip('/')}/") for place in places):
            return CYCLE
        parts = end.removeprefix(f"{top}/").split("/")
        hidden = any(part.startswith(".") or _is_debris(part) for part in parts)
        if end.startswith(f"{top}/") and not hidden:  # it is also searched by its own path
            return REPEATED
    return REPEATED if identity in searched else None


def _identity(path: str | Path) -> Identity | None:
    try:
        found = Path(path).stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino

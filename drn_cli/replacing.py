"""Atomic replacement of several files that belong together.

Until all new files are in place, the old ones are kept as hidden backups beside them. From before
the first file is renamed until after the last, a hidden marker file exists beside the last one: it
shows that a replacement is in progress or was killed.
"""

import os
import shutil
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from drn_cli.errors import DrnError
from drn_cli.files import hidden_beside, sync_folder


def move_together(scratch: Path, places: Sequence[Path]) -> None:
    """Replace files by those of the same names in `scratch`, in this order.

    If the process is killed meanwhile, the old files or the new ones are left, or some of both and
    the marker: then `restore_together` restores the old ones. The caller must hold a lock if other
    processes may replace the same files.

    Args:
        scratch: A folder on the same file system.
        places: The files, all in one folder.

    Raises:
        DrnError: The folder cannot be written.
    """
    last = places[-1]
    restore_together(places)
    try:
        for place in places:
            _sync(scratch / place.name)
            _backup(place).unlink(missing_ok=True)
        for place in places:
            if os.path.lexists(place):
                _link_or_copy(place, _backup(place))
        sync_folder(last.parent)
        _marker(last).touch(exist_ok=False)
        sync_folder(last.parent)
        for place in places:
            (scratch / place.name).replace(place)
        sync_folder(last.parent)
        _finish(places)
    except OSError as error:
        with suppress(DrnError):
            restore_together(places)
        raise DrnError(f"{last.parent}: cannot be written: {error.strerror or error}") from error


def restore_together(places: Sequence[Path]) -> bool:
    """Restore the old files if `move_together` was killed before all new ones were in place.

    Returns:
        Whether files were restored.

    Raises:
        DrnError: The folder cannot be written.
    """
    if not half_replaced(places[-1]):
        return False
    try:
        for place in places:
            if not os.path.lexists(_backup(place)):
                place.unlink(missing_ok=True)  # a new file without predecessor
            else:  # backups are kept until the marker is gone, as this may be killed as well
                restored = hidden_beside(place, "restored")
                restored.unlink(missing_ok=True)
                _link_or_copy(_backup(place), restored)
                restored.replace(place)
                restored.unlink(missing_ok=True)  # renaming a file to its own hard link is a no-op
        sync_folder(places[-1].parent)
        _finish(places)
    except OSError as error:
        raise DrnError(
            f"{places[-1]}: half replaced, and cannot be restored: {error.strerror or error}"
        ) from error
    return True


def half_replaced(last: Path) -> bool:
    """Return whether a `move_together` of files, of which this is the last, was not finished."""
    return os.path.lexists(_marker(last))


def _marker(last: Path) -> Path:
    return hidden_beside(last, "replacing")


def _backup(path: Path) -> Path:
    return hidden_beside(path, "old")


def _finish(places: Sequence[Path]) -> None:
    _marker(places[-1]).unlink()
    sync_folder(places[-1].parent)
    for place in places:
        _backup(place).unlink(missing_ok=True)


def _link_or_copy(path: Path, other: Path) -> None:
    """Create a hard link, or a copy if the file system does not support links."""
    try:
        os.link(path, other, follow_symlinks=False)
    except OSError:
        shutil.copy2(path, other, follow_symlinks=False)
        _sync(other)


def _sync(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())

"""Replace files that belong together, so that a kill leaves the old ones or the new ones.

The old files stay as hidden backups beside them until all new ones are in place. A hidden mark
beside the last file stands from before the first is renamed until after the last: who finds it
knows that a replacement goes on or was killed.
"""

import os
import shutil
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from drn_cli.errors import DrnError
from drn_cli.files import hidden_beside, sync_folder


def move_together(scratch: Path, places: Sequence[Path]) -> None:
    """Replace files that belong together by those of the same names in `scratch`, in this order.

    A process that is killed meanwhile leaves the old files or the new ones, or some of both and a
    hidden mark beside the last of them: `restore_together` then brings the old ones back. The
    caller holds a lock, if others may do the same.

    Args:
        scratch: A folder of the same disk.
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
                _same(place, _backup(place))
        sync_folder(last.parent)
        _mark(last).touch(exist_ok=False)
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
    """Bring back the old files if a `move_together` was killed before all new ones were in place.

    Nothing but `places` is touched, whatever lies in the folder: the mark has no content.

    Returns:
        Whether there was such a thing to do.

    Raises:
        DrnError: The folder cannot be written.
    """
    if not half_replaced(places[-1]):
        return False
    try:
        for place in places:
            if not os.path.lexists(_backup(place)):
                place.unlink(missing_ok=True)  # a new file, where there was none
            else:  # backups stay until the mark is gone: this may be killed as well
                restored = hidden_beside(place, "restored")
                restored.unlink(missing_ok=True)
                _same(_backup(place), restored)
                restored.replace(place)
                restored.unlink(missing_ok=True)  # renaming one file to itself leaves both names
        sync_folder(places[-1].parent)
        _finish(places)
    except OSError as error:
        raise DrnError(
            f"{places[-1]}: half replaced, and cannot be restored: {error.strerror or error}"
        ) from error
    return True


def half_replaced(last: Path) -> bool:
    """Whether a `move_together` to files of which this is the last goes on, or was killed."""
    return os.path.lexists(_mark(last))


def _mark(last: Path) -> Path:
    return hidden_beside(last, "replacing")


def _backup(path: Path) -> Path:
    return hidden_beside(path, "old")


def _finish(places: Sequence[Path]) -> None:
    _mark(places[-1]).unlink()
    sync_folder(places[-1].parent)
    for place in places:
        _backup(place).unlink(missing_ok=True)


def _same(path: Path, other: Path) -> None:
    """Make `other` another name of a file, or a copy where the file system has no links."""
    try:
        os.link(path, other, follow_symlinks=False)
    except OSError:
        shutil.copy2(path, other, follow_symlinks=False)
        _sync(other)


def _sync(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())

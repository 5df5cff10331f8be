"""The folders of caches: whose they are; and the one in shared memory that the last user removes.

Each process holds a lock on that one for as long as it lives. The kernel lets go of the locks
of a process that is killed, so that whichever comes next knows which folders are not in use.
"""

import atexit
import errno
import fcntl
import hashlib
import os
import shutil
import stat
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import IO

from drn_cli.device import SHARED_MEMORY
from drn_cli.errors import DrnError
from drn_cli.files import open_lock

LOCK = ".lock"
MOST_LINKS = 40  # on the way to a folder, as in Linux


def claim(folder: Path, *, private: bool = False) -> None:
    """Make a folder, or take the one that is there; where all may write, only one's own.

    Another user could have made it there, or a link, and change what is read from it. Links are
    followed one by one, so that the folders that they lead through are looked at as well.

    Args:
        folder: The folder. Those above it are made as well.
        private: Whether it is only for its owner wherever it is.

    Raises:
        DrnError: It is a link, belongs to another user, or others may write in it.
        OSError: It cannot be made.
    """
    for part, last in _way(folder):
        shared = part != part.parent and bool(part.parent.stat().st_mode & stat.S_IWOTH)
        own = last and (shared or private)
        if not os.path.lexists(part):
            with suppress(FileExistsError):  # another process may be faster
                part.mkdir(mode=0o700 if own else 0o755 if last else 0o777)
        found = part.lstat()
        if not stat.S_ISLNK(found.st_mode) and not part.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(part))
        if (shared or own) and (problem := _unsafe(found, own=own)):
            raise DrnError(f"{part}: {problem}", "remove it or choose another folder")
        if own and found.st_mode & 0o022:
            raise DrnError(
                f"{part}: can be changed by other users", f"chmod go-w {part}, or choose another"
            )
        if own:
            part.chmod(0o700)


def _way(folder: Path) -> Iterator[tuple[Path, bool]]:
    """Yield each folder and link on the way to a folder, and whether it is the folder itself."""
    place, links = Path("/"), 0
    names = [*reversed(folder.absolute().parts[1:])]
    while names:
        name = names.pop()
        if name == "..":
            place = place.parent
            continue
        part = place / name
        link = part.is_symlink()
        yield part, not names and not link
        if not link:
            place = part
            continue
        links += 1
        if links > MOST_LINKS:
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), str(folder))
        target = part.readlink()
        if target.is_absolute():
            place = Path("/")
        names += reversed(target.parts[1:] if target.is_absolute() else target.parts)


def _unsafe(found: os.stat_result, *, own: bool) -> str | None:
    """Return how others could replace a folder; those above an own one may be root's."""
    if stat.S_ISLNK(found.st_mode):
        return "is a link in a folder in which everyone may write"
    if found.st_uid != os.geteuid() and (own or found.st_uid != 0):
        return f"belongs to another user, number {found.st_uid}"
    return None


def memory_folder(name: str, place: Path = SHARED_MEMORY) -> Path:
    """Make a folder, or join the one that other processes made under this name.

    It goes when the last process that has it ends; what killed processes left behind goes now.

    Raises:
        OSError: There is no such place, or it cannot be written.
        DrnError: Another user has made it.
    """
    place.stat()
    prefix = f"drn-{os.getuid()}-"
    for left in place.glob(f"{prefix}*"):
        _remove_if_unused(left)
    folder = place / (prefix + hashlib.blake2b(name.encode(), digest_size=8).hexdigest())
    while True:
        claim(folder, private=True)
        try:
            lock = open_lock(folder / LOCK)
        except DrnError:
            if folder.exists():
                raise
            continue  # removed in between, as unused
        fcntl.flock(lock, fcntl.LOCK_SH)
        if os.fstat(lock.fileno()).st_nlink:
            break
        lock.close()
    atexit.register(_leave, folder, lock)
    return folder


def _leave(folder: Path, lock: IO[bytes]) -> None:
    fcntl.flock(lock, fcntl.LOCK_UN)  # closing is not enough: forked readers have it open too
    lock.close()
    _remove_if_unused(folder)


def _remove_if_unused(folder: Path) -> None:
    with suppress(OSError, DrnError):
        claim(folder, private=True)  # not what another user has put there
        with open_lock(folder / LOCK) as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(folder, ignore_errors=True)

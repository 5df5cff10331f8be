"""Cache folders: ownership checks, and the folder in shared memory that its last user removes.

Each process holds a shared lock on the folder in shared memory while it runs. The kernel releases
the locks of a killed process, so that the next process can remove unused folders.
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
MOST_LINKS = 40  # symbolic links in a path, as in Linux


def claim(folder: Path, *, private: bool = False) -> None:
    """Create a folder, or use an existing one; in a world-writable folder it has to be one's own.

    Another user could have created it there, or a link to it, and could change its files. Links
    are followed one by one, so that the folders on their paths are checked as well.

    Args:
        folder: The folder; its parents are created as well.
        private: Whether it has to be one's own wherever it is.

    Raises:
        DrnError: It is a link, belongs to another user, or others may write to it.
        OSError: It cannot be created.
    """
    for part, last in _resolve(folder):
        shared = part != part.parent and bool(part.parent.stat().st_mode & stat.S_IWOTH)
        own = last and (shared or private)
        if not os.path.lexists(part):
            with suppress(FileExistsError):  # created by another process meanwhile
                part.mkdir(mode=0o700 if own else 0o755 if last else 0o777)
        found = part.lstat()
        if not stat.S_ISLNK(found.st_mode) and not part.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(part))
        hint = "remove it, or choose another folder"
        if (shared or own) and stat.S_ISLNK(found.st_mode):
            raise DrnError(f"{part}: is a link in a world-writable folder", hint)
        owners = {os.geteuid()} if own else {os.geteuid(), 0}  # its parents may be root's
        if (shared or own) and found.st_uid not in owners:
            raise DrnError(f"{part}: belongs to another user (uid {found.st_uid})", hint)
        if own and found.st_mode & 0o022:
            raise DrnError(
                f"{part}: is writable by other users", f"chmod go-w {part}, or choose another"
            )
        if own:
            part.chmod(0o700)


def _resolve(folder: Path) -> Iterator[tuple[Path, bool]]:
    """Yield each folder and link of a path, and whether it is the folder itself."""
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


def memory_folder(name: str, place: Path = SHARED_MEMORY) -> Path:
    """Create the cache folder of this name in shared memory, or share an existing one.

    It is removed when the last process using it ends. Unused folders of killed processes are
    removed now.

    Raises:
        OSError: `place` does not exist or cannot be written.
        DrnError: The folder belongs to another user.
    """
    place.stat()
    prefix = f"drn-{os.getuid()}-"
    for other in place.glob(f"{prefix}*"):
        _remove_if_unused(other)
    folder = place / (prefix + hashlib.blake2b(name.encode(), digest_size=8).hexdigest())
    while True:
        claim(folder, private=True)
        try:
            lock = open_lock(folder / LOCK)
        except DrnError:
            if folder.exists():
                raise
            continue  # removed as unused by another process meanwhile
        fcntl.flock(lock, fcntl.LOCK_SH)
        if os.fstat(lock.fileno()).st_nlink:
            break
        lock.close()
    atexit.register(_release, folder, lock)
    return folder


def _release(folder: Path, lock: IO[bytes]) -> None:
    fcntl.flock(lock, fcntl.LOCK_UN)  # closing is not enough: forked workers have it open too
    lock.close()
    _remove_if_unused(folder)


def _remove_if_unused(folder: Path) -> None:
    with suppress(OSError, DrnError):
        claim(folder, private=True)  # raises for a folder of another user
        with open_lock(folder / LOCK) as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(folder, ignore_errors=True)

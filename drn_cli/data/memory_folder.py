"""A folder in shared memory that the processes of a machine use together; the last one removes it.

Each process holds a lock on the folder for as long as it lives. The kernel lets go of the locks
of a process that is killed, so that whoever comes next can tell which folders nobody uses.
"""

import atexit
import fcntl
import hashlib
import os
import shutil
from contextlib import suppress
from pathlib import Path

SHARED_MEMORY = Path("/dev/shm")
CGROUP = Path("/sys/fs/cgroup")
LOCK = ".lock"


def memory_folder(name: str, place: Path = SHARED_MEMORY) -> Path:
    """Make a folder, or join the one that other processes made under this name.

    It goes when the last process that has it ends; what killed processes left behind goes now.

    Raises:
        OSError: There is no such place, or it cannot be written.
    """
    prefix = f"drn-{os.getuid()}-"
    for left in place.glob(f"{prefix}*"):
        _remove_if_unused(left)
    folder = place / (prefix + hashlib.blake2b(name.encode(), digest_size=8).hexdigest())
    while True:
        folder.mkdir(mode=0o700, exist_ok=True)
        with suppress(FileNotFoundError):  # removed in between, as unused
            lock = os.open(folder / LOCK, os.O_CREAT | os.O_RDWR, 0o600)
            fcntl.flock(lock, fcntl.LOCK_SH)
            if os.fstat(lock).st_nlink:
                break
            os.close(lock)
    atexit.register(_leave, folder, lock)
    return folder


def _leave(folder: Path, lock: int) -> None:
    fcntl.flock(lock, fcntl.LOCK_UN)  # closing is not enough: forked readers have it open too
    os.close(lock)
    _remove_if_unused(folder)


def _remove_if_unused(folder: Path) -> None:
    with suppress(OSError):
        lock = os.open(folder / LOCK, os.O_CREAT | os.O_RDWR, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(folder, ignore_errors=True)
        finally:
            os.close(lock)


def room(folder: Path) -> int:
    """Give the bytes that can still be written below a folder, existing or not.

    What is written to shared memory takes memory: there, a machine's or container's free memory
    counts as well.
    """
    place = folder.absolute()
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free
    if place.is_relative_to(SHARED_MEMORY):
        free = min(free, free_memory())
    return free


def free_memory() -> int:
    """Give the bytes that a machine, or the container that this runs in, has left."""
    limits = []
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            limits.append(int(line.split()[1]) * 1024)
    with suppress(OSError, ValueError):  # no control group, or one without a limit
        most = int((CGROUP / "memory.max").read_text())
        limits.append(most - int((CGROUP / "memory.current").read_text()))
    return max(0, min(limits))

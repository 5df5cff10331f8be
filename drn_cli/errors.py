"""Errors for users, with a hint, and the translation of system errors into them."""

import errno
import logging
import os
import resource
from collections.abc import Sequence
from pathlib import Path
from typing import TypeGuard

WOULD_BLOCK = "could not complete without blocking"  # Python's message for a write
NEAR = 256 << 10  # KiB below `ulimit -v` within which any error is taken for out of memory


class DrnError(Exception):
    """An error that the user can fix.

    Args:
        message: Problem and subject (file, line, value), in one line.
        hint: What to do, if that is not obvious.
    """

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message} ({self.hint})" if self.hint else self.message

    def __reduce__(self) -> tuple[type["DrnError"], tuple[str, str | None]]:
        return type(self), (self.message, self.hint)


class FaultError(DrnError):
    """A failure that may not recur when the command is repeated: a process was lost or killed."""


def started_by_torchrun() -> bool:
    """Return whether torchrun, or a launcher with the same variables, started this process."""
    return "RANK" in os.environ and "WORLD_SIZE" in os.environ


def reports_for_all() -> bool:
    """Return whether this process reports what all ranks find: rank 0, or a single process."""
    return not started_by_torchrun() or os.environ["RANK"] == "0"


def few_of(names: Sequence[object], most: int) -> str:
    """Return the first names of a list, for a message: `a, b, c and 4 more`."""
    named = ", ".join(map(str, names[:most]))
    return f"{named} and {len(names) - most:,} more" if len(names) > most else named


def warn_for_all(log: logging.Logger, text: str) -> None:
    """Log a warning in rank 0 only, for conditions that all ranks find."""
    if reports_for_all():
        log.warning("%s", text)


def limit_reached(error: BaseException) -> DrnError | None:
    """Return the error for a limit of this machine (files, processes, memory), if it is the cause.

    Args:
        error: Any error of Python or PyTorch.
    """
    number = error.errno if isinstance(error, OSError) else None
    text = str(error)

    def contains(*words: str) -> bool:
        return any(word in text for word in words)

    if number in (errno.EMFILE, errno.ENFILE) or contains("Too many open files"):
        limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        return DrnError(f"too many open files: the limit is {limit}", "raise it: ulimit -n 4096")
    # Writes to a non-blocking stream with a slow reader fail with EAGAIN, too.
    if (number == errno.EAGAIN and not contains(WOULD_BLOCK)) or contains(
        "can't start new thread", "Resource temporarily unavailable"
    ):
        return DrnError(
            "no further process or thread can be started",
            "raise the limit of processes or of memory (ulimit -u, ulimit -v), or use fewer: "
            "data.workers=0, OMP_NUM_THREADS=1",
        )
    if (
        isinstance(error, MemoryError)
        or number == errno.ENOMEM
        or contains(
            *("failed to map segment", "annot allocate memory", "can't allocate memory"),
            *("bad_alloc", "PyObject pointer is null"),
        )
    ):
        limit = resource.getrlimit(resource.RLIMIT_AS)[0]
        limited = "" if limit == resource.RLIM_INFINITY else f": ulimit -v is {limit // 1024}"
        return DrnError(f"out of memory{limited}", "free some memory, or raise the limit")
    return None


def refused_by_system(error: object) -> TypeGuard[OSError]:
    """Return whether the operating system failed (permission, disk), so that no file is damaged.

    OSErrors of Pillow and zipfile have no errno, or EINVAL, as damage may cause a negative seek.
    """
    return isinstance(error, OSError) and error.errno not in (None, errno.EINVAL)


def _near_address_limit() -> bool:
    """Return whether `ulimit -v` is set and this process is close to it.

    Libraries then report failed allocations as arbitrary errors: a missing attribute of a module, a
    oneDNN primitive that cannot be executed, a SystemError without message.
    """
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    if limit == resource.RLIM_INFINITY:
        return False
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    peak = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmPeak:"))
    return limit // 1024 - peak < NEAR


# Hints for errors of the operating system that a user can fix.
_REMEDIES = {
    errno.EACCES: "check its owner and permissions",
    errno.EPERM: "check its owner and permissions",
    errno.EROFS: "choose a folder on a writable file system",
    errno.ENOSPC: "free space on that disk, or choose another folder",
    errno.EDQUOT: "free some of your quota, or choose another folder",
    errno.ENAMETOOLONG: "choose a shorter name",
    errno.ELOOP: "symbolic links form a loop: remove one",
    errno.EIO: "the disk or network file system failed: check the kernel log (dmesg)",
    errno.ESTALE: "stale handle of a network file system: mount it again",
    errno.ENOTCONN: "the network file system is disconnected: mount it again",
    errno.ENOENT: None,
    errno.ENOTDIR: None,
    errno.EISDIR: None,
    errno.EEXIST: None,
    errno.ENOTEMPTY: None,
    errno.ETXTBSY: None,
    errno.EFBIG: "choose a file system that supports files of that size, or raise `ulimit -f`",
}


def remedy(error: BaseException | None) -> str | None:
    """Return a hint for an error of the operating system, or None."""
    if not isinstance(error, OSError):
        return None
    limit = limit_reached(error)
    return limit.hint if limit else _REMEDIES.get(error.errno or 0)


def explained(error: BaseException, subject: str | None = None) -> DrnError:
    """Convert an unhandled exception to an error of one line.

    Args:
        error: The exception. A `DrnError` only gets the hint for its cause, if it has none.
        subject: What could not be read or written, if the exception names no file.
    """
    if isinstance(error, DrnError):
        hint = error.hint or remedy(error.__cause__)
        return type(error)(error.message, hint) if hint != error.hint else error
    if limit := limit_reached(error):
        return FaultError(limit.message, limit.hint)
    if isinstance(error, BlockingIOError) and WOULD_BLOCK in str(error):
        return FaultError(
            f"{subject or 'output'}: the stream is non-blocking, and its reader is too slow",
            "write to a file, or through a pipe: drn ... | cat",
        )
    first = next(iter(str(error).splitlines()), "")
    if isinstance(error, OSError) and error.errno in _REMEDIES:
        names = [str(name) for name in (error.filename, error.filename2) if name is not None]
        where = " -> ".join(names) or subject or "the operating system"
        return FaultError(f"{where}: {error.strerror}", remedy(error))
    if _near_address_limit():
        limit = explained(MemoryError())
        return FaultError(f"{limit.message} ({type(error).__name__}: {first})", limit.hint)
    problem = "nested too deep" if isinstance(error, RecursionError) else "unexpected error"
    text = f"{problem}: {type(error).__name__}: {first}"
    return DrnError(text, "see the traceback with --debug")

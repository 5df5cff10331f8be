"""The errors that a user is meant to see: what is wrong, where, and what to do."""

import errno
import logging
import os
import resource
from collections.abc import Sequence
from pathlib import Path
from typing import TypeGuard

WOULD_BLOCK = "could not complete without blocking"  # of a write, in Python's words
NEAR = 256 << 10  # KiB below `ulimit -v`, where errors of any kind mean that memory ran out


class DrnError(Exception):
    """A mistake in what the user gave us, not in the program.

    Args:
        message: What is wrong and where (file, line, value), in one line.
        hint: What to do about it, if that is not obvious.
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
    """What is nobody's mistake and may go well at another try: a process was lost or killed."""


def started_by_torchrun() -> bool:
    """Whether torchrun, or something that sets the same variables, started this process."""
    return "RANK" in os.environ and "WORLD_SIZE" in os.environ


def reports_for_all() -> bool:
    """Whether this process is rank 0 of its job, or alone: what all ranks find, it reports."""
    return not started_by_torchrun() or os.environ["RANK"] == "0"


def few_of(names: Sequence[object], most: int) -> str:
    """Name a few of many in a message: `a, b, c and 4 more`."""
    named = ", ".join(map(str, names[:most]))
    return f"{named} and {len(names) - most:,} more" if len(names) > most else named


def warn_for_all(log: logging.Logger, text: str) -> None:
    """Log a warning in rank 0 alone, of what all ranks of a job would warn."""
    if reports_for_all():
        log.warning("%s", text)


def limit_reached(error: BaseException) -> DrnError | None:
    """Name the limit of this machine that an error of Python or PyTorch stands for, if it does."""
    number = error.errno if isinstance(error, OSError) else None
    text = str(error)

    def says(*words: str) -> bool:
        return any(word in text for word in words)

    if number in (errno.EMFILE, errno.ENFILE) or says("Too many open files"):
        limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        return DrnError(f"too many open files: the limit is {limit}", "raise it: ulimit -n 4096")
    # Writes to a non-blocking stream whose reader is slow fail with the same number.
    if (number == errno.EAGAIN and not says(WOULD_BLOCK)) or says(
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
        or says(
            "failed to map segment", "annot allocate memory", "can't allocate memory", "bad_alloc"
        )
        or says("PyObject pointer is null")
    ):
        limit = resource.getrlimit(resource.RLIMIT_AS)[0]
        limited = "" if limit == resource.RLIM_INFINITY else f": ulimit -v is {limit // 1024}"
        return DrnError(f"out of memory{limited}", "free some, or raise the limit")
    return None


def refused_by_system(error: object) -> TypeGuard[OSError]:
    """Whether the operating system refused to read (permission, failing disk), so it is no damage.

    Errors of Pillow and zipfile have no number; a broken file may send either to a negative place.
    """
    return isinstance(error, OSError) and error.errno not in (None, errno.EINVAL)


def _near_address_limit() -> bool:
    """Whether `ulimit -v` is set and this process has come close to it.

    Libraries hide a failed allocation behind errors of any kind: a module without its names, a
    oneDNN primitive that cannot be executed, a SystemError without a text.
    """
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    if limit == resource.RLIM_INFINITY:
        return False
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    peak = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmPeak:"))
    return limit // 1024 - peak < NEAR


# What to do about errors of the operating system that users can cause.
_REMEDIES = {
    errno.EACCES: "check its owner and permissions",
    errno.EPERM: "check its owner and permissions",
    errno.EROFS: "choose a folder on a file system that can be written",
    errno.ENOSPC: "free space on that disk, or choose another folder",
    errno.EDQUOT: "free some of your quota, or choose another folder",
    errno.ENAMETOOLONG: "choose a shorter name",
    errno.ELOOP: "symbolic links lead round in a circle: remove one",
    errno.EIO: "the disk or the network file system failed; the kernel's log (dmesg) may say why",
    errno.ESTALE: "the network file system lost it: mount it again",
    errno.ENOTCONN: "the network file system is gone: mount it again",
    errno.ENOENT: None,
    errno.ENOTDIR: None,
    errno.EISDIR: None,
    errno.EEXIST: None,
    errno.ENOTEMPTY: None,
    errno.ETXTBSY: None,
    errno.EFBIG: "choose a file system that takes files of that size, or raise `ulimit -f`",
}


def remedy(error: BaseException | None) -> str | None:
    """Return what a user can do about an error of the operating system, or None."""
    if not isinstance(error, OSError):
        return None
    limit = limit_reached(error)
    return limit.hint if limit else _REMEDIES.get(error.errno or 0)


def _blocked(error: BaseException, subject: str | None) -> DrnError | None:
    if not isinstance(error, BlockingIOError) or WOULD_BLOCK not in str(error):
        return None
    return DrnError(
        f"{subject or 'output'}: is non-blocking, and its reader is too slow",
        "write to a file, or through a pipe: drn ... | cat",
    )


def explained(error: BaseException, subject: str | None = None) -> DrnError:
    """Put an error that no one handled in one line for the user.

    Args:
        error: A `DrnError` stays what it is, but for the remedy where its cause has one.
        subject: What could not be read or written, if the error does not name a file.
    """
    if isinstance(error, DrnError):
        hint = error.hint or remedy(error.__cause__)
        return type(error)(error.message, hint) if hint != error.hint else error
    if limit := limit_reached(error) or _blocked(error, subject):
        return FaultError(limit.message, limit.hint)  # it may go well at another try
    first = next(iter(str(error).splitlines()), "")
    if isinstance(error, OSError) and error.errno in _REMEDIES:
        names = [str(name) for name in (error.filename, error.filename2) if name is not None]
        where = " -> ".join(names) or subject or "the operating system"
        return FaultError(f"{where}: {error.strerror}", remedy(error))
    if _near_address_limit():
        limit = explained(MemoryError())
        return FaultError(f"{limit.message} ({type(error).__name__}: {first})", limit.hint)
    kind = type(error).__name__
    if isinstance(error, RecursionError):
        return DrnError(f"nested too deep: {kind}: {first}", "run again with --debug to see where")
    return DrnError(f"unexpected: {kind}: {first}", "run again with --debug to see where")

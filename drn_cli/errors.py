"""The errors that a user is meant to see: what is wrong, where, and what to do."""

import errno
import resource


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


def limit_reached(error: Exception) -> DrnError | None:
    """Name the limit of this machine that an error of Python or PyTorch stands for, if it does."""
    number = error.errno if isinstance(error, OSError) else None
    text = str(error)

    def says(*words: str) -> bool:
        return any(word in text for word in words)

    if number in (errno.EMFILE, errno.ENFILE) or says("Too many open files"):
        limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        return DrnError(f"too many open files: the limit is {limit}", "raise it: ulimit -n 4096")
    if number == errno.EAGAIN or says("can't start new thread", "Resource temporarily unavailable"):
        return DrnError(
            "no further process or thread can be started",
            "raise the limit of processes or of memory (ulimit -u, ulimit -v), or use fewer: "
            "data.workers=0, OMP_NUM_THREADS=1",
        )
    if (
        isinstance(error, MemoryError)
        or number == errno.ENOMEM
        or says("failed to map segment", "annot allocate memory")
    ):
        limit = resource.getrlimit(resource.RLIMIT_AS)[0]
        limited = "" if limit == resource.RLIM_INFINITY else f": ulimit -v is {limit // 1024}"
        return DrnError(f"out of memory{limited}", "free some, or raise the limit")
    return None

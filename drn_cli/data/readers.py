"""Data loader workers: signals, resource limits, and errors when one dies."""

import errno
import os
import resource
import shutil
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from types import ModuleType
from typing import Any

from torch.utils.data import DataLoader

from drn_cli.device import SHARED_MEMORY
from drn_cli.errors import DrnError, FaultError, limit_reached
from drn_cli.formatting import size

OWN_FILES = 48  # open files of a process without workers, with a margin
USUAL_FILES = 4096  # limit to set where allowed: batches that the user keeps stay open
FILES_PER_WORKER = 12  # pipes, and tensors of prefetched batches


@contextmanager
def wrap_worker_errors(loader: DataLoader[Any] | None = None) -> Iterator[None]:
    """Convert the death of a data loader worker to an error that names the cause.

    PyTorch notices it by a signal and raises wherever the program happens to be, or, if it waits
    for a batch of `loader`, without the cause. Handlers that an earlier failure disabled, for
    example in a notebook, are restored first, because PyTorch sets its handler once per process.

    Raises:
        DrnError: A worker died.
    """
    if loader is not None and threading.current_thread() is threading.main_thread():
        while _undo:
            _undo.pop()()
    try:
        yield
    except (RuntimeError, OSError, EOFError) as error:
        # PyTorch's file writer replaces errors that are raised while it writes by its own.
        failure = _worker_death_in(error)
        if loader is not None and (limit := _limit_error(failure)) is not None:
            # PyTorch cannot stop half-started workers then, and would print tracebacks about it.
            for module, name in ((sys, "unraisablehook"), (threading, "excepthook")):
                _undo.append(partial(_restore, module, name, getattr(module, name)))
                setattr(module, name, _ignore)
            raise limit from None
        if not isinstance(failure, RuntimeError) and (
            loader is None or not isinstance(failure, ConnectionError | EOFError)
        ):
            raise  # about another connection or file
        if threading.current_thread() is threading.main_thread():
            _ignore_further_deaths()
        workers = getattr(getattr(loader, "_iterator", None), "_workers", ())
        codes = [worker.exitcode for worker in workers if worker.exitcode is not None]
        ends = [f"signal: {signal.strsignal(-n)}" if n < 0 else f"exit code {n}" for n in codes]
        raise _worker_error(failure, "; ".join([str(failure), *ends])) from None


_undo: list[Callable[[], object]] = []  # restore handlers of this process, unless replaced since


def _ignore_further_deaths() -> None:
    """Ignore the deaths of the other workers of a loader that has failed."""
    handler = signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    if handler != signal.SIG_DFL:
        _undo.append(
            lambda: (
                signal.getsignal(signal.SIGCHLD) == signal.SIG_DFL
                and signal.signal(signal.SIGCHLD, handler)
            )
        )


def _restore(module: ModuleType, name: str, hook: object) -> None:
    if getattr(module, name) is _ignore:
        setattr(module, name, hook)


def _worker_death_in(failure: Exception) -> Exception:
    """Return the error about a worker's death among the causes of an error, or the error itself."""
    cause: BaseException | None = failure
    while cause is not None:
        if isinstance(cause, RuntimeError) and "DataLoader worker" in str(cause):
            return cause
        cause = cause.__cause__ or cause.__context__
    return failure


def _ignore(_: object) -> None:
    """Replace hooks that print unhandled errors."""


def raise_open_file_limit(workers: int) -> None:
    """Raise this process's limit of open files to at least what data loader workers need.

    Batches are received as open files. Beyond the limit some are lost, and the loader waits for
    them forever.

    Raises:
        DrnError: The limit cannot be raised far enough.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if not workers or soft == resource.RLIM_INFINITY:
        return
    needed = OWN_FILES + FILES_PER_WORKER * workers
    most = sys.maxsize if hard == resource.RLIM_INFINITY else hard
    if most < needed:
        raise DrnError(
            f"data.workers={workers} needs {needed} open files, but the limit is {hard}",
            f"raise it with ulimit -n {needed}, or use fewer data.workers; 0 needs none",
        )
    wanted = min(most, max(needed, USUAL_FILES))
    if soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _limit_error(failure: Exception) -> DrnError | None:
    """Return the error for a system limit that a worker, or its start, ran into."""
    if isinstance(failure, OSError) and failure.errno == errno.ENOSPC:
        return _shared_memory_error()
    if "received 0 items of ancdata" in str(failure):  # file descriptors were lost
        failure = OSError(errno.EMFILE, str(failure))
    limit = limit_reached(failure)
    if limit is None:
        return None
    return DrnError(f"data loader: {limit.message}", f"{limit.hint}, or use data.workers=0")


def _shared_memory_error() -> DrnError:
    usage = shutil.disk_usage(SHARED_MEMORY)
    return DrnError(
        f"data loader worker ran out of shared memory: {SHARED_MEMORY} has "
        f"{size(usage.total)}, of which {size(usage.free)} are free",
        "enlarge it (docker run --shm-size=8g), or use fewer data.workers; 0 needs none",
    )


def _worker_error(failure: Exception, text: str) -> Exception:
    """Return the error for a worker that died; errors of other kinds are returned unchanged."""
    if isinstance(failure, RuntimeError) and "DataLoader worker" not in text:
        return failure
    if "Bus error" in text or "shared memory" in text or "/torch_" in text:
        return _shared_memory_error()
    if "signal: Killed" in text:
        return FaultError(
            "data loader worker was killed (out of memory?)",
            "use fewer data.workers or a smaller train.batch_size",
        )
    if "Caught" in text:  # an exception in the worker, with its traceback
        return failure
    return FaultError(f"data loader worker ended: {text}")


def ignore_signals_in_worker(_: int) -> None:
    """Ignore Ctrl-C, a closed terminal and a scheduler's SIGTERM: the parent finishes its step.

    SIGTERM from the parent itself ends the worker: at exit, Python terminates its children and
    waits for them.
    """
    for number in (signal.SIGINT, signal.SIGUSR1, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    try:
        threading.Thread(target=_exit_on_sigterm_of_parent, daemon=True).start()
    except RuntimeError:
        # Without the thread, the worker would never end, and the parent would wait for it.
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
        raise


def _exit_on_sigterm_of_parent() -> None:
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != os.getppid():
        pass
    os._exit(0)

"""Reading processes: whom they obey, and what is said when one dies."""

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

OWN_FILES = 48  # of a process without readers, and some to spare
USUAL_FILES = 4096  # that are allowed where they can be: batches that are kept take more
FILES_A_READER = 12  # its pipes, and the tensors of the batches that it has read ahead


@contextmanager
def wrap_worker_errors(loader: DataLoader[Any] | None = None) -> Iterator[None]:
    """Turn the death of a reading process into an error that names the cause.

    PyTorch learns of it by a signal, and raises wherever the program happens to be; or, when it
    waits for a batch of `loader`, without the cause. What an earlier failure silenced, as in a
    notebook, reports again to the next loader: PyTorch sets its handler once a process.

    Raises:
        DrnError: A reading process died.
    """
    if loader is not None:
        _restore_handlers()
    try:
        yield
    except (RuntimeError, OSError, EOFError) as error:
        # PyTorch's writer of files covers what is raised while it writes by an error of its own.
        failure = _first_of(error)
        if loader is not None and (out_of := _out_of(failure)) is not None:
            # PyTorch cannot end its half-started workers then, and would print tracebacks of that.
            _ignore_tracebacks()
            raise out_of from None
        if not isinstance(failure, RuntimeError) and (
            loader is None or not isinstance(failure, ConnectionError | EOFError)
        ):
            raise  # of another connection or file
        if threading.current_thread() is threading.main_thread():
            _ignore_deaths()
        readers = getattr(getattr(loader, "_iterator", None), "_workers", ())
        ends = [_end(reader.exitcode) for reader in readers if reader.exitcode is not None]
        raise _why_reading_failed(failure, "; ".join([str(failure), *ends])) from None


_undo: list[Callable[[], object]] = []  # sets handlers of this process back, if still ours


def _ignore_deaths() -> None:
    """Ignore the other workers of a loader that has failed: one death is enough."""
    handler = signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    if handler != signal.SIG_DFL:
        _undo.append(
            lambda: (
                signal.getsignal(signal.SIGCHLD) == signal.SIG_DFL
                and signal.signal(signal.SIGCHLD, handler)
            )
        )


def _ignore_tracebacks() -> None:
    for module, name in ((sys, "unraisablehook"), (threading, "excepthook")):
        _undo.append(partial(_restore, module, name, getattr(module, name)))
        setattr(module, name, _pass_over)


def _restore(module: ModuleType, name: str, hook: object) -> None:
    if getattr(module, name) is _pass_over:
        setattr(module, name, hook)


def _restore_handlers() -> None:
    while _undo and threading.current_thread() is threading.main_thread():
        _undo.pop()()


def _first_of(failure: Exception) -> Exception:
    """Find the death of a reading process among what an error came after."""
    cause: BaseException | None = failure
    while cause is not None:
        if isinstance(cause, RuntimeError) and "DataLoader worker" in str(cause):
            return cause
        cause = cause.__cause__ or cause.__context__
    return failure


def _pass_over(_: object) -> None:
    """Print nothing of an error that nothing can handle."""


def raise_open_file_limit(workers: int) -> None:
    """Raise this process's limit of open files to what its reading processes need, and more.

    Batches come as open files. Beyond the limit some are lost, and one waits for them for ever.

    Raises:
        DrnError: The limit cannot be raised as far.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if not workers or soft == resource.RLIM_INFINITY:
        return
    needed = OWN_FILES + FILES_A_READER * workers
    most = sys.maxsize if hard == resource.RLIM_INFINITY else hard
    if most < needed:
        raise DrnError(
            f"data.workers={workers} needs {needed} open files, and the limit is {hard}",
            f"raise it with ulimit -n {needed}, or read with fewer data.workers; 0 needs none",
        )
    wanted = min(most, max(needed, USUAL_FILES))
    if soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _out_of(failure: Exception) -> DrnError | None:
    """Name the limit that a reading process, or what starts them, ran into."""
    if isinstance(failure, OSError) and failure.errno == errno.ENOSPC:
        return _out_of_shared_memory()
    if "received 0 items of ancdata" in str(failure):  # files that were sent and got lost
        failure = OSError(errno.EMFILE, str(failure))
    limit = limit_reached(failure)
    if limit is None:
        return None
    return DrnError(f"reading: {limit.message}", f"{limit.hint}; data.workers=0 takes the least")


def _out_of_shared_memory() -> DrnError:
    free = shutil.disk_usage(SHARED_MEMORY)
    return DrnError(
        f"a reading process ran out of shared memory: {SHARED_MEMORY} has "
        f"{size(free.total)}, of which {size(free.free)} are free",
        "make it larger (docker run --shm-size=8g), or read with fewer data.workers; "
        "data.workers=0 needs none",
    )


def _end(code: int) -> str:
    return f"signal: {signal.strsignal(-code)}" if code < 0 else f"exit code {code}"


def _why_reading_failed(failure: Exception, text: str) -> Exception:
    """Say what killed a reading process; a failure of another kind stays what it is."""
    if isinstance(failure, RuntimeError) and "DataLoader worker" not in text:
        return failure
    if "Bus error" in text or "shared memory" in text or "/torch_" in text:
        return _out_of_shared_memory()
    if "signal: Killed" in text:
        return FaultError(
            "a reading process was killed, most often because memory ran out",
            "read with fewer data.workers, or make train.batch_size smaller",
        )
    if "Caught" in text:  # a mistake of the program, in a reading process
        return failure
    return FaultError(f"a reading process ended: {text}")


def ignore_signals_in_worker(_: int) -> None:
    """Leave Ctrl-C, a closed terminal and a cluster's SIGTERM to the parent, which ends its step.

    The parent's own SIGTERM counts: Python ends its children so, and waits for them, at exit.
    """
    for number in (signal.SIGINT, signal.SIGUSR1, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    try:
        threading.Thread(target=_end_when_the_parent_says, daemon=True).start()
    except RuntimeError:
        # Without it nothing would end this process, and the parent waits for that.
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
        raise


def _end_when_the_parent_says() -> None:
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != os.getppid():
        pass
    os._exit(0)

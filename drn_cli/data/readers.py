"""Reading processes: whom they obey, and what is said when one dies."""

import os
import shutil
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch.utils.data import DataLoader

from drn_cli.data.cache import size
from drn_cli.data.memory_folder import SHARED_MEMORY
from drn_cli.errors import DrnError, FaultError


@contextmanager
def reading_failures(loader: DataLoader[Any] | None = None) -> Iterator[None]:
    """Turn the death of a reading process into an error that names the cause.

    PyTorch learns of it by a signal, and raises wherever the program happens to be; or, when it
    waits for a batch of `loader`, without the cause.

    Raises:
        DrnError: A reading process died.
    """
    try:
        yield
    except (RuntimeError, ConnectionError, EOFError) as failure:
        if loader is None and not isinstance(failure, RuntimeError):
            raise  # a connection of somebody else's
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # one death is enough
        readers = getattr(getattr(loader, "_iterator", None), "_workers", ())
        ends = [_end(reader.exitcode) for reader in readers if reader.exitcode is not None]
        raise _why_reading_failed(failure, "; ".join([str(failure), *ends])) from None


def _end(code: int) -> str:
    return f"signal: {signal.strsignal(-code)}" if code < 0 else f"exit code {code}"


def _why_reading_failed(failure: Exception, text: str) -> Exception:
    """Say what killed a reading process; a failure of another kind stays what it is."""
    if isinstance(failure, RuntimeError) and "DataLoader worker" not in text:
        return failure
    if "Bus error" in text or "shared memory" in text or "/torch_" in text:
        free = shutil.disk_usage(SHARED_MEMORY)
        return DrnError(
            f"a reading process ran out of shared memory: {SHARED_MEMORY} has "
            f"{size(free.total)}, of which {size(free.free)} are free",
            "make it larger (docker run --shm-size=8g), or read with fewer data.workers; "
            "data.workers=0 needs none",
        )
    if "signal: Killed" in text:
        return FaultError(
            "a reading process was killed, most often because memory ran out",
            "read with fewer data.workers, or make train.batch_size smaller",
        )
    if "Caught" in text:  # a mistake of the program, in a reading process
        return failure
    return FaultError(f"a reading process ended: {text}")


def obey_only_the_parent(_: int) -> None:
    """Leave Ctrl-C, a closed terminal and a cluster's SIGTERM to the parent, which ends its step.

    The parent's own SIGTERM counts: Python ends its children so, and waits for them, at exit.
    """
    for number in (signal.SIGINT, signal.SIGUSR1, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    threading.Thread(target=_end_when_the_parent_says, daemon=True).start()


def _end_when_the_parent_says() -> None:
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != os.getppid():
        pass
    os._exit(0)

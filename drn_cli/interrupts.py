"""Deferring Ctrl-C during operations that must not be interrupted, such as starting processes."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def defer_interrupts() -> Iterator[None]:
    """Defer SIGINT to the end of the block; processes started in it ignore it permanently.

    New processes inherit the signal mask of the thread, so that only their parent stops them. Other
    threads of this process may still receive the signal, so its handler is replaced as well, which
    only the main thread can do.

    Raises:
        KeyboardInterrupt: At the end of the block, if a SIGINT was received.
    """
    deferred: list[int] = []
    main = threading.current_thread() is threading.main_thread()
    if main:
        handler = signal.signal(signal.SIGINT, lambda number, _: deferred.append(number))
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        if main:
            signal.signal(signal.SIGINT, handler)
    if deferred:
        raise KeyboardInterrupt

"""Holding Ctrl-C back while something must not be cut in two, such as the start of processes."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def defer_interrupts() -> Iterator[None]:
    """Hold Ctrl-C back; processes that start in here never see it: their parent stops them.

    A new process inherits what its parent's thread blocks. The parent may have other threads that
    the signal can reach, so its handler has to wait as well; only the main thread can set it.
    """
    held_back: list[int] = []
    main = threading.current_thread() is threading.main_thread()
    if main:
        handler = signal.signal(signal.SIGINT, lambda number, _: held_back.append(number))
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        if main:
            signal.signal(signal.SIGINT, handler)
    if held_back:
        raise KeyboardInterrupt

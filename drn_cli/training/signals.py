"""What asks a run to stop, and how it answers."""

import logging
import os
import signal
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from drn_cli.distributed.launch import stop_signals

log = logging.getLogger(__name__)


@dataclass(slots=True)
class StopRequest:
    """The signal that asked this process to stop; 0 if none did."""

    number: int = 0


@contextmanager
def interruptible(*, aloud: bool) -> Iterator[StopRequest]:
    """Turn signals into a wish to stop; a second SIGINT interrupts at once, as usual."""
    interrupt = StopRequest()

    def handle(number: int, _: object) -> None:
        leave_closed_terminal()
        if aloud and not interrupt.number:
            log.info("%s: stopping after this step", signal.Signals(number).name)
        interrupt.number = interrupt.number or number
        signal.signal(signal.SIGINT, signal.default_int_handler)

    before = {number: signal.signal(number, handle) for number in stop_signals()}
    try:
        yield interrupt
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def leave_closed_terminal() -> None:
    """Send what is printed nowhere, from here on, if the terminal it went to is closed.

    Each write to it would fail (EIO) and end the run before its checkpoint.
    """
    for descriptor in (1, 2):
        with suppress(OSError):  # it may be closed itself
            device = stat.S_ISCHR(os.fstat(descriptor).st_mode)
            if device and not os.isatty(descriptor):
                null = os.open(os.devnull, os.O_WRONLY)
                os.dup2(null, descriptor)
                os.close(null)

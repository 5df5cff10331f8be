"""Signals that stop a run after its current step."""

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
    """Number of the signal that asked this process to stop; 0 if there was none."""

    number: int = 0


@contextmanager
def stop_on_signals(*, verbose: bool) -> Iterator[StopRequest]:
    """Record the first signal instead of ending; a second SIGINT raises KeyboardInterrupt."""
    request = StopRequest()

    def handle(number: int, _: object) -> None:
        leave_closed_terminal()
        if verbose and not request.number:
            log.info("%s: stopping after this step", signal.Signals(number).name)
        request.number = request.number or number
        signal.signal(signal.SIGINT, signal.default_int_handler)

    before = {number: signal.signal(number, handle) for number in stop_signals()}
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def leave_closed_terminal() -> None:
    """Redirect stdout and stderr to /dev/null if their terminal was closed.

    Each write to it would fail (EIO) and end the run before its checkpoint.
    """
    for descriptor in (1, 2):
        with suppress(OSError):  # the descriptor may be closed
            device = stat.S_ISCHR(os.fstat(descriptor).st_mode)
            if device and not os.isatty(descriptor):
                null = os.open(os.devnull, os.O_WRONLY)
                os.dup2(null, descriptor)
                os.close(null)

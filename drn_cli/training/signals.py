"""What asks a run to stop, and how it answers."""

import logging
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

log = logging.getLogger(__name__)

# Ctrl-C; what clusters and `kill` send; and what SLURM sends some time before the limit.
HEEDED = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)


@dataclass(slots=True)
class Interrupt:
    """The signal that asked this process to stop; 0 if none did."""

    number: int = 0


@contextmanager
def interruptible(*, aloud: bool) -> Iterator[Interrupt]:
    """Turn signals into a wish to stop; a second SIGINT interrupts at once, as usual."""
    interrupt = Interrupt()

    def handle(number: int, _: object) -> None:
        if aloud and not interrupt.number:
            log.info("%s: stopping after this step", signal.Signals(number).name)
        interrupt.number = interrupt.number or number
        signal.signal(signal.SIGINT, signal.default_int_handler)

    before = {number: signal.signal(number, handle) for number in HEEDED}
    try:
        yield interrupt
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)

"""Processes that are started together, watched, and never left behind.

What crashes there, or hangs, does not take the doctor with it.
"""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass

from drn_cli.interrupts import interrupts_later

POLL = 0.02  # seconds
BUSY = "nothing is known to be wrong with it: run drn doctor again when the machine is less busy"


@dataclass(frozen=True, slots=True)
class Ending:
    """How a process ended.

    Attributes:
        code: Its exit code, minus the signal that killed it, or None if we had to end it.
        text: All that it wrote.
    """

    code: int | None
    text: str

    @property
    def last_line(self) -> str:
        """The last line that it wrote, where Python says what was raised."""
        lines = self.text.strip().splitlines()
        if lines:
            return lines[-1].strip()
        return "it said nothing" if self.code is None else f"it ended with {self.code}"


def run_together(
    commands: Sequence[Sequence[str]], timeout: float, *, all_or_none: bool = False
) -> list[Ending]:
    """Run commands at the same time, and end those that take too long.

    Args:
        commands: Each a program and its arguments.
        timeout: Seconds for all of them.
        all_or_none: Whether all are to be ended as soon as one fails.
    """
    with ExitStack() as stack:
        # Files, unlike pipes, are never full.
        outputs = [stack.enter_context(tempfile.TemporaryFile()) for _ in commands]
        running: list[subprocess.Popen[bytes]] = []
        stack.callback(_end, running)  # on Ctrl-C as well
        with interrupts_later():  # else one that has just started would be in no list
            for command, output in zip(commands, outputs, strict=True):
                running.append(
                    subprocess.Popen(
                        command,
                        stdin=subprocess.DEVNULL,
                        stdout=output,
                        stderr=subprocess.STDOUT,
                        # Its stacks would stand where a crash says nothing, and be taken for a
                        # reason.
                        env=os.environ | {"PYTHONFAULTHANDLER": ""},
                    )
                )
        end = time.monotonic() + timeout
        codes = [process.poll() for process in running]
        while None in codes and time.monotonic() < end and not (all_or_none and any(codes)):
            time.sleep(POLL)
            codes = [process.poll() for process in running]
        _end(running)
        endings = []
        for code, output in zip(codes, outputs, strict=True):
            output.seek(0)
            endings.append(Ending(code, output.read().decode(errors="replace")))
        return endings


def python(*words: str) -> tuple[str, ...]:
    """Return the command that runs this Python, without modules of the current folder."""
    return (sys.executable, "-P", *words)


def too_slow(packages: str, timeout: float) -> str:
    """Describe an import that had to be ended, which is no sign that the package is broken."""
    return f"not checked: to import {packages} took longer than {timeout:g} seconds"


def _end(processes: Sequence[subprocess.Popen[bytes]]) -> None:
    with interrupts_later():  # a second Ctrl-C leaves none behind either
        for process in processes:
            process.kill()
            process.wait()

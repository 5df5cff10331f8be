"""Processes run together, and none stays behind."""

import os
import signal
import subprocess
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from drn_cli.doctor.children import python, run_together

HANGS = python("-c", "print('here', flush=True); import time; time.sleep(1000)")


def gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


def test_what_they_said_and_how_they_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONFAULTHANDLER", "1")  # no stack hides how a process ended
    good, bad, crashed, much = run_together(
        [
            python("-c", "print('first'); print('last')"),
            python("-c", "raise ValueError('no \\udcff')"),
            python("-c", "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)"),
            python("-c", "print('x' * 1_000_000)"),  # more than a pipe holds
        ],
        60,
    )
    assert (good.code, good.last_line) == (0, "last")
    assert (bad.code, bad.last_line) == (1, "ValueError: no \\udcff")
    assert (crashed.code, crashed.last_line) == (-signal.SIGSEGV, "it ended with -11")
    assert (much.code, len(much.text)) == (0, 1_000_001)


def test_what_takes_too_long_is_ended() -> None:
    script = "import os; print(os.getpid(), flush=True); import time; time.sleep(1000)"
    [ending] = run_together([python("-c", script)], 3)
    assert ending.code is None
    assert gone(int(ending.last_line))


def test_one_failure_ends_all_if_asked() -> None:
    fails = python("-c", "raise SystemExit(3)")
    first, second = run_together([HANGS, fails], 500, all_or_none=True)
    assert (first.code, second.code) == (None, 3)


def test_nobody_is_left_when_a_program_is_missing_or_interrupted(tmp_path: Path) -> None:
    mark = tmp_path / "pid"
    script = (
        f"import os, pathlib, time; p = pathlib.Path({str(mark)!r}); q = p.with_suffix('.x')\n"
        "q.write_text(str(os.getpid())); q.rename(p); time.sleep(1000)"
    )

    def interrupt() -> None:
        while not mark.exists():
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        run_together([python("-c", script)], 500)
    thread.join()
    assert gone(int(mark.read_text()))
    with pytest.raises(FileNotFoundError):
        run_together([HANGS, ["/no/such/program"]], 500)


def test_interrupt_while_a_process_starts_leaves_none(monkeypatch: pytest.MonkeyPatch) -> None:
    started = []

    class Interrupted(subprocess.Popen[bytes]):
        def __init__(self, *args: Any, **options: Any) -> None:
            super().__init__(*args, **options)
            started.append(self.pid)
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(subprocess, "Popen", Interrupted)
    with pytest.raises(KeyboardInterrupt):
        run_together([HANGS, HANGS], 500)
    assert started
    assert all(map(gone, started))

"""Processes of the doctor: what they report, and that none outlives it."""

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from drn_cli.doctor.probes import python, run_together

HANGS = python("print('here', flush=True); import time; time.sleep(1000)")


def gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


def pid_in(file: Path) -> int:
    while not (file.exists() and file.read_text()):
        time.sleep(0.01)
    return int(file.read_text())


def test_output_and_exit_code(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONFAULTHANDLER", "1")  # no stack hides how a process ended
    good, bad, crashed, much = run_together(
        [
            python("print('first'); print('last')"),
            python("raise ValueError('no \\udcff')"),
            python("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)"),
            python("print('x' * 1_000_000)"),  # more than a pipe holds
        ],
        60,
    )
    assert (good.code, good.last_line) == (0, "last")
    assert (bad.code, bad.last_line) == (1, "ValueError: no \\udcff")
    assert crashed.code == -signal.SIGSEGV
    assert crashed.last_line == "no output, exit code -11"
    assert (much.code, len(much.text)) == (0, 1_000_001)
    first, second = run_together([HANGS, python("raise SystemExit(3)")], 500, all_or_none=True)
    assert (first.code, second.code) == (None, 3)


def test_a_process_that_exceeds_its_time_is_killed_with_its_own_children() -> None:
    script = (
        "import os, subprocess, sys, time\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(1000)'])\n"
        "print(os.getpid(), child.pid, flush=True); time.sleep(1000)"
    )
    [result] = run_together([python(script)], 3)
    assert result.code is None
    parent, child = map(int, result.last_line.split())
    assert gone(parent)
    state = Path(f"/proc/{child}/stat")
    deadline = time.monotonic() + 30  # until its new parent has collected it
    while state.exists() and ") Z " not in state.read_text() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not state.exists() or ") Z " in state.read_text()


def test_none_is_left_on_ctrl_c_or_after_a_missing_program(tmp_path: Path) -> None:
    mark = tmp_path / "pid"
    write = f"import os, pathlib, time; pathlib.Path({str(mark)!r}).write_text(str(os.getpid()))"

    def interrupt() -> None:
        pid_in(mark)
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        run_together([python(f"{write}; time.sleep(1000)")], 500)
    thread.join()
    assert gone(int(mark.read_text()))
    with pytest.raises(FileNotFoundError):
        run_together([HANGS, ["/no/such/program"]], 500)


def test_ctrl_c_while_a_process_starts_leaves_none(monkeypatch: pytest.MonkeyPatch) -> None:
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


def test_a_killed_doctor_takes_its_processes_along(tmp_path: Path) -> None:
    mark = tmp_path / "pid"
    inner = f"import os, time; open({str(mark)!r}, 'w').write(str(os.getpid())); time.sleep(1000)"
    outer = f"from drn_cli.doctor.probes import *; run_together([python({inner!r})], 900)"
    running = subprocess.Popen([sys.executable, "-c", outer])
    child = Path(f"/proc/{pid_in(mark)}")
    assert child.exists()
    running.kill()
    running.wait()
    deadline = time.monotonic() + 30
    while child.exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not child.exists()


def processes_of(session: int) -> list[str]:
    """List the command lines of a session's processes, as Linux has them."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
            if int(fields[3]) == session and fields[0] != "Z":
                found.append((folder / "cmdline").read_text().replace("\0", " "))
        except (FileNotFoundError, ProcessLookupError):
            continue  # it ended meanwhile
    return found


def test_ctrl_c_ends_drn_doctor(drn: Any, until: Callable[..., None]) -> None:
    running = drn.begin("doctor", "--offline")
    until(lambda: any(re.search("all_reduce", line) for line in processes_of(running.pid)))
    os.kill(running.pid, signal.SIGINT)
    stdout, stderr = running.communicate(timeout=100)
    assert (running.returncode, stdout, stderr) == (130, "", "interrupted\n")
    assert processes_of(running.pid) == []

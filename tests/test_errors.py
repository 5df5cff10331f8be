import errno
import logging
import os
import pickle
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from drn_cli.errors import DrnError, explained, limit_reached, warn_for_all


def test_text_is_the_message_with_the_hint_in_parentheses() -> None:
    assert str(DrnError("a.png: no such file")) == "a.png: no such file"
    error = DrnError("a.png: no such file", "look elsewhere")
    assert str(error) == "a.png: no such file (look elsewhere)"
    assert (error.message, error.hint) == ("a.png: no such file", "look elsewhere")


@pytest.mark.parametrize("hint", [None, "look elsewhere"])
def test_errors_can_be_pickled(hint: str | None) -> None:
    error = pickle.loads(pickle.dumps(DrnError("a.png: no such file", hint)))
    assert type(error) is DrnError
    assert (error.message, error.hint) == ("a.png: no such file", hint)


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (OSError(errno.EMFILE, "Too many open files"), "too many open files: the limit is "),
        (BlockingIOError(errno.EAGAIN, "Resource"), "no further process or thread"),
        (RuntimeError("can't start new thread"), "no further process or thread"),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), "out of memory"),
        (MemoryError(), "out of memory"),
        (BaseException("PyObject pointer is null"), "out of memory"),  # safetensors
    ],
)
def test_recognizes_limits_of_the_machine(error: BaseException, message: str) -> None:
    found = limit_reached(error)
    assert found is not None and found.message.startswith(message) and found.hint


def test_other_errors_are_not_limits() -> None:
    assert limit_reached(RuntimeError("mat1 and mat2 shapes cannot be multiplied")) is None
    blocked = BlockingIOError(errno.EAGAIN, "write could not complete without blocking", 4096)
    assert limit_reached(blocked) is None
    assert explained(blocked).message.startswith(
        "output: the stream is non-blocking, and its reader is"
    )


@pytest.mark.parametrize(
    ("variables", "warned"),
    [
        ({}, True),
        ({"RANK": "0", "WORLD_SIZE": "2"}, True),
        ({"RANK": "1", "WORLD_SIZE": "2"}, False),
        ({"RANK": "1"}, True),  # left over, as WORLD_SIZE is missing
    ],
)
def test_only_rank_0_warns(
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    variables: dict[str, str],
    warned: bool,
) -> None:
    for name in ("RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    warn_for_all(logging.getLogger("drn_cli"), "a.pth: not verified")
    assert caplog.messages == ["a.pth: not verified"] * warned


def test_too_little_address_space_is_one_line(drn, recipe_file) -> None:
    """So little that PyTorch's library cannot be mapped."""
    limited = type(drn)(drn.cwd, ("prlimit", "--as=400000000", *drn.start))
    done = limited("train", recipe_file, "--dry-run")
    assert done.returncode == 1
    assert "error: out of memory: ulimit -v is 390625" in done.stderr
    assert "unexpected" not in done.stderr and "Traceback" not in done.stderr


@pytest.fixture
def few_processes() -> Iterator[Path]:
    """A control group, whose limit of processes and threads can be written to `pids.max`."""
    for root in (Path("/sys/fs/cgroup/pids"), Path("/sys/fs/cgroup")):
        group = root / f"drn-test-{os.getpid()}"
        try:
            group.mkdir()
        except OSError:
            continue
        if (group / "pids.max").is_file():
            yield group
            group.rmdir()
            return
        group.rmdir()
    pytest.skip("no control group with a limit of processes can be made here")


@pytest.mark.parametrize("limit", [3, 9])
def test_too_few_processes_are_one_line(drn, recipe_file, few_processes: Path, limit: int) -> None:
    (few_processes / "pids.max").write_text(str(limit))
    enter = f'echo $$ > {few_processes}/cgroup.procs && exec "$@"'
    limited = type(drn)(drn.cwd, ("sh", "-c", enter, "sh", *drn.start))
    done = limited("train", recipe_file, "data.workers=8")
    assert done.returncode == 1
    assert "no further process or thread can be started" in done.stderr
    assert "unexpected" not in done.stderr and "Traceback" not in done.stderr


NEAR_THE_LIMIT = """
import mmap, resource, sys
from drn_cli.errors import explained
resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30))
held = []
for size in (1 << 27, 1 << 24):
    try:
        while True:
            held.append(mmap.mmap(-1, size))
    except OSError:
        pass
print(explained(SystemError("error return without exception set")))
"""


def test_any_error_near_the_address_limit_is_out_of_memory() -> None:
    """Libraries report failed allocations as arbitrary errors."""
    done = subprocess.run(
        [sys.executable, "-c", NEAR_THE_LIMIT], capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith("out of memory: ulimit -v is 1048576 (SystemError: error return")
    assert explained(SystemError("error")).message == "unexpected error: SystemError: error"

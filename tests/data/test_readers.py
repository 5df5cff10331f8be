import errno
import io
import multiprocessing
import os
import resource
import subprocess
import sys
import threading
import time
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import Dataset

from drn_cli.data.batches import TrainLoader
from drn_cli.data.order import EpochSampler, SampleKey
from drn_cli.data.readers import raise_open_file_limit, wrap_worker_errors
from drn_cli.errors import DrnError

KILLED = """
import multiprocessing, sys, time
import numpy as np
from drn_cli.data.batches import TrainLoader
from drn_cli.data.order import EpochSampler
from drn_cli.data.readers import wrap_worker_errors
from drn_cli.errors import DrnError

class Slow:
    def __getitem__(self, turn):
        time.sleep(0.1)
        return np.zeros((6, 6, 3), np.uint8), np.zeros((6, 6), np.uint8)

workers = int(sys.argv[1])
batches = TrainLoader(Slow(), EpochSampler(600, 1, 0), rank=0, world=1, workers=workers, pin=False)
try:
    with wrap_worker_errors():
        for step, batch in enumerate(batches.epoch(0)):
            if step == 2:
                for reader in multiprocessing.active_children():
                    reader.kill()
except DrnError as error:
    print(error)
"""


@pytest.mark.parametrize("workers", [1, 3])
def test_killed_worker_is_an_error(workers: int) -> None:
    done = subprocess.run(
        [sys.executable, "-c", KILLED, str(workers)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.stdout.startswith("data loader worker was killed (out of memory?)")
    assert "data.workers" in done.stdout
    assert done.returncode == 0, done.stderr


class Killing(io.BytesIO):
    """A file that kills all workers while it is written."""

    def write(self, data: Any) -> int:
        for reader in multiprocessing.active_children():
            reader.kill()
            reader.join()
        time.sleep(0.01)  # the signal's handler comes here
        return super().write(data)


class Slow(Dataset[Any]):
    def __getitem__(self, turn: SampleKey) -> tuple[np.ndarray, int]:
        time.sleep(0.1)
        return np.zeros((6, 6, 3), np.uint8), 0


def test_worker_killed_while_a_checkpoint_is_written_is_named() -> None:
    """PyTorch's file writer replaces the error raised by its signal handler."""
    batches = TrainLoader(Slow(), EpochSampler(600, 1, 0), rank=0, world=1, workers=1, pin=False)
    with pytest.raises(DrnError, match="data loader worker was killed"), wrap_worker_errors():
        for _ in batches.epoch(0):
            torch.save({"weight": torch.zeros(9)}, Killing())


@pytest.mark.parametrize(
    ("failure", "said"),
    [
        (RuntimeError("can't start new thread"), "data loader: no further process or thread"),
        (BlockingIOError(errno.EAGAIN, "fork"), "data loader: no further process or thread"),
        (OSError(errno.EMFILE, "pipe"), "data loader: too many open files: the limit is "),
        (RuntimeError("received 0 items of ancdata"), "data loader: too many open files"),
        (OSError(errno.ENOMEM, "fork"), "data loader: out of memory"),
    ],
)
def test_workers_that_cannot_start_are_an_error(
    monkeypatch: pytest.MonkeyPatch, failure: Exception, said: str
) -> None:
    """As under a limit of processes or memory: the stack of a thread takes 8 MiB."""

    def limited(_: threading.Thread) -> None:
        raise failure

    monkeypatch.setattr(threading.Thread, "start", limited)
    batches = TrainLoader(Slow(), EpochSampler(2, 1, 0), rank=0, world=1, workers=1, pin=False)
    with pytest.raises(DrnError, match=said) as caught:
        list(batches.epoch(0))
    assert caught.value.hint is not None and "or use data.workers=0" in caught.value.hint
    silent = threading.excepthook, sys.unraisablehook
    monkeypatch.undo()
    mine = print
    monkeypatch.setattr(sys, "unraisablehook", mine)  # set since then, and kept
    batches = TrainLoader(Slow(), EpochSampler(2, 1, 0), rank=0, world=1, workers=0, pin=False)
    assert len(list(batches.epoch(0))) == 2
    assert threading.excepthook not in silent and sys.unraisablehook is mine


class Ends(Dataset[Any]):
    """A worker that exits, as after a fatal error in a library."""

    def __getitem__(self, turn: SampleKey) -> tuple[np.ndarray, int]:
        os._exit(3)


def test_worker_that_exits_is_an_error() -> None:
    batches = TrainLoader(Ends(), EpochSampler(2, 1, 0), rank=0, world=1, workers=1, pin=False)
    with pytest.raises(DrnError, match="data loader worker ended"):
        list(batches.epoch(0))


class Fails(Dataset[Any]):
    def __getitem__(self, turn: SampleKey) -> tuple[np.ndarray, int]:
        raise RuntimeError("a mistake of the program")


def test_exceptions_in_workers_keep_their_traceback() -> None:
    batches = TrainLoader(Fails(), EpochSampler(2, 1, 0), rank=0, world=1, workers=1, pin=False)
    with pytest.raises(RuntimeError, match="a mistake of the program"):
        list(batches.epoch(0))


CRAMPED = """
import sys
import numpy as np
from drn_cli.data.batches import TrainLoader
from drn_cli.data.order import EpochSampler
from drn_cli.errors import DrnError

class Large:
    def __getitem__(self, turn):
        return np.zeros((600, 600, 3), np.uint8), np.zeros((600, 600), np.uint8)

batches = TrainLoader(Large(), EpochSampler(8, 2, 0), rank=0, world=1, workers=2, pin=False)
try:
    list(batches.epoch(0))
except DrnError as error:
    print(error)
"""


@pytest.mark.parametrize(("size", "words"), [("1m", "1.0 MB"), ("16k", "16.4 kB")])
def test_full_shared_memory_is_an_error(size: str, words: str) -> None:
    mount = f"mount -t tmpfs -o size={size} tmpfs /dev/shm"
    in_a_mount_of_its_own = ["unshare", "--mount", "sh", "-c"]
    try:
        subprocess.run([*in_a_mount_of_its_own, mount], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("only root may give a process another /dev/shm")
    command = f'{mount} && exec "$0" -c "$1"'
    done = subprocess.run(
        [*in_a_mount_of_its_own, command, sys.executable, CRAMPED],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.stdout.startswith("data loader worker ran out of shared memory"), done.stderr
    assert words in done.stdout
    assert "--shm-size" in done.stdout


FEW_FILES = """
import resource, sys
import numpy as np
from drn_cli.data.batches import TrainLoader
from drn_cli.data.order import EpochSampler
from drn_cli.errors import DrnError

class Small:
    def __getitem__(self, turn):
        return np.zeros((60, 60, 3), np.uint8), np.zeros((60, 60), np.uint8)

resource.setrlimit(resource.RLIMIT_NOFILE, (24, int(sys.argv[1])))
batches = TrainLoader(Small(), EpochSampler(40, 2, 0), rank=0, world=1, workers=2, pin=False)
try:
    print(len(list(batches.epoch(0))), "batches")
except DrnError as error:
    print(error)
"""


def test_limit_of_open_files_is_raised() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (200, hard))
    try:
        raise_open_file_limit(1)
        raised = resource.getrlimit(resource.RLIMIT_NOFILE)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert raised == (4096 if hard == resource.RLIM_INFINITY else min(hard, 4096), hard)


@pytest.mark.parametrize(
    ("limit", "said"),
    [
        (
            24,
            "data.workers=2 needs 72 open files, but the limit is 24 (raise it with ulimit -n 72, "
            "or use fewer data.workers; 0 needs none)\n",
        ),
        (72, "20 batches\n"),  # the soft limit is raised
    ],
)
def test_too_low_limit_of_open_files_is_an_error(limit: int, said: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", FEW_FILES, str(limit)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.stdout == said, done.stderr
    assert done.stderr == ""


@pytest.mark.parametrize(
    "failure",
    [
        RuntimeError("CUDA error: too many resources requested: shared memory"),
        ConnectionResetError("Connection closed by peer"),
    ],
)
def test_other_errors_are_unchanged(failure: Exception) -> None:
    with pytest.raises(type(failure)) as caught, wrap_worker_errors():
        raise failure
    assert caught.value is failure

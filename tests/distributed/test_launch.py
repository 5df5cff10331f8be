import json
import os
import signal
import sys
from pathlib import Path

import pytest
import torch

from drn_cli.distributed.launch import check_gpus
from drn_cli.errors import DrnError

LAUNCH = """
import sys
from drn_cli.distributed.launch import launch
from drn_cli.errors import DrnError
try:
    sys.exit(launch(sys.argv[2:], int(sys.argv[1])))
except DrnError as error:
    print("DrnError:", error)
    sys.exit(99)
"""

# A package of the same name, found first, in place of the product: each process does as told.
WORKER = """
import json, os, sys, time
from pathlib import Path
rank = os.environ["RANK"]
names = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "OMP_NUM_THREADS")
told = {name: os.environ[name] for name in names} | {"argv": sys.argv[1:], "pid": os.getpid()}
Path(f"{rank}.tmp").write_text(json.dumps(told))
Path(f"{rank}.tmp").rename(f"{rank}.json")
if sys.argv[1] == "fail" and rank == "1":
    sys.exit(7)
if sys.argv[1] != "ok":
    time.sleep(600)
"""


@pytest.fixture
def launch(drn, tmp_path):
    """Start `launch(words, processes)`, with stand-ins for `drn` as its processes."""
    package = tmp_path / "drn_cli"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "__main__.py").write_text(WORKER)
    # The launcher itself is the real one: with -P it does not look into its own folder.
    return type(drn)(tmp_path, (sys.executable, "-P", "-c", LAUNCH))


def told(folder: Path, ranks: int) -> list[dict]:
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(ranks)]


def test_every_process_gets_the_command_line_and_its_rank(launch, tmp_path):
    words = ["ok", "train.lr=0.1", "--flag", "a b", "--run-dir", "x"]
    done = launch("2", *words)
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    first, second = told(tmp_path, 2)
    assert first["argv"] == second["argv"] == words
    assert [(t["RANK"], t["LOCAL_RANK"], t["WORLD_SIZE"]) for t in (first, second)] == [
        ("0", "0", "2"),
        ("1", "1", "2"),
    ]
    assert first["OMP_NUM_THREADS"] == "1"  # set by the user, here the tests
    assert first["pid"] != second["pid"]


def test_the_exit_code_is_that_of_the_process_that_failed(launch):
    done = launch("2", "fail")
    assert done.returncode == 7
    assert (done.stdout, done.stderr) == ("", "")  # the process has said what there is to say


def test_a_killed_process_is_an_error(launch, tmp_path, until):
    running = launch.begin("2", "wait")
    until(lambda: (tmp_path / "0.json").is_file() and (tmp_path / "1.json").is_file())
    os.kill(told(tmp_path, 2)[1]["pid"], signal.SIGKILL)
    out, _ = running.communicate(timeout=300)
    assert running.returncode == 99
    assert out == "DrnError: process 1 was ended by SIGKILL (was memory short?)\n"


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_all_processes(launch, tmp_path, until, number, code):
    running = launch.begin("2", "wait")
    until(lambda: (tmp_path / "0.json").is_file() and (tmp_path / "1.json").is_file())
    running.send_signal(number)
    running.communicate(timeout=300)
    assert running.returncode == code
    for process in told(tmp_path, 2):
        with pytest.raises(ProcessLookupError):
            os.kill(process["pid"], 0)


@pytest.mark.parametrize(("there", "wanted", "fine"), [(0, 8, True), (2, 2, True), (2, 3, False)])
def test_check_gpus(monkeypatch, there, wanted, fine):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: there)
    if fine:
        check_gpus(wanted)
    else:
        with pytest.raises(DrnError, match=r"--gpus 3: this machine has 2 \(--gpus 2\)"):
            check_gpus(wanted)

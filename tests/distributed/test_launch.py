import json
import os
import re
import signal
import socket
import sys
from pathlib import Path

import pytest
import torch

import drn_cli
from drn_cli.distributed.launch import (
    EXIT_CODE_FILE,
    LaunchOptions,
    check_nproc,
    launch,
    resolve_nproc,
    worker_exit_code,
)
from drn_cli.errors import DrnError

LAUNCH = """
import json, os, sys
from drn_cli.distributed.launch import LaunchOptions, launch
from drn_cli.errors import DrnError
os.environ["PYTHONPATH"] = os.getcwd() + ":" + os.environ.get("PYTHONPATH", "")
try:
    sys.exit(launch(sys.argv[2:], LaunchOptions(**json.loads(sys.argv[1]))))
except DrnError as error:
    print("DrnError:", error)
    sys.exit(99)
"""

# A package of the same name, found first, in place of the product: each process does as told.
# What the real one has besides `__main__` is there too.
PACKAGE = f"__path__.append({str(Path(drn_cli.__file__).parent)!r})"
WORKER = """
import json, os, signal, sys, time
from pathlib import Path
rank = os.environ["RANK"]

def tell(name, **facts):
    Path(f"{name}.tmp").write_text(json.dumps(facts))
    Path(f"{name}.tmp").rename(f"{name}.json")

names = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_PORT", "OMP_NUM_THREADS")
about = {name: os.environ[name] for name in names} | {"argv": sys.argv[1:], "pid": os.getpid()}

def wait():
    tell(rank, **about)
    time.sleep(600)

def ok():
    tell(rank, **about)

def fail():
    if rank == "1":
        sys.exit(7)
    wait()

def deaf():
    asked = []

    def count(*_):
        asked.append(0)
        tell(f"asked{len(asked)}")

    signal.signal(signal.SIGINT, count)
    wait()

def stop():
    "As training does: asked to stop, it takes its time, and leaves with a code."
    from drn_cli.distributed.launch import worker_exit_code

    def end(number, _):
        time.sleep(0.5)
        tell(f"{rank}.end", signal=number)
        sys.exit(worker_exit_code(128 + number))

    signal.signal(signal.SIGUSR1, end)
    signal.signal(signal.SIGTERM, end)
    wait()

def sums():
    "Process 1 is lost the given number of times; after that, process 0 comes last."
    import torch
    from drn_cli.distributed.group import join
    from drn_cli.errors import DrnError

    lost = len(list(Path().glob("loss*")))
    # It is to say that the other was lost before the launcher ends it.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if rank == "0" and lost:
        time.sleep(1)
    try:
        with join() as group:
            total = group.sum(torch.tensor([10 + group.rank])).item()
            if group.rank == 1 and lost < int(sys.argv[2]):
                Path(f"loss{lost}").touch()
                os.kill(os.getpid(), signal.SIGKILL)
            group.barrier()
            tell(rank, **about, total=total)
    except DrnError as error:
        tell(f"{rank}.lost", error=str(error))
        sys.exit(1)

globals()[sys.argv[1]]()
"""


@pytest.fixture
def begin(drn, tmp_path):
    """Start `launch(words, LaunchOptions(...))`, with stand-ins for `drn` as its processes."""
    package = tmp_path / "drn_cli"
    package.mkdir()
    (package / "__init__.py").write_text(PACKAGE)
    (package / "__main__.py").write_text(WORKER)
    # The launcher itself is the real one: with -P it does not look into its own folder, where
    # PYTHONPATH, which it sets after its imports, leads its processes.
    launcher = type(drn)(tmp_path, (sys.executable, "-P", "-c", LAUNCH))
    return lambda *words, **options: launcher.begin(json.dumps(options), *words)


@pytest.fixture
def run(begin):
    def run(*words: str, **options) -> tuple[int, str, str]:
        return end(begin(*words, **options))

    return run


def end(running) -> tuple[int, str, str]:
    out, err = running.communicate(timeout=120)
    return running.returncode, out, err


@pytest.fixture
def told(tmp_path, until):
    """What a process wrote, once it has."""

    def read(name: str | int) -> dict:
        until((tmp_path / f"{name}.json").is_file)
        return json.loads((tmp_path / f"{name}.json").read_text())

    return read


@pytest.fixture
def port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def assert_gone(*processes: dict) -> None:
    for process in processes:
        with pytest.raises(ProcessLookupError):
            os.kill(process["pid"], 0)


def test_every_process_gets_the_command_line_and_its_rank(run, told, port):
    words = ["ok", "train.lr=0.1", "--flag", "a b", "--run-dir", "x"]
    assert run(*words, gpus=2, master_port=port) == (0, "", "")
    first, second = told(0), told(1)
    assert first["argv"] == second["argv"] == words
    assert [(t["RANK"], t["LOCAL_RANK"], t["WORLD_SIZE"]) for t in (first, second)] == [
        ("0", "0", "2"),
        ("1", "1", "2"),
    ]
    assert first["MASTER_PORT"] == second["MASTER_PORT"] == str(port)
    assert first["OMP_NUM_THREADS"] == "1"  # set by the user, here the tests
    assert first["pid"] != second["pid"]


def test_a_port_in_use_is_told(run):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        code, out, err = run("ok", gpus=2, master_port=port)
    assert (code, err) == (99, "")
    assert out == f"DrnError: 127.0.0.1:{port}: the port is in use (choose another)\n"


def test_the_exit_code_is_that_of_the_process_that_failed(run):
    # The process has said what there is to say.
    assert run("fail", gpus=2) == (7, "", "")


def test_two_jobs_at_once_and_a_killed_process(begin, told, tmp_path):
    running = begin("wait", gpus=2)
    first, second = told(0), told(1)
    for rank in (0, 1):
        (tmp_path / f"{rank}.json").unlink()
    assert end(begin("ok", gpus=2)) == (0, "", "")
    assert told(0)["MASTER_PORT"] != first["MASTER_PORT"]
    os.kill(second["pid"], signal.SIGKILL)
    code, out, err = end(running)
    assert (code, err) == (99, "")
    assert out == "DrnError: process 1 was ended by SIGKILL (was memory short?)\n"
    assert_gone(first, second)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGUSR1])
def test_a_signal_ends_processes_that_do_not_know_it_and_starts_none_again(begin, told, number):
    running = begin("wait", gpus=2, max_restarts=3)
    processes = told(0), told(1)
    running.send_signal(number)
    code, out, err = end(running)
    assert (code, out) == (128 + number, ""), err
    assert "start again" not in err
    assert_gone(*processes)


def test_a_signal_is_passed_on_and_the_processes_say_the_code(begin, told):
    running = begin("stop", gpus=2, max_restarts=3)
    processes = told(0), told(1)
    running.send_signal(signal.SIGUSR1)
    assert end(running) == (138, "", "")
    assert told("0.end") == told("1.end") == {"signal": signal.SIGUSR1}
    assert_gone(*processes)


def test_processes_that_leave_by_themselves_are_not_started_again(begin, told):
    """As when another machine was asked to stop."""
    running = begin("stop", gpus=2, max_restarts=3)
    for process in (told(0), told(1)):
        os.kill(process["pid"], signal.SIGTERM)
    assert end(running) == (143, "", "")


def test_whoever_interrupts_again_and_again_need_not_wait(begin, told):
    running = begin("deaf", max_restarts=1)
    process = told(0)
    for time in (1, 2):
        running.send_signal(signal.SIGINT)
        told(f"asked{time}")
        assert running.poll() is None
    running.send_signal(signal.SIGINT)
    assert end(running) == (130, "", "")
    assert_gone(process)


def test_a_lost_process_makes_all_start_again(run, told):
    """They wait for nobody of the attempt before, though the store still has the addresses."""
    code, out, err = run("sums", "1", gpus=2, max_restarts=1)
    assert (code, out) == (0, ""), err
    assert [line for line in err.splitlines() if "process" in line] == [
        "process 1 was ended by SIGKILL; all start again (1 of 1)"
    ]
    assert told(0)["total"] == told(1)["total"] == 21
    lost = told("0.lost")["error"]
    assert re.match(r"another process of the job was lost \(connection (reset|closed)", lost)


def test_restarts_are_used_up(run):
    code, out, err = run("fail", gpus=2, max_restarts=2)
    assert (code, out) == (7, "")
    assert err.splitlines() == [
        f"process 1 ended with exit code 7; all start again ({time} of 2)" for time in (1, 2)
    ]


def test_two_machines_form_one_job_and_start_again_together(begin, told, port):
    options = {"nnodes": "2", "rdzv_endpoint": f"127.0.0.1:{port}", "max_restarts": 2}
    machines = [begin("sums", "1", **options, rdzv_id="job") for _ in range(2)]
    ends = [end(machine) for machine in machines]
    assert [code for code, _, _ in ends] == [0, 0], ends
    first, second = told(0), told(1)
    assert first["total"] == second["total"] == 21
    assert (first["WORLD_SIZE"], first["LOCAL_RANK"], second["LOCAL_RANK"]) == ("2", "0", "0")
    assert sum("process 1 was ended by SIGKILL" in err for _, _, err in ends) == 1


def test_two_machines_with_fixed_numbers(begin, told, port):
    options = {"nnodes": "2", "rdzv_endpoint": f"localhost:{port}"}
    machines = [begin("stop", **options, node_rank=rank) for rank in (1, 0)]
    told(0), told(1)
    for machine in machines:
        machine.send_signal(signal.SIGTERM)
    assert [end(machine) for machine in machines] == [(143, "", "")] * 2


def test_tasks_of_srun_do_not_start_a_job_each(monkeypatch):
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "4")
    for options in (LaunchOptions(2), LaunchOptions(max_restarts=1), several("2")):
        with pytest.raises(DrnError, match="srun started 4 tasks, and each would start a job"):
            launch(["train"], options)


def several(nnodes: str, **others) -> LaunchOptions:
    return LaunchOptions(nnodes=nnodes, rdzv_endpoint="head:29500", **others)


@pytest.mark.parametrize(
    ("options", "asks_for_more", "processes"),
    [
        ({}, False, 1),
        ({"gpus": "auto"}, False, 1),
        ({"nnodes": "1", "rdzv_endpoint": "head", "rdzv_id": "x"}, False, 1),
        ({"gpus": 3}, True, 3),
        ({"max_restarts": 1}, True, 1),
        ({"nnodes": "2", "rdzv_endpoint": "head"}, True, 2),
        ({"nnodes": "1:4", "rdzv_endpoint": "head", "gpus": 2}, True, 8),
    ],
)
def test_what_the_options_ask_for(options, asks_for_more, processes):
    made = LaunchOptions(**options)
    assert (made.needs_launcher, made.processes) == (asks_for_more, processes)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"nnodes": "two"}, "--nnodes two: neither a number, as 2, nor a range, as 1:4"),
        ({"nnodes": "0"}, "--nnodes 0: neither"),
        ({"nnodes": "3:2"}, "--nnodes 3:2: neither"),
        ({"nnodes": "2"}, "--nnodes 2: the machines need a place to meet (--rdzv-endpoint"),
        ({"rdzv_endpoint": "head"}, "--rdzv-endpoint is for several machines (add --nnodes N)"),
        ({"node_rank": 0}, "--node-rank is for several machines"),
        ({"rdzv_id": "x"}, "--rdzv-id is for several machines"),
        (
            {"nnodes": "2", "rdzv_endpoint": "head:1", "master_port": 5},
            "--master-port is for a single machine (--rdzv-endpoint head:5)",
        ),
        (
            {"nnodes": "2", "rdzv_endpoint": "head", "node_rank": 2},
            "--nnodes 2 --node-rank 2 do not go together (--nnodes 2, --node-rank 0 to 1)",
        ),
        (
            {"nnodes": "1:2", "rdzv_endpoint": "head", "node_rank": 1},
            "--nnodes 1:2 --node-rank 1 do not go together",
        ),
        (
            {"nnodes": "2", "rdzv_endpoint": "head", "node_rank": 0, "max_restarts": 1},
            "--max-restarts: machines with fixed numbers cannot meet again",
        ),
    ],
)
def test_options_that_do_not_go_together(options, message):
    with pytest.raises(DrnError) as raised:
        LaunchOptions(**options)
    assert str(raised.value).startswith(message)


@pytest.mark.parametrize(("there", "wanted", "fine"), [(0, 8, True), (2, 2, True), (2, 3, False)])
def test_check_gpus(monkeypatch, there, wanted, fine):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: there)
    if fine:
        check_nproc(wanted)
    else:
        with pytest.raises(DrnError, match=r"--gpus 3: this machine has 2 \(--gpus 2\)"):
            check_nproc(wanted)


@pytest.mark.parametrize(("there", "processes"), [(0, 1), (1, 1), (8, 8)])
def test_auto_is_all_gpus(monkeypatch, there, processes):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: there)
    assert resolve_nproc("auto") == processes
    assert resolve_nproc(3) == 3


def test_leave(monkeypatch, tmp_path):
    monkeypatch.delenv(EXIT_CODE_FILE, raising=False)
    assert worker_exit_code(138) == 138
    monkeypatch.setenv(EXIT_CODE_FILE, str(tmp_path / "code"))
    assert worker_exit_code(138) == 0
    assert (tmp_path / "code").read_text() == "138"

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

# A package of the same name, found first, whose processes run the functions of this script.
# It has the modules of the real package besides `__main__`.
PACKAGE = f"__path__.append({str(Path(drn_cli.__file__).parent)!r})"
WORKER = """
import json, os, signal, sys, time
from pathlib import Path
rank = os.environ["RANK"]

def write(name, **values):
    Path(f"{name}.tmp").write_text(json.dumps(values))
    Path(f"{name}.tmp").rename(f"{name}.json")

names = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_PORT", "OMP_NUM_THREADS")
about = {name: os.environ[name] for name in names} | {"argv": sys.argv[1:], "pid": os.getpid()}

def wait():
    write(rank, **about)
    time.sleep(600)

def ok():
    write(rank, **about)

def fail():
    if rank == "1":
        sys.exit(7)
    wait()

def ignore_sigint():
    received = []

    def count(*_):
        received.append(0)
        write(f"received{len(received)}")

    signal.signal(signal.SIGINT, count)
    wait()

def stop():
    "Handle stop signals as training does: finish some work, then exit with a code."
    from drn_cli.distributed.launch import worker_exit_code

    def end(number, _):
        time.sleep(0.5)
        write(f"{rank}.end", signal=number)
        sys.exit(worker_exit_code(128 + number))

    signal.signal(signal.SIGUSR1, end)
    signal.signal(signal.SIGTERM, end)
    wait()

def sums():
    "Kill rank 1 the given number of times; afterwards, let rank 0 join last."
    import torch
    from drn_cli.distributed.group import join
    from drn_cli.errors import DrnError

    lost = len(list(Path().glob("loss*")))
    # So that it reports the lost process before the launcher terminates it.
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
            write(rank, **about, total=total)
    except DrnError as error:
        write(f"{rank}.lost", error=str(error))
        sys.exit(1)

globals()[sys.argv[1]]()
"""


@pytest.fixture
def begin(drn, tmp_path):
    """Start `launch(words, LaunchOptions(...))` with the package above as `drn_cli`."""
    package = tmp_path / "drn_cli"
    package.mkdir()
    (package / "__init__.py").write_text(PACKAGE)
    (package / "__main__.py").write_text(WORKER)
    # The launcher itself is the real one: with -P it imports nothing from its own folder, which
    # it prepends to PYTHONPATH for its processes only after its imports.
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
def written(tmp_path, until):
    """Return a function that waits for what a process writes."""

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


def test_processes_get_the_command_line_and_their_rank(run, written, port):
    words = ["ok", "train.lr=0.1", "--flag", "a b", "--run-dir", "x"]
    assert run(*words, gpus=2, master_port=port) == (0, "", "")
    first, second = written(0), written(1)
    assert first["argv"] == second["argv"] == words
    assert [(t["RANK"], t["LOCAL_RANK"], t["WORLD_SIZE"]) for t in (first, second)] == [
        ("0", "0", "2"),
        ("1", "1", "2"),
    ]
    assert first["MASTER_PORT"] == second["MASTER_PORT"] == str(port)
    assert first["OMP_NUM_THREADS"] == "1"  # set by the user, here the tests
    assert first["pid"] != second["pid"]


def test_a_port_in_use_is_an_error(run):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        code, out, err = run("ok", gpus=2, master_port=port)
    assert (code, err) == (99, "")
    assert out == f"DrnError: 127.0.0.1:{port}: the port is in use (choose another port)\n"


def test_exits_with_the_code_of_the_process_that_failed(run):
    # The process has printed its error; the launcher adds nothing.
    assert run("fail", gpus=2) == (7, "", "")


def test_two_concurrent_jobs_and_a_killed_process(begin, written, tmp_path):
    running = begin("wait", gpus=2)
    first, second = written(0), written(1)
    for rank in (0, 1):
        (tmp_path / f"{rank}.json").unlink()
    assert end(begin("ok", gpus=2)) == (0, "", "")
    assert written(0)["MASTER_PORT"] != first["MASTER_PORT"]
    os.kill(second["pid"], signal.SIGKILL)
    code, out, err = end(running)
    assert (code, err) == (99, "")
    assert out == "DrnError: rank 1 was killed by SIGKILL (out of memory?)\n"
    assert_gone(first, second)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGUSR1])
def test_a_signal_kills_processes_without_a_handler_and_restarts_none(begin, written, number):
    running = begin("wait", gpus=2, max_restarts=3)
    processes = written(0), written(1)
    running.send_signal(number)
    code, out, err = end(running)
    assert (code, out) == (128 + number, ""), err
    assert "restarting" not in err
    assert_gone(*processes)


def test_forwards_signals_and_exits_with_the_code_of_the_processes(begin, written):
    running = begin("stop", gpus=2, max_restarts=3)
    processes = written(0), written(1)
    running.send_signal(signal.SIGUSR1)
    assert end(running) == (138, "", "")
    assert written("0.end") == written("1.end") == {"signal": signal.SIGUSR1}
    assert_gone(*processes)


def test_does_not_restart_processes_that_were_asked_to_stop(begin, written):
    """As when another node was asked to stop."""
    running = begin("stop", gpus=2, max_restarts=3)
    for process in (written(0), written(1)):
        os.kill(process["pid"], signal.SIGTERM)
    assert end(running) == (143, "", "")


def test_a_repeated_sigint_does_not_wait(begin, written):
    running = begin("ignore_sigint", max_restarts=1)
    process = written(0)
    for time in (1, 2):
        running.send_signal(signal.SIGINT)
        written(f"received{time}")
        assert running.poll() is None
    running.send_signal(signal.SIGINT)
    assert end(running) == (130, "", "")
    assert_gone(process)


def test_restarts_all_processes_after_one_is_lost(run, written):
    """The store still has the addresses of the previous attempt, which must not be used."""
    code, out, err = run("sums", "1", gpus=2, max_restarts=1)
    assert (code, out) == (0, ""), err
    assert [line for line in err.splitlines() if "rank" in line] == [
        "rank 1 was killed by SIGKILL; restarting all processes (1 of 1)"
    ]
    assert written(0)["total"] == written(1)["total"] == 21
    lost = written("0.lost")["error"]
    assert re.match(r"another process of the job was lost \(connection (reset|closed)", lost)


def test_fails_after_max_restarts(run):
    code, out, err = run("fail", gpus=2, max_restarts=2)
    assert (code, out) == (7, "")
    assert err.splitlines() == [
        f"rank 1 exited with code 7; restarting all processes ({time} of 2)" for time in (1, 2)
    ]


def test_two_nodes_form_one_job_and_restart_together(begin, written, port):
    options = {"nnodes": "2", "rdzv_endpoint": f"127.0.0.1:{port}", "max_restarts": 2}
    nodes = [begin("sums", "1", **options, rdzv_id="job") for _ in range(2)]
    ends = [end(node) for node in nodes]
    assert [code for code, _, _ in ends] == [0, 0], ends
    first, second = written(0), written(1)
    assert first["total"] == second["total"] == 21
    assert (first["WORLD_SIZE"], first["LOCAL_RANK"], second["LOCAL_RANK"]) == ("2", "0", "0")
    assert sum("rank 1 was killed by SIGKILL" in err for _, _, err in ends) == 1


def test_two_nodes_with_fixed_ranks(begin, written, port):
    options = {"nnodes": "2", "rdzv_endpoint": f"localhost:{port}"}
    nodes = [begin("stop", **options, node_rank=rank) for rank in (1, 0)]
    written(0), written(1)
    for node in nodes:
        node.send_signal(signal.SIGTERM)
    assert [end(node) for node in nodes] == [(143, "", "")] * 2


def test_rejects_tasks_of_srun_that_would_each_start_the_job(monkeypatch):
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "4")
    for options in (LaunchOptions(2), LaunchOptions(max_restarts=1), multi_node("2")):
        with pytest.raises(DrnError, match="srun started 4 tasks, each of which would start"):
            launch(["train"], options)


def multi_node(nnodes: str, **others) -> LaunchOptions:
    return LaunchOptions(nnodes=nnodes, rdzv_endpoint="head:29500", **others)


@pytest.mark.parametrize(
    ("options", "needs_launcher", "processes"),
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
def test_options_that_need_the_launcher(options, needs_launcher, processes):
    made = LaunchOptions(**options)
    assert (made.needs_launcher, made.processes) == (needs_launcher, processes)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"nnodes": "two"},
            "--nnodes two: not a number of nodes (use a number such as 2, or a range",
        ),
        ({"nnodes": "0"}, "--nnodes 0: not a number of nodes"),
        ({"nnodes": "3:2"}, "--nnodes 3:2: not a number of nodes"),
        ({"nnodes": "2"}, "--nnodes 2: the rendezvous endpoint is missing (add --rdzv-endpoint"),
        ({"rdzv_endpoint": "head"}, "--rdzv-endpoint: only for multi-node jobs (add --nnodes N)"),
        ({"node_rank": 0}, "--node-rank: only for multi-node jobs"),
        ({"rdzv_id": "x"}, "--rdzv-id: only for multi-node jobs"),
        (
            {"nnodes": "2", "rdzv_endpoint": "head:1", "master_port": 5},
            "--master-port: only for single-node jobs (use --rdzv-endpoint head:5)",
        ),
        (
            {"nnodes": "2", "rdzv_endpoint": "head", "node_rank": 2},
            "--node-rank 2: out of range for --nnodes 2 (use 0 to 1)",
        ),
        (
            {"nnodes": "1:2", "rdzv_endpoint": "head", "node_rank": 1},
            "--nnodes 1:2: elastic training assigns the node ranks itself (omit",
        ),
        (
            {"nnodes": "2", "rdzv_endpoint": "head", "node_rank": 0, "max_restarts": 1},
            "--max-restarts: nodes with a fixed rank cannot rejoin the rendezvous",
        ),
    ],
)
def test_rejects_options_that_exclude_each_other(options, message):
    with pytest.raises(DrnError) as raised:
        LaunchOptions(**options)
    assert str(raised.value).startswith(message)


@pytest.mark.parametrize(
    ("visible", "nproc", "enough"), [(0, 8, True), (2, 2, True), (2, 3, False)]
)
def test_check_nproc(monkeypatch, visible, nproc, enough):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: visible)
    if enough:
        check_nproc(nproc)
    else:
        with pytest.raises(DrnError, match=r"--gpus 3: this node has 2 \(use --gpus 2\)"):
            check_nproc(nproc)


@pytest.mark.parametrize(("visible", "processes"), [(0, 1), (1, 1), (8, 8)])
def test_auto_is_one_process_per_gpu(monkeypatch, visible, processes):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: visible)
    assert resolve_nproc("auto") == processes
    assert resolve_nproc(3) == 3


def test_worker_exit_code(monkeypatch, tmp_path):
    monkeypatch.delenv(EXIT_CODE_FILE, raising=False)
    assert worker_exit_code(138) == 138
    monkeypatch.setenv(EXIT_CODE_FILE, str(tmp_path / "code"))
    assert worker_exit_code(138) == 0
    assert (tmp_path / "code").read_text() == "138"

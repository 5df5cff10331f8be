import json
import os
import socket
import subprocess
import sys
import time

import pytest
from torch.distributed import TCPStore

from drn_cli.distributed.cluster import (
    FIRST_PORT,
    PORTS,
    expected_processes,
    host_names,
    init_from_slurm,
    log_waiting,
    slurm_tasks,
    tasks_per_node,
)
from drn_cli.errors import DrnError

VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")

# The variables of the sixth of seven tasks, on the second of two nodes.
SIXTH = {
    "SLURM_JOB_ID": "4711",
    "SLURM_STEP_ID": "3",
    "SLURM_STEP_NUM_TASKS": "7",
    "SLURM_STEP_TASKS_PER_NODE": "4,3",
    "SLURM_STEP_NODELIST": "gpu[07-08]",
    "SLURM_PROCID": "5",
    "SLURM_LOCALID": "1",
    "SLURM_NODEID": "1",
}


@pytest.fixture
def slurm(monkeypatch):
    """Return a function that sets variables of SLURM, without those of torchrun."""
    for name in VARIABLES:
        monkeypatch.setenv(name, "")  # so that monkeypatch restores it
        monkeypatch.delenv(name)

    def set_all(**variables: str) -> None:
        for name, value in variables.items():
            monkeypatch.setenv(name, value)

    return set_all


def rendezvous_variables() -> dict[str, str]:
    return {name: os.environ[name] for name in VARIABLES if name in os.environ}


@pytest.mark.parametrize(
    ("nodes", "hosts"),
    [
        ("login", ["login"]),
        ("a,b", ["a", "b"]),
        ("node[1-3]", ["node1", "node2", "node3"]),
        ("node[003-005,009],gpu1", ["node003", "node004", "node005", "node009", "gpu1"]),
        ("n[9-11]", ["n9", "n10", "n11"]),
        ("n[098-101]", ["n098", "n099", "n100", "n101"]),
        ("rack[1-2]n[1,3]", ["rack1n1", "rack1n3", "rack2n1", "rack2n3"]),
        ("a[1-2].my-cluster.org", ["a1.my-cluster.org", "a2.my-cluster.org"]),
    ],
)
def test_host_names(nodes, hosts):
    assert host_names(nodes) == hosts


@pytest.mark.parametrize("nodes", ["", "a[1-2", "a]", "a[]", "a[x-y]", "a,,b"])
def test_rejects_malformed_node_lists(nodes):
    with pytest.raises(DrnError, match="SLURM node list"):
        host_names(nodes)


@pytest.mark.parametrize(
    ("counts", "tasks"), [("8", [8]), ("4(x2),3", [4, 4, 3]), ("1(x3)", [1, 1, 1])]
)
def test_tasks_per_node(counts, tasks):
    assert tasks_per_node(counts) == tasks


def test_sets_the_rendezvous_variables(slurm):
    slurm(**SIXTH)
    assert slurm_tasks() == 7
    init_from_slurm()
    port = FIRST_PORT + (4711 * 1009 + 3) % PORTS
    assert rendezvous_variables() == {
        "RANK": "5",
        "WORLD_SIZE": "7",
        "LOCAL_RANK": "1",
        "LOCAL_WORLD_SIZE": "3",
        "MASTER_ADDR": "gpu07",
        "MASTER_PORT": str(port),
    }
    assert 1024 < FIRST_PORT <= port < FIRST_PORT + PORTS < 32768


def test_keeps_the_address_of_the_user(slurm):
    slurm(**SIXTH, MASTER_ADDR="10.0.0.7", MASTER_PORT="1234")
    init_from_slurm()
    assert (os.environ["MASTER_ADDR"], os.environ["MASTER_PORT"]) == ("10.0.0.7", "1234")


def test_keeps_the_variables_of_torchrun(slurm):
    slurm(**SIXTH, RANK="0", WORLD_SIZE="2")
    init_from_slurm()
    assert rendezvous_variables() == {"RANK": "0", "WORLD_SIZE": "2"}


def test_a_single_task_needs_no_rendezvous(slurm):
    slurm(**SIXTH | {"SLURM_STEP_NUM_TASKS": "1"})
    init_from_slurm()
    assert rendezvous_variables() == {}


@pytest.mark.parametrize("name", ["SLURM_PROCID", "SLURM_STEP_NODELIST", "SLURM_JOB_ID"])
def test_a_missing_variable_is_an_error(slurm, name):
    slurm(**SIXTH | {name: ""})
    with pytest.raises(DrnError, match=f"srun started 7 tasks, but {name} is not set"):
        init_from_slurm()
    assert rendezvous_variables() == {}


TASK = """
import torch
from drn_cli.distributed.group import join
with join() as group:
    print(group.rank, group.world, group.sum(torch.tensor([10 + group.rank])).item())
"""


def job_with_free_port() -> int:
    """Return a job id whose port is free."""
    for job in range(PORTS):
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", FIRST_PORT + job * 1009 % PORTS))
            except OSError:
                continue
            return job
    raise AssertionError("no free port")


def test_two_tasks_form_a_process_group():
    kept = {k: v for k, v in os.environ.items() if k not in VARIABLES}
    step = {
        "SLURM_JOB_ID": str(job_with_free_port()),
        "SLURM_STEP_ID": "0",
        "SLURM_STEP_NUM_TASKS": "2",
        "SLURM_STEP_TASKS_PER_NODE": "2",
        "SLURM_STEP_NODELIST": "localhost",
        "SLURM_NODEID": "0",
        "CUDA_VISIBLE_DEVICES": "",
    }
    tasks = [
        subprocess.Popen(
            [sys.executable, "-c", TASK],
            env=kept | step | {"SLURM_PROCID": rank, "SLURM_LOCALID": rank},
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in ("1", "0")
    ]
    outputs = [task.communicate(timeout=100)[0] for task in tasks]
    assert outputs == ["1 2 21\n", "0 2 21\n"]


# Variables that are left over from another job, or set by the shell of an allocation.
LEFT_OVER = {"RANK": "0", "WORLD_SIZE": "4", "MASTER_ADDR": "localhost", "MASTER_PORT": "29400"}
SHELL = {**SIXTH, "SLURM_PROCID": "0", "SLURM_NODEID": "0"}


@pytest.mark.parametrize(
    ("variables", "text", "remedy"),
    [
        (LEFT_OVER, "3 more processes at localhost:29400 because WORLD_SIZE=4", "unset RANK"),
        ({**LEFT_OVER, "RANK": "2"}, "rank 0 at localhost:29400 because WORLD", "unset RANK"),
        (SHELL, "6 more processes at gpu07:", "unset SLURM_STEP_NUM_TASKS RANK"),
        (SHELL, "because SLURM_STEP_NUM_TASKS=7 is set", "unset SLURM_STEP_NUM_TASKS RANK"),
    ],
)
def test_logs_what_it_waits_for_and_then_the_remedy(slurm, caplog, until, variables, text, remedy):
    slurm(**variables)
    with caplog.at_level("INFO"), log_waiting(expected_processes(), 0.05):
        until(lambda: len(caplog.records) == 2)
    [first, second] = [record.message for record in caplog.records]
    assert first.startswith("waiting for ") and text in first
    assert second.startswith(f"still {first}") and remedy in second


@pytest.mark.parametrize(
    "variables",
    [{}, {**LEFT_OVER, "WORLD_SIZE": "1"}],
    ids=["no variables", "world size 1"],
)
def test_a_single_process_waits_for_nothing(slurm, caplog, variables):
    slurm(**variables)
    with caplog.at_level("INFO"), log_waiting(expected_processes(), 0):
        time.sleep(0.1)
    assert not caplog.records


IMPATIENT = f"""
import logging, threading
logging.basicConfig()
timer = threading.Timer
threading.Timer = lambda seconds, function: timer(0.1, function)
{TASK}
"""


@pytest.mark.parametrize("nodes", ["1", "2"])
def test_names_variables_inherited_from_torchrun(nodes):
    """As when a script under torchrun runs `drn` in one of its processes."""
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    inherited = LEFT_OVER | {
        "MASTER_PORT": str(store.port),
        "GROUP_WORLD_SIZE": nodes,
        "TORCHELASTIC_RUN_ID": "x",
        "TORCHELASTIC_RESTART_COUNT": "0",
        "TORCHELASTIC_USE_AGENT_STORE": "True",
    }
    command = [sys.executable, "-c", IMPATIENT]
    running = subprocess.Popen(
        command, env=os.environ | inherited, stderr=subprocess.PIPE, text=True
    )
    assert running.stderr is not None
    line = running.stderr.readline()
    running.kill()
    running.communicate()
    assert f"still waiting for 3 more processes at localhost:{store.port} because" in line
    assert "unset RANK WORLD_SIZE" in line


@pytest.mark.parametrize(
    ("name", "value", "problem"),
    [
        ("MASTER_PORT", "", "MASTER_PORT is not set"),
        ("MASTER_ADDR", "", "not MASTER_ADDR"),
        ("RANK", "first", "RANK is 'first', not a number"),
    ],
)
def test_rejects_incomplete_variables(slurm, name, value, problem):
    slurm(**LEFT_OVER | {name: value})
    with pytest.raises(DrnError, match=problem):
        expected_processes()


def test_commands_warn_of_left_over_variables_before_they_wait(drn, recipe_file, until, tmp_path):
    """Also a dry run, which does not wait."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    variables = (f"{name}={value}" for name, value in (LEFT_OVER | {"MASTER_PORT": port}).items())
    drn = type(drn)(drn.cwd, ("env", *variables, *drn.start))
    expected = f"waiting for 3 more processes at localhost:{port} because WORLD_SIZE=4 is set"
    shown = drn("train", recipe_file, "--dry-run", "--json")
    assert (shown.returncode, json.loads(shown.stdout)["waits_for"]) == (0, expected)
    assert expected in shown.stderr and "unset RANK" in shown.stderr
    running = drn.begin("train", recipe_file)
    assert running.stderr is not None
    assert expected in running.stderr.readline()
    running.kill()
    running.communicate()

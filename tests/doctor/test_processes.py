"""Two real processes, which add numbers up or fail to."""

import re
import socket

import pytest
import torch

from drn_cli.doctor import processes
from drn_cli.doctor.children import python
from drn_cli.doctor.processes import trial


def part(code: str) -> tuple[str, ...]:
    """Write one process's part; it is given backend, rank, host and port."""
    return python("-c", f"import sys, time; _, backend, rank, host, port = sys.argv\n{code}")


def test_gloo_adds_up() -> None:
    finding = processes.gloo()
    assert (finding.name, finding.status, finding.remedy) == ("gloo", "ok", None)
    assert re.fullmatch(r"two processes added a million numbers up in [\d.]+ ms", finding.found)


def test_a_backend_that_fails() -> None:
    """NCCL without GPUs, or in two processes on one: it says so itself."""
    if torch.cuda.device_count() >= 2:
        pytest.skip("here it works")
    finding = trial("nccl")
    assert (finding.name, finding.status) == ("NCCL", "failure")
    assert re.match(r"two processes: process [01] failed: .", finding.found)
    assert "NCCL_SOCKET_IFNAME" in str(finding.remedy)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_nccl_adds_up() -> None:
    assert processes.nccl().status == "ok"


def test_processes_that_hang() -> None:
    finding = trial("gloo", part("time.sleep(1000)"), timeout=0.5)
    assert finding.status == "failure"
    assert finding.found.endswith("process 0 did not answer within 0.5 seconds")
    assert "GLOO_SOCKET_IFNAME" in str(finding.remedy)
    finding = trial("gloo", part("print('hello', flush=True); time.sleep(1000)"), timeout=3)
    assert finding.found.endswith("process 0 did not answer within 3 seconds, after 'hello'")


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        # One that fails is named, not the one that waits for it, which is ended.
        (
            "time.sleep(1000 * (rank == '0')); print('failed: no route to host'); print('W');"
            "sys.exit(1)",
            "process 1 failed: no route to host",
        ),
        ("raise OSError('x')", r"process [01] failed: OSError: x"),
        ("print('done')", "process 0 gave no answer: done"),
        ("print('sums 3', 3 + int(rank), 'in 1 ms')", r"process 1 found 1 \+ 2 to be 3 to 4"),
    ],
    ids=["one", "both", "nothing", "wrong"],
)
def test_processes_that_fail(code: str, expected: str) -> None:
    finding = trial("gloo", part(code), timeout=100)
    assert finding.status == "failure"
    assert re.fullmatch(f"two processes: {expected}", finding.found)


def test_they_meet_under_the_name_of_the_machine() -> None:
    """As torchrun's do: a name that leads nowhere is found out."""
    code = "sys.exit(f'failed: {backend} {rank} {host} ' + str(int(port) > 0))"
    finding = trial("gloo", part(code))
    name = re.escape(socket.getfqdn())  # and of two that fail at once either is named
    assert re.fullmatch(rf"two processes: process (\d) failed: gloo \1 {name} True", finding.found)


@pytest.mark.parametrize(
    ("gpus", "expected"),
    [(0, "not tried: no GPU"), (1, "not tried: it needs two GPUs, and here is one")],
)
def test_nccl_needs_two_gpus(monkeypatch: pytest.MonkeyPatch, gpus: int, expected: str) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    finding = processes.nccl()
    assert (finding.status, finding.found) == ("ok", expected)


def test_nccl_is_tried_with_two_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[str] = []
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(processes, "trial", tried.append)
    processes.nccl()
    assert tried == ["nccl"]
    monkeypatch.setattr(torch.distributed, "is_nccl_available", lambda: False)
    finding = processes.nccl()
    assert finding.status == "failure"
    assert "built without it" in finding.found

"""This machine as it is, and as it might be."""

import os
import resource
import socket
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from drn_cli.distributed.meeting import PORT
from drn_cli.doctor import machine
from drn_cli.doctor.examination import examine


def test_a_machine_without_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    [finding] = machine.gpus()
    assert finding.status == "ok"
    assert finding.found.endswith("drn computes on the CPU, fp32")


@pytest.fixture
def two_gpus(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """GPUs that torch claims to see; the list is what was computed on them."""
    computed: list[Any] = []
    about = SimpleNamespace(name="NVIDIA X1", major=9, minor=0)
    for name, value in {
        "is_available": lambda: True,
        "device_count": lambda: 2,
        "device": lambda _: nullcontext(),
        "get_device_properties": lambda _: about,
        "mem_get_info": lambda: (79e9, 80e9),
        "is_bf16_supported": lambda including_emulation: True,
    }.items():
        monkeypatch.setattr(torch.cuda, name, value)
    monkeypatch.setattr(machine, "_convolve", lambda *given: computed.append(given))
    return computed


def test_each_gpu_computes(two_gpus: list[Any]) -> None:
    first, second = machine.gpus()
    assert (first.name, second.name) == ("GPU 0", "GPU 1")
    assert first.status == "ok"
    assert first.found == "NVIDIA X1, capability 9.0, bf16, 79.0 GB of 80.0 GB free"
    assert two_gpus == [(torch.device("cuda", number), "bf16") for number in (0, 1)]


def test_an_older_gpu_computes_in_fp16(
    two_gpus: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: False)
    assert ", fp16, " in next(machine.gpus()).found


def test_a_gpu_that_others_use(two_gpus: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (3e9, 80e9))
    finding = next(machine.gpus())
    assert finding.status == "warning"
    assert "3.0 GB of 80.0 GB free" in finding.found


def test_a_gpu_that_cannot_compute(two_gpus: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    def no_kernel(device: torch.device, _: str) -> None:
        if device.index == 1:
            raise RuntimeError("no kernel image is available\nsecond line")

    monkeypatch.setattr(machine, "_convolve", no_kernel)
    first, second = machine.gpus()
    assert (first.status, second.status) == ("ok", "failure")
    assert second.found.endswith("cannot compute: no kernel image is available")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_real_gpus() -> None:
    findings = list(machine.gpus())
    assert len(findings) == torch.cuda.device_count()
    assert all("capability" in finding.found for finding in findings)
    assert not any(finding.status == "failure" for finding in findings)


def test_the_convolution_is_one() -> None:
    machine._convolve(torch.device("cpu"), "fp32")
    if not torch.cuda.is_available():
        with pytest.raises((RuntimeError, AssertionError)):
            machine._convolve(torch.device("cuda", 0), "fp32")


def cores(
    monkeypatch: pytest.MonkeyPatch, there: int, ours: int, limit: float | None, threads: str = ""
) -> tuple[str, str, str | None]:
    monkeypatch.setattr(os, "cpu_count", lambda: there)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(ours)))
    monkeypatch.setattr(machine, "core_limit", lambda: limit)
    monkeypatch.setenv("OMP_NUM_THREADS", threads)
    finding = machine.cores()
    return finding.status, finding.found, finding.remedy


def test_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    assert cores(monkeypatch, 8, 8, None) == ("ok", "8", None)
    batch = "4 of 8, by taskset or a batch system"
    assert cores(monkeypatch, 8, 4, 4.0) == ("ok", batch, None)
    status, found, remedy = cores(monkeypatch, 64, 64, 2.5)
    assert (status, found.partition(",")[0]) == (
        "warning",
        "64; their time is limited to that of 2.5",
    )
    assert remedy is not None and remedy.startswith("export OMP_NUM_THREADS=2,")
    assert cores(monkeypatch, 64, 64, 2.5, threads="2")[0] == "ok"
    assert cores(monkeypatch, 64, 64, 2.5, threads="3")[0] == "warning"


def test_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "free_memory", lambda: 3_000_000_000)
    monkeypatch.setattr(machine, "memory_limit", lambda: 4_000_000_000)
    finding = machine.memory()
    assert (finding.status, finding.found) == ("ok", "3.0 GB of 4.0 GB free")
    monkeypatch.setattr(machine, "free_memory", lambda: 500_000_000)
    monkeypatch.setattr(machine, "memory_limit", lambda: None)
    finding = machine.memory()
    assert finding.status == "warning"
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    assert finding.found == f"0.5 GB of {total / 1e9:.1f} GB free"


def test_shared_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "room", lambda _: 64_000_000)
    finding = machine.shared_memory(tmp_path)
    assert finding.name == str(tmp_path)
    assert finding.status == "warning"
    assert finding.found.startswith("0.1 GB of ")
    assert "--shm-size" in str(finding.remedy)
    monkeypatch.setattr(machine, "room", lambda _: 64_000_000_000)
    assert machine.shared_memory(tmp_path).status == "ok"
    assert machine.shared_memory(Path("/proc")).status == "failure"
    assert machine.shared_memory(tmp_path / "none").found == "there is none"


def test_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = SimpleNamespace(free=50e9, total=90e9)
    monkeypatch.setattr("shutil.disk_usage", lambda _: usage)
    monkeypatch.chdir(tmp_path)
    finding = machine.disk()
    assert (finding.status, finding.found) == ("ok", f"{tmp_path}: 50.0 GB free")
    usage.free = 0.4e9
    assert machine.disk().status == "warning"
    finding = machine.disk(Path("/proc"))
    assert finding.status == "warning"
    assert finding.found.startswith("/proc cannot be written: ")


def test_open_files(monkeypatch: pytest.MonkeyPatch) -> None:
    def limited(soft: int, hard: int) -> tuple[str, str | None]:
        monkeypatch.setattr(resource, "getrlimit", lambda _: (soft, hard))
        finding = machine.open_files()
        return finding.status, finding.remedy

    assert limited(resource.RLIM_INFINITY, resource.RLIM_INFINITY) == ("ok", None)
    assert limited(1024, 4096) == ("ok", None)
    assert limited(256, 4096) == ("warning", "ulimit -n 4096")
    assert limited(256, resource.RLIM_INFINITY) == ("warning", "ulimit -n 65536")
    status, remedy = limited(256, 512)
    assert status == "warning"
    assert str(remedy).startswith("ulimit -n 512; more than that the administrator")


def test_ports() -> None:
    finding = machine.ports()
    assert finding.status == "ok"
    assert "was free, and is reached" in finding.found


def test_the_usual_port_is_taken() -> None:
    try:
        server = socket.create_server(("127.0.0.1", PORT))
    except OSError:
        server = socket.socket()  # somebody else has it
    with server:
        finding = machine.ports()
    assert finding.status == "ok"
    assert f"{PORT} is taken" in finding.found


def test_a_machine_that_does_not_reach_itself() -> None:
    finding = machine.ports("192.0.2.1")  # an address for documentation, nobody's
    assert finding.status == "failure"
    assert finding.found.startswith("192.0.2.1: no connection")


def test_host_names(monkeypatch: pytest.MonkeyPatch) -> None:
    assert machine.host_name("localhost").status == "ok"
    finding = machine.host_name("no-such-machine.invalid")
    assert finding.status == "warning"
    assert "not known" in finding.found
    assert finding.remedy == "add a line to /etc/hosts: 127.0.1.1 no-such-machine.invalid"
    finding = machine.host_name("192.0.2.1")
    assert finding.status == "warning"
    assert finding.found == "192.0.2.1 is 192.0.2.1, which is no address of this machine"
    monkeypatch.setattr(socket, "gethostname", lambda: "localhost")
    assert machine.host_name().found.startswith("localhost is ")


def test_the_real_machine_can_be_looked_at() -> None:
    for look in (machine.cores, machine.memory, machine.shared_memory, machine.open_files):
        [finding] = examine("x", look)
        assert not finding.found.startswith("could not be checked")

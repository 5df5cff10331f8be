import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from drn_cli import device
from drn_cli.device import (
    MIN_STEPS_TO_COMPILE,
    core_limit,
    free_bytes,
    is_out_of_memory,
    memory_limit,
    resolve_compile,
    resolve_precision,
)
from drn_cli.errors import DrnError

# Each allocation exceeds the limit of the process.
PROVOKE = """
import resource
import numpy as np
import torch
from drn_cli.device import is_out_of_memory

small = torch.zeros(1, 8, 64, 64)
works = {
    "torch": lambda: torch.empty(1 << 36, dtype=torch.uint8),
    "python": lambda: bytearray(1 << 36),
    "numpy": lambda: np.ones(1 << 36, np.uint8),
    "interpolation": lambda: torch.nn.functional.interpolate(small, scale_factor=1000),
}
limit = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize() + (1 << 28)
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
for name, work in works.items():
    try:
        work()
    except Exception as error:
        print(name, is_out_of_memory(error))
"""


def test_out_of_memory_of_every_library_is_recognized() -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROVOKE], capture_output=True, text=True, timeout=120, check=False
    )
    expected = ["torch True", "python True", "numpy True", "interpolation True"]
    assert done.stdout.splitlines() == expected, done.stderr


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
        RuntimeError("CUDA error: out of memory"),
        RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("could not create a primitive"),
    ],
)
def test_messages_of_gpus_and_libraries_are_recognized(error: RuntimeError) -> None:
    assert is_out_of_memory(error)


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("The size of tensor a (2) must match the size of tensor b (3)"),
        RuntimeError("could not create a primitive descriptor for a convolution"),
        DrnError("out of memory"),
        KeyboardInterrupt(),
    ],
)
def test_other_errors_are_not_out_of_memory(error: BaseException) -> None:
    assert not is_out_of_memory(error)


@pytest.mark.parametrize(
    ("setting", "device", "steps", "checkpointing", "compiled"),
    [
        ("auto", "cuda", MIN_STEPS_TO_COMPILE, False, True),
        ("auto", "cuda", MIN_STEPS_TO_COMPILE - 1, False, False),
        ("auto", "cuda", MIN_STEPS_TO_COMPILE, True, False),
        ("auto", "cpu", MIN_STEPS_TO_COMPILE, False, False),
        (True, "cpu", 1, True, True),
        (False, "cuda", MIN_STEPS_TO_COMPILE, False, False),
    ],
)
def test_auto_compiles_long_runs_on_gpus(setting, device, steps, checkpointing, compiled) -> None:
    place = torch.device(device)
    assert resolve_compile(setting, place, steps, checkpointing=checkpointing) is compiled


def test_default_precision_of_the_cpu_is_fp32() -> None:
    cpu = torch.device("cpu")
    assert [resolve_precision(p, cpu) for p in ("auto", "fp32", "bf16")] == ["fp32", "fp32", "bf16"]
    assert resolve_precision("fp16", torch.device("cuda")) == "fp16"


@pytest.fixture
def process(tmp_path: Path) -> Path:
    file = tmp_path / "cgroup"
    file.write_text("4:memory:/elsewhere\n0::/job/step\n")
    (tmp_path / "root" / "job" / "step").mkdir(parents=True)
    return file


def test_no_cgroup_limit(tmp_path: Path, process: Path) -> None:
    root = tmp_path / "root"
    assert core_limit(root, process) is None
    (root / "job" / "cpu.max").write_text("max 100000\n")
    (root / "job" / "memory.max").write_text("max\n")
    assert core_limit(root, process) is None
    assert memory_limit(root, process) is None
    assert core_limit(tmp_path / "none", tmp_path / "none") is None


def test_the_lowest_limit_of_nested_cgroups_applies(tmp_path: Path, process: Path) -> None:
    root = tmp_path / "root"
    (root / "cpu.max").write_text("800000 100000\n")
    (root / "job" / "cpu.max").write_text("250000 100000\n")
    (root / "job" / "step" / "cpu.max").write_text("max 100000\n")
    (root / "job" / "memory.max").write_text("4000000000\n")
    (root / "memory.max").write_text("9000000000\n")
    (tmp_path / "cpu.max").write_text("1 100000\n")  # not below the root
    assert core_limit(root, process) == 2.5
    assert memory_limit(root, process) == 4_000_000_000
    process.write_text("0::/\n")
    assert core_limit(root, process) == 8


def test_cgroup_v1(tmp_path: Path, process: Path) -> None:
    (tmp_path / "cpu").mkdir()
    (tmp_path / "cpu" / "cpu.cfs_period_us").write_text("100000\n")
    (tmp_path / "cpu" / "cpu.cfs_quota_us").write_text("-1\n")
    assert core_limit(tmp_path, process) is None
    (tmp_path / "cpu" / "cpu.cfs_quota_us").write_text("150000\n")
    assert core_limit(tmp_path, process) == 1.5


def test_free_bytes_of_a_disk(tmp_path: Path) -> None:
    status = os.statvfs(tmp_path)
    assert free_bytes(tmp_path / "not" / "yet") == pytest.approx(
        status.f_bavail * status.f_frsize, rel=0.05
    )


def test_free_bytes_of_shared_memory_are_limited_by_free_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(device, "SHARED_MEMORY", tmp_path)
    assert 0 < free_bytes(tmp_path) <= os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    monkeypatch.setattr(device, "CGROUP", tmp_path)
    (tmp_path / "memory.max").write_text("5000\n")
    (tmp_path / "memory.current").write_text("2000\n")
    assert free_bytes(tmp_path) == 3000
    job = tmp_path / "job" / "step"  # a batch system limits the group of the job
    job.mkdir(parents=True)
    (tmp_path / "own").write_text("0::/job/step\n")
    monkeypatch.setattr(device, "OWN_CGROUP", tmp_path / "own")
    (job.parent / "memory.max").write_text("2500\n")
    (job.parent / "memory.current").write_text("1500\n")
    assert free_bytes(tmp_path) == 1000
    for folder in (tmp_path, job.parent):
        (folder / "memory.max").write_text("max\n")
    assert free_bytes(tmp_path) > 3000

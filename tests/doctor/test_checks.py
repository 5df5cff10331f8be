"""Each check, with a planted fault."""

import hashlib
import os
import re
import subprocess
import sys
import tomllib
import warnings
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from drn_cli.doctor import checks
from drn_cli.doctor.checks import COMPILED, EXTRAS, TORCH, DoctorResult, run_check
from drn_cli.networks.published import published

PROJECT = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]


@pytest.fixture(autouse=True)
def plain_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("DRN_DEBUG", "CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("DRN_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)


def result_of(check: Callable[..., Any], *arguments: Any) -> DoctorResult:
    [result] = run_check("x", lambda: check(*arguments))
    assert (result.remedy is None) == (result.status == "ok")
    return result


def test_requirements_are_those_of_pyproject() -> None:
    pattern = re.compile(r"^([\w-]+)>=([\d.]+)", re.MULTILINE)
    needed = dict(pattern.findall("\n".join(PROJECT["dependencies"])))
    assert needed["torch"] == ".".join(map(str, TORCH))
    assert set(COMPILED) <= set(needed)
    extras = PROJECT["optional-dependencies"]
    for extra in extras.keys() - {"test", "dev"}:
        packages = {requirement.partition(">")[0] for requirement in extras[extra]}
        assert set(EXTRAS[extra][1]) <= packages, extra


def test_this_installation_is_fine() -> None:
    for check in (checks.check_python, checks.check_torch, checks.check_torchvision):
        assert result_of(check).status == "ok"
    found = result_of(checks.check_packages).found
    assert f"opencv-python-headless {version('opencv-python-headless')}" in found
    results = {result.name: result for result in checks.check_extras()}
    assert results["extra onnx"].found.startswith(f"onnx {version('onnx')}, onnxscript ")


def test_unexpected_exceptions_are_results(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> str:
        raise ZeroDivisionError("one line\nanother")

    found = "check failed: ZeroDivisionError: one line"
    assert result_of(broken)[1:3] == ("failure", found)
    monkeypatch.setenv("DRN_DEBUG", "1")
    with pytest.raises(ZeroDivisionError):
        run_check("x", broken)


def test_the_doctor_itself_needs_no_package_that_may_be_broken() -> None:
    code = (
        "import sys, drn_cli.doctor.checks\n"
        "broken = {'torch', 'numpy', 'PIL', 'cv2', 'psutil', 'pydantic'} & set(sys.modules)\n"
        "sys.exit(str(broken))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stderr.strip() == "set()"


def test_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "__version__", "2.9.1+cu128")
    assert result_of(checks.check_torch)[1:3] == ("failure", "2.9.1+cu128 is too old")
    monkeypatch.setitem(sys.modules, "torch", None)
    for check in (checks.check_torch, checks.check_torchvision):
        result = result_of(check)
        assert result.status == "failure"
        assert "import of torch halted" in result.found


def test_torchvision_of_another_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object) -> None:
        raise RuntimeError("operator torchvision::nms does not exist\nat all")

    monkeypatch.setattr(checks, "version", lambda name: {"torch": "2.12.0"}.get(name, "0.20.1"))
    assert result_of(checks.check_torchvision)[1:] == (
        "warning",
        "0.20.1 works, but is not made for torch 2.12.0",
        "pip install 'torchvision==0.27.*'",
    )
    for nms in (fails, lambda *_: torch.tensor([1])):
        monkeypatch.setattr("torchvision.ops.nms", nms)
        status, found = result_of(checks.check_torchvision)[1:3]
        assert status == "failure"
        assert found.endswith(("nms does not exist", "nms keeps [1] of three boxes, not [0, 2]"))


def test_broken_and_slow_packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.syspath_prepend(str(tmp_path))
    for name in ("scipy", "tensorboard", "cv2"):  # a slow machine, as it were
        (tmp_path / f"{name}.py").write_text("import time; time.sleep(1000)")
    result = result_of(checks.check_packages, 2)
    assert result.status == "warning"
    assert result.found.startswith("slow to import: ")
    assert "opencv-python-headless" in result.found
    assert result.found.endswith("(over 2 s)")
    assert "less busy" in str(result.remedy)
    extras = {result.name: result for result in checks.check_extras(2)}
    assert extras["extra imagenet"].found == "slow to import (over 2 s)"
    (tmp_path / "cv2.py").write_text("raise ImportError('libGL.so.1: cannot open')")
    (tmp_path / "imagecodecs.py").write_text("import os; os.abort()")
    result = result_of(checks.check_packages)
    assert (result.status, result.found) == (
        "failure",
        "opencv-python-headless cannot be imported: ImportError: libGL.so.1: cannot open; "
        "imagecodecs cannot be imported: no output, exit code -6",
    )
    assert result.remedy == "pip install --force-reinstall opencv-python-headless imagecodecs"


def test_extras(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        checks,
        "EXTRAS",
        {
            "whole": ("numbers", ("numpy", "yaml")),
            "half": ("that", ("numpy", "no_such_b")),
            "none": ("this", ("no_such_a",)),
            "broken": ("this", ("raising",)),
        },
    )
    (tmp_path / "raising.py").write_text("raise ImportError('libx.so: cannot open')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.syspath_prepend(str(tmp_path))
    assert [result[:3] for result in checks.check_extras()] == [
        ("extra whole", "ok", f"numpy {version('numpy')}, yaml {version('pyyaml')}, for numbers"),
        ("extra half", "ok", "not installed (no_such_b): pip install 'drn-cli[half]', for that"),
        ("extra none", "ok", "not installed: pip install 'drn-cli[none]', for this"),
        (
            "extra broken",
            "warning",
            "installed, but cannot be imported: ImportError: libx.so: cannot open",
        ),
    ]


SMI = """#!/bin/sh
if [ "$1" = -L ]; then
    for number in $(seq 1 {gpus}); do echo "GPU $number: NVIDIA X1 (UUID: GPU-$number)"; done
else
    echo "| NVIDIA-SMI 570.86.15       Driver Version: 570.86.15      CUDA Version: {cuda}     |"
fi
"""


@pytest.mark.parametrize(
    ("built", "available", "gpus", "newest", "visible", "status", "found"),
    [
        ("13.0", False, 0, "", None, "ok", "torch is built for CUDA 13.0; no NVIDIA GPU here"),
        (None, False, 0, "", None, "ok", "torch is built for CPUs; no NVIDIA GPU here"),
        ("13.0", True, 1, "13.0", None, "ok", "CUDA 13.0, and the driver (570.86.15) fits"),
        (None, True, 0, "", None, "ok", "torch is built for ROCm None"),
        (None, False, 2, "13.0", None, "warning", "built for CPUs; number of NVIDIA GPUs here: 2"),
        ("13.0", False, 1, "12.4", None, "failure", "(570.86.15) supports CUDA 12.4 at most"),
        ("13.0", False, 4, "13.0", "-1", "warning", "CUDA_VISIBLE_DEVICES=-1 hides all NVIDIA "),
        ("13.0", False, 4, "13.0", "9", "failure", "=9: CUDA initialization: Unexpected error"),
    ],
)
def test_cuda(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    built: str | None,
    available: bool,
    gpus: int,
    newest: str,
    visible: str | None,
    status: str,
    found: str,
) -> None:
    def is_available() -> bool:
        warnings.warn("CUDA initialization: Unexpected error\nmore", stacklevel=1)
        return available

    program = tmp_path / "nvidia-smi"
    program.write_text(SMI.format(gpus=gpus, cuda=newest))
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    monkeypatch.setattr(torch.version, "cuda", built)
    monkeypatch.setattr(torch.version, "hip", None)
    monkeypatch.setattr(torch.cuda, "is_available", is_available)
    result = result_of(checks.check_cuda)
    assert result.status == status
    assert found in result.found


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_real_gpus() -> None:
    results = run_check("GPUs", checks.check_gpus)
    assert len(results) == torch.cuda.device_count()
    assert all(result.status != "failure" for result in results)


def test_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    free = iter((79e9, 3e9))
    for name, value in {
        "is_available": lambda: True,
        "device_count": lambda: 2,
        "device": lambda _: nullcontext(),
        "get_device_properties": lambda _: SimpleNamespace(name="NVIDIA X1", major=9, minor=0),
        "mem_get_info": lambda: (next(free), 80e9),
        "is_bf16_supported": lambda including_emulation=True: True,
    }.items():
        monkeypatch.setattr(torch.cuda, name, value)

    class Convolution:
        def __init__(self, *_: int, device: torch.device) -> None:
            self.device = device

        def __call__(self, images: torch.Tensor) -> torch.Tensor:
            return images

    monkeypatch.setattr(torch.nn, "Conv2d", Convolution)
    monkeypatch.setattr(torch, "zeros", lambda *_, device: torch.ones(1))
    first, second = run_check("GPUs", checks.check_gpus)
    about = "NVIDIA X1, capability 9.0"
    assert first == ("GPU 0", "ok", f"{about}, bf16, 79.0 GB of 80.0 GB free", None)
    assert second[1:3] == ("warning", f"{about}, bf16, 3.0 GB of 80.0 GB free")

    def fails(*_: int, device: torch.device) -> None:
        raise RuntimeError("no kernel image is available\nsecond line")

    free = iter((79e9, 79e9))
    monkeypatch.setattr(torch.nn, "Conv2d", fails)
    first, _ = run_check("GPUs", checks.check_gpus)
    assert first[1:3] == ("failure", f"{about}: cannot compute: no kernel image is available")


def test_no_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert result_of(checks.check_gpus).found.endswith("drn computes on the CPU in fp32")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert result_of(checks.check_nccl).found.startswith("not tried: it needs two GPUs")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.distributed, "is_nccl_available", lambda: False)
    assert result_of(checks.check_nccl)[1:3] == ("failure", "torch is built without it; GPUs: 2")


def test_gloo(monkeypatch: pytest.MonkeyPatch) -> None:
    found = result_of(checks.check_gloo).found
    assert re.fullmatch(r"all-reduce of a million numbers by two processes: [\d.]+ ms", found)
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "no-such-one")
    result = result_of(checks.check_gloo)
    assert result.status == "failure"
    assert re.match(r"all-reduce of two processes: rank [01] failed: .*no-such-one", result.found)


def test_nccl_without_gpus_names_the_cause(monkeypatch: pytest.MonkeyPatch) -> None:
    if torch.cuda.device_count() < 2:
        monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
        monkeypatch.setattr(torch.distributed, "is_nccl_available", lambda: True)
        result = result_of(checks.check_nccl)
        assert result.status == "failure"
        assert re.match(r"all-reduce of two processes: rank [01] failed: .", result.found)
        assert "NCCL_SOCKET_IFNAME" in str(result.remedy)
    else:
        assert result_of(checks.check_nccl).status == "ok"


@pytest.mark.parametrize(("load", "status"), [(0.0, "failure"), (1000.0, "warning")])
def test_a_busy_machine_is_slow_not_broken(
    monkeypatch: pytest.MonkeyPatch, load: float, status: str
) -> None:
    monkeypatch.setattr(os, "getloadavg", lambda: (load, 0.0, 0.0))
    result = result_of(checks.check_gloo, 0.5)  # less than importing torch takes
    assert result.status == status
    assert "rank 0 did not finish within 0.5 s" in result.found
    assert ("less busy" in str(result.remedy)) == (status == "warning")


@pytest.mark.parametrize(
    ("cores", "ours", "limit", "threads", "status", "found"),
    [
        (8, 8, None, "", "ok", "8"),
        (8, 4, 4.0, "", "ok", "4 of 8, by taskset or a batch system"),
        (64, 64, 2.5, "", "warning", "64, limited to the time of 2.5; torch would start a "),
        (64, 64, 2.5, "3", "warning", "64, limited to the time of 2.5; torch would start a "),
        (64, 64, 2.5, "2", "ok", "64, limited to the time of 2.5; OMP_NUM_THREADS=2"),
    ],
)
def test_cores(
    monkeypatch: pytest.MonkeyPatch,
    cores: int,
    ours: int,
    limit: float | None,
    threads: str,
    status: str,
    found: str,
) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: cores)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(ours)))
    monkeypatch.setattr("drn_cli.device.core_limit", lambda: limit)
    monkeypatch.setenv("OMP_NUM_THREADS", threads)
    result = result_of(checks.check_cores)
    assert result.status == status
    assert result.found.startswith(found)


@pytest.fixture
def memory_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Limit this process to so much more memory, by the files of a control group."""
    monkeypatch.setattr("drn_cli.device.CGROUP", tmp_path)
    (tmp_path / "memory.max").write_text("4000000000")

    def leave(size: int) -> None:
        (tmp_path / "memory.current").write_text(str(4_000_000_000 - size))

    return leave


def test_memory(memory_left: Callable[[int], None]) -> None:
    memory_left(2_500_000_000)
    assert result_of(checks.check_memory)[1:3] == ("ok", "2.5 GB of 4.0 GB free")
    memory_left(500_000_000)
    assert result_of(checks.check_memory)[1:3] == ("warning", "500.0 MB of 4.0 GB free")


def test_shared_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, memory_left: Callable[[int], None]
) -> None:
    place = "drn_cli.device.SHARED_MEMORY"
    for path, status in ((Path("/proc"), "failure"), (tmp_path / "none", "failure")):
        monkeypatch.setattr(place, path)
        assert result_of(checks.check_shared_memory).status == status
    monkeypatch.setattr(place, tmp_path)
    memory_left(64_000_000)
    status, found, remedy = result_of(checks.check_shared_memory)[1:]
    assert status == "warning"
    assert found.startswith("64.0 MB of ")
    assert "--shm-size" in str(remedy)


def test_disk_and_cache_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = SimpleNamespace(free=50e9, total=90e9)
    monkeypatch.setattr("shutil.disk_usage", lambda _: usage)
    cache = tmp_path / "cache"
    assert result_of(checks.check_disk)[1:3] == ("ok", f"{tmp_path}: 50.0 GB free")
    found = f"{cache}, not created yet: 50.0 GB free"
    assert result_of(checks.check_cache_folder)[1:3] == ("ok", found)
    assert list(tmp_path.iterdir()) == []
    usage.free = 0.4e9
    for check in (checks.check_disk, checks.check_cache_folder):
        assert result_of(check).status == "warning"
        assert "400.0 MB free" in result_of(check).found

    cache.touch()  # a file in the way
    assert result_of(checks.check_cache_folder)[1:3] == (
        "failure",
        f"{cache} is not writable: Not a directory",
    )
    monkeypatch.setenv("DRN_CACHE", "/proc/drn")  # not even root can create it
    assert result_of(checks.check_cache_folder).status == "failure"
    (tmp_path / "shared").mkdir()
    (tmp_path / "shared" / "weights").symlink_to("/proc")
    monkeypatch.setenv("DRN_CACHE", str(tmp_path / "shared"))
    assert result_of(checks.check_cache_folder).status == "warning"
    monkeypatch.chdir("/proc")
    status, found = result_of(checks.check_disk)[1:3]
    assert (status, found.startswith("/proc is not writable: ")) == ("warning", True)


def test_a_full_disk(tmp_path: Path) -> None:
    """Here a limit on the size of files: a name can be created, and no byte written."""
    code = (
        "import os, resource; from drn_cli.doctor.checks import *\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))\n"
        "print(run_check('disk', check_disk)[0].found, flush=True)\n"
        "os._exit(0)"  # a measurement of coverage could not write its file either
    )
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.stdout == f"{tmp_path} is not writable: File too large\n"
    assert list(tmp_path.iterdir()) == []


def test_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "cache" / "weights"
    assert result_of(checks.check_weights).found.startswith("no published file is cached, of 25")
    folder.mkdir(parents=True)
    good, bad = published("drn_d_22")[0], published("drn_c_26")[0]
    content = b"weights"
    sound = replace(good, checksum=hashlib.sha256(content).hexdigest()[:8])
    listed = [sound if file is good else file for file in checks.PUBLISHED]
    monkeypatch.setattr(checks, "PUBLISHED", listed)
    (folder / good.name).write_bytes(content)
    (folder / "mine.safetensors").write_bytes(content)
    zipped = published("drn_d_22", "imagenet-retrained")[0]
    (folder / f"{zipped.name}.zip").write_bytes(b"packed")
    assert result_of(checks.check_weights)[1:3] == (
        "ok",
        "1 of 25 published files are cached and intact, 1 as archives that are unpacked when "
        "used: drn_d_22",
    )
    (folder / bad.name).write_bytes(content)
    result = result_of(checks.check_weights)
    assert result[1:3] == ("warning", f"checksums differ from the published ones: {bad.name}")
    assert result.remedy == f"rm {folder / bad.name}; drn models fetch drn_c_26 downloads again"

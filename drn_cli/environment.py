"""Environment of runs and measurements: versions, machine, command line, Git commit."""

import os
import platform
import subprocess
import sys
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
import torchvision

from drn_cli.version import __version__

CPU_INFO = Path("/proc/cpuinfo")
SOURCE_ROOT = Path(__file__).parents[1]


@dataclass(frozen=True, slots=True, kw_only=True)
class MachineInfo:
    """Device, threads and versions, which are reported with measured times.

    Attributes:
        device: Name of the GPU or CPU.
        cores: Number of cores available to this process.
        threads: Number of CPU threads of PyTorch.
        torch, python, drn: Versions.
        cuda, cudnn: Versions; None on CPUs.
    """

    device: str
    cores: int
    threads: int
    torch: str
    python: str
    drn: str
    cuda: str | None
    cudnn: str | None

    def __str__(self) -> str:
        versions = [f"torch {self.torch}", f"Python {self.python}", f"drn {self.drn}"]
        if self.cuda is not None:
            versions.insert(1, f"CUDA {self.cuda}, cuDNN {self.cudnn}")
        return ", ".join(
            [self.device, f"{self.cores} cores", f"threads: {self.threads}", *versions]
        )

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def machine_info(device: torch.device) -> MachineInfo:
    """Return machine and versions of this process."""
    on_gpu = device.type == "cuda"
    return MachineInfo(
        device=torch.cuda.get_device_name(device) if on_gpu else _processor(),
        cores=len(os.sched_getaffinity(0)),
        threads=torch.get_num_threads(),
        torch=torch.__version__,
        python=platform.python_version(),
        drn=__version__,
        cuda=torch.version.cuda if on_gpu else None,
        cudnn=str(torch.backends.cudnn.version()) if on_gpu else None,
    )


def _processor() -> str:
    """Return the name of the CPU as the kernel reports it, or else its architecture."""
    if CPU_INFO.is_file():
        for line in CPU_INFO.read_text(encoding="utf-8").splitlines():
            key, _, value = line.partition(":")
            if key.strip() == "model name":
                return value.strip()
    return platform.processor() or platform.machine()


def run_environment(device: torch.device) -> dict[str, Any]:
    """Return versions, device and command line of this process, for environment.json."""
    on_gpu = device.type == "cuda"
    return {
        "drn": __version__,
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "device": torch.cuda.get_device_name(device) if on_gpu else "cpu",
        "gpu_memory": torch.cuda.get_device_properties(device).total_memory if on_gpu else None,
        "cores": len(os.sched_getaffinity(0)),
        "command": sys.argv,
        "job": os.environ.get("TORCHELASTIC_RUN_ID"),
        "revision": git_commit(),
        "started": now(),
    }


def git_commit(root: Path = SOURCE_ROOT) -> str | None:
    """Return the Git commit of this code; None outside of a checkout."""
    if not (root / ".git").exists():
        return None
    try:
        return subprocess.run(
            ["git", "-C", root, "rev-parse", "HEAD"],
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        ).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None


def now() -> str:
    """Return the time in UTC, to the second: `2026-01-31T12:00:00+00:00`."""
    return datetime.now(UTC).isoformat(timespec="seconds")

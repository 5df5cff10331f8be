"""What a measurement was made on, which times cannot be told without."""

import os
import platform
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

import drn_cli

CPU_INFO = Path("/proc/cpuinfo")


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """Device, threads and versions.

    Attributes:
        device: The GPU's or the processor's name.
        cores: That this process may use.
        threads: That PyTorch computes with on the CPU.
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


def this_machine(device: torch.device) -> Machine:
    """Tell what this process computes on."""
    on_gpu = device.type == "cuda"
    return Machine(
        device=torch.cuda.get_device_name(device) if on_gpu else _processor(),
        cores=len(os.sched_getaffinity(0)),
        threads=torch.get_num_threads(),
        torch=torch.__version__,
        python=platform.python_version(),
        drn=drn_cli.__version__,
        cuda=torch.version.cuda if on_gpu else None,
        cudnn=str(torch.backends.cudnn.version()) if on_gpu else None,
    )


def _processor() -> str:
    """Name the processor as the kernel does, or else by its architecture."""
    if CPU_INFO.is_file():
        for line in CPU_INFO.read_text(encoding="utf-8").splitlines():
            key, _, value = line.partition(":")
            if key.strip() == "model name":
                return value.strip()
    return platform.processor() or platform.machine()

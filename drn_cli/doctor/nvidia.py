"""NVIDIA's GPUs and driver as the machine tells of them, whatever torch was built for."""

import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

DEVICES = Path("/dev")
TIMEOUT = 20  # seconds: a driver that nobody uses takes its time to wake


@dataclass(frozen=True, slots=True)
class Nvidia:
    """What there is of NVIDIA's.

    Attributes:
        gpus: Their number.
        driver: Its version, if `nvidia-smi` tells.
        cuda: The newest CUDA that the driver can run, if `nvidia-smi` tells.
    """

    gpus: int
    driver: str | None = None
    cuda: str | None = None


def nvidia(devices: Path = DEVICES) -> Nvidia:
    """Ask `nvidia-smi`; where there is none, as in some containers, count the devices."""
    listed = re.findall(r"^GPU \d+:", _smi("-L"), re.MULTILINE)
    count = len(listed) or sum(1 for path in devices.glob("nvidia[0-9]*"))
    head = _smi() if listed else ""
    driver = re.search(r"Driver Version:\s*([\d.]+)", head)
    cuda = re.search(r"CUDA[\w ]* Version:\s*([\d.]+)", head)
    return Nvidia(count, driver[1] if driver else None, cuda[1] if cuda else None)


def _smi(*words: str) -> str:
    try:
        done = subprocess.run(
            ["nvidia-smi", *words], capture_output=True, text=True, timeout=TIMEOUT, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout if done.returncode == 0 else ""

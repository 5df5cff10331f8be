"""Limits that a container or batch system sets through Linux's control groups."""

from contextlib import suppress
from pathlib import Path

from drn_cli.data.memory_folder import CGROUP

PROCESS = Path("/proc/self/cgroup")


def core_limit(root: Path = CGROUP, process: Path = PROCESS) -> float | None:
    """Give how many cores' time this process may use; None is no limit."""
    limits = []
    for folder in _folders(root, process):
        with suppress(OSError, ValueError):  # not there, or "max"
            quota, period = map(int, (folder / "cpu.max").read_text().split())
            limits.append(quota / period)
    with suppress(OSError, ValueError):  # the first version of control groups
        quota = int((root / "cpu" / "cpu.cfs_quota_us").read_text())
        if quota > 0:
            limits.append(quota / int((root / "cpu" / "cpu.cfs_period_us").read_text()))
    return min(limits, default=None)


def memory_limit(root: Path = CGROUP, process: Path = PROCESS) -> int | None:
    """Give how many bytes this process and those beside it may use; None is no limit."""
    limits = []
    for folder in _folders(root, process):
        with suppress(OSError, ValueError):
            limits.append(int((folder / "memory.max").read_text()))
    return min(limits, default=None)


def _folders(root: Path, process: Path) -> list[Path]:
    """List the process's own group and those around it, each of which may have limits."""
    own = ""
    with suppress(OSError):
        for line in process.read_text().splitlines():
            if line.startswith("0::"):
                own = line.removeprefix("0::").strip("/")
    place = root / own
    return [place, *(above for above in place.parents if above.is_relative_to(root))]

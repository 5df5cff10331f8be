"""What the machine gives: GPUs, cores, memory, disk, and ways for processes to meet."""

import os
import resource
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from drn_cli.data.memory_folder import SHARED_MEMORY, free_memory, room
from drn_cli.distributed.meeting import PORT
from drn_cli.doctor.control_group import core_limit, memory_limit
from drn_cli.doctor.finding import Finding, gigabytes, in_a_line
from drn_cli.doctor.folders import why_not_writable

if TYPE_CHECKING:
    import torch

    from drn_cli.training.precision import Precision

# Below these a warning; a large recipe may need more.
MEMORY = 2e9  # bytes
SHARED = 1e9  # bytes: batches wait there for the process that trains
DISK = 2e9  # bytes: two checkpoints of the largest network
FILES = 1024


def gpus() -> Iterator[Finding]:
    """Compute something on each GPU, in the precision that drn would choose."""
    import torch

    from drn_cli.training.precision import resolve_precision

    if not torch.cuda.is_available():
        precision = resolve_precision("auto", torch.device("cpu"))
        yield Finding(
            "GPUs", "ok", f"none that torch can use: drn computes on the CPU, {precision}"
        )
        return
    for number in range(torch.cuda.device_count()):
        yield _gpu(number)


def _gpu(number: int) -> Finding:
    import torch

    from drn_cli.training.precision import resolve_precision

    device, name = torch.device("cuda", number), f"GPU {number}"
    about = torch.cuda.get_device_properties(device)
    found = f"{about.name}, capability {about.major}.{about.minor}"
    try:
        with torch.cuda.device(device):
            free, total = torch.cuda.mem_get_info()
            precision = resolve_precision("auto", device)
            _convolve(device, precision)
    except RuntimeError as error:
        return Finding(
            name,
            "failure",
            f"{found}: cannot compute: {in_a_line(error)}",
            "does another process use it (nvidia-smi)? else torch may be built without this "
            "capability: https://pytorch.org/get-started/locally has other builds",
        )
    found += f", {precision}, {gigabytes(free)} of {gigabytes(total)} free"
    if free < total / 2:
        return Finding(name, "warning", found, "nvidia-smi shows who uses the rest")
    return Finding(name, "ok", found)


def _convolve(device: "torch.device", precision: "Precision") -> None:
    """Compute what all networks are made of, and wait for it."""
    import torch

    from drn_cli.training.precision import autocast

    with autocast(device, precision):
        layer = torch.nn.Conv2d(3, 8, 3, device=device)
        layer(torch.zeros(1, 3, 32, 32, device=device)).sum().item()


def cores() -> Finding:
    there, ours, limit = os.cpu_count() or 1, len(os.sched_getaffinity(0)), core_limit()
    found = str(ours) if ours == there else f"{ours} of {there}, by taskset or a batch system"
    if limit is None or limit >= ours:
        return Finding("cores", "ok", found)
    found += f"; their time is limited to that of {limit:g}"
    whole = max(1, int(limit))
    threads = os.environ.get("OMP_NUM_THREADS", "")
    if threads.isdigit() and int(threads) <= whole:
        return Finding("cores", "ok", f"{found}, and OMP_NUM_THREADS is {threads}")
    return Finding(
        "cores",
        "warning",
        f"{found}, but torch would start a thread for each",
        f"export OMP_NUM_THREADS={whole}, or give the container more (docker run --cpus)",
    )


def memory() -> Finding:
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    free, limit = free_memory(), memory_limit()
    found = f"{gigabytes(free)} of {gigabytes(min(total, limit or total))} free"
    if free >= MEMORY:
        return Finding("memory", "ok", found)
    return Finding("memory", "warning", found, "end other programs, or read with data.workers=0")


def shared_memory(place: Path = SHARED_MEMORY) -> Finding:
    """Look at /dev/shm, where reading processes leave batches, and data.cache=memory pictures."""
    name, remedy = str(place), "make it larger (docker run --shm-size=8g), or data.workers=0"
    if not place.is_dir():
        return Finding(name, "failure", "there is none", f"mount -t tmpfs tmpfs {place}")
    if (why := why_not_writable(place)) is not None:
        return Finding(name, "failure", f"cannot be written: {why}", remedy)
    free, total = room(place), shutil.disk_usage(place).total
    found = f"{gigabytes(free)} of {gigabytes(total)} free"
    if free >= SHARED:
        return Finding(name, "ok", found)
    return Finding(name, "warning", f"{found}: too little for several reading processes", remedy)


def disk(folder: Path | None = None) -> Finding:
    """Look at the folder that drn was started in, where runs go."""
    folder = folder or Path.cwd()
    if (why := why_not_writable(folder)) is not None:
        return Finding(
            "disk",
            "warning",
            f"{folder} cannot be written: {why}",
            "start drn in another folder, or say where files go: --run-dir, --out",
        )
    free = shutil.disk_usage(folder).free
    found = f"{folder}: {gigabytes(free)} free"
    if free >= DISK:
        return Finding("disk", "ok", found)
    return Finding("disk", "warning", found, "make room: a run keeps several checkpoints")


def open_files() -> Finding:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft in (resource.RLIM_INFINITY, -1):
        return Finding("open files", "ok", "as many as one likes")
    if soft >= FILES:
        return Finding("open files", "ok", f"{soft} at a time")
    most = 65536 if hard == resource.RLIM_INFINITY else hard
    remedy = f"ulimit -n {min(most, 65536)}"
    if most < FILES:
        remedy += "; more than that the administrator has to allow (/etc/security/limits.conf)"
    return Finding(
        "open files", "warning", f"{soft} at a time, which many reading processes exceed", remedy
    )


def ports(host: str = "127.0.0.1") -> Finding:
    """Send a word through a free port of this machine, as processes do that train together."""
    try:
        with socket.create_server((host, 0)) as server:
            number: int = server.getsockname()[1]
            server.settimeout(5)
            with socket.create_connection((host, number), timeout=5) as client:
                taken, _ = server.accept()
                with taken:
                    taken.settimeout(5)
                    client.sendall(b"drn")
                    arrived = taken.recv(3)
    except OSError as error:
        return Finding(
            "ports",
            "failure",
            f"{host}: no connection from this machine to itself: {error.strerror or error}",
            "is the loopback interface up (ip link set lo up), and let through by the firewall?",
        )
    assert arrived == b"drn"
    found = f"{number} was free, and is reached"
    if not _free(host, PORT):
        found += f"; {PORT} is taken, so several machines need --rdzv-endpoint HOST:PORT"
    return Finding("ports", "ok", found)


def _free(host: str, number: int) -> bool:
    try:
        with socket.create_server((host, number)):
            return True
    except OSError:
        return False


def host_name(name: str | None = None) -> Finding:
    """See that this machine's own name leads to it: torchrun's processes meet under that name."""
    name = name or socket.gethostname()
    remedy = f"add a line to /etc/hosts: 127.0.1.1 {name}"
    try:
        address = str(socket.getaddrinfo(name, None)[0][4][0])
    except OSError as error:
        found = f"{name}: not known: {error.strerror or error}"
        return Finding("host name", "warning", found, remedy)
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    try:
        with socket.socket(family) as probe:
            probe.bind((address, 0))  # which is allowed at one's own addresses only
    except OSError:
        found = f"{name} is {address}, which is no address of this machine"
        return Finding("host name", "warning", found, remedy)
    return Finding("host name", "ok", f"{name} is {address}")

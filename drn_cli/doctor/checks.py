"""The checks of `drn doctor`, in order.

A check returns what it found, raises a DrnError with a remedy for what does not work, or a
SuboptimalError for what could be better; some yield several results. Each imports what it needs
itself, so that a broken package is found and does not end the doctor.
"""

import os
import re
import shutil
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from functools import cache, partial
from importlib.metadata import packages_distributions, version
from importlib.util import find_spec
from pathlib import Path
from typing import Literal, NamedTuple
from urllib.parse import urlsplit

from drn_cli.doctor.probes import TIMEOUT, all_reduce_probe, head, import_all, nvidia_driver
from drn_cli.errors import DrnError
from drn_cli.formatting import first_line, size
from drn_cli.networks.published import PUBLISHED, WeightFile

TORCH = (2, 11)  # the oldest, as in pyproject.toml
CHOOSE = "https://pytorch.org/get-started/locally has the command"
# Packages with compiled parts, which can be installed and broken: as pip names them, as imported.
COMPILED = {
    "numpy": "numpy",
    "pillow": "PIL.Image",
    "opencv-python-headless": "cv2",
    "imagecodecs": "imagecodecs",
    "safetensors": "safetensors.torch",
    "psutil": "psutil",
    "pydantic": "pydantic",
    "pyyaml": "yaml",
}
# Extras of pyproject.toml: what they are for, and their packages.
EXTRAS = {
    "imagenet": ("ImageNet's own list of classes", ("scipy",)),
    "tensorboard": ("curves in TensorBoard", ("tensorboard",)),
    "onnx": ("ONNX files", ("onnx", "onnxscript", "onnxruntime")),
    "openvino": ("OpenVINO files", ("openvino",)),
    "openvino-int8": ("OpenVINO files in 8 bits", ("nncf",)),
}
# Below these free bytes a warning; a large recipe may need more.
MEMORY = DISK = 2e9  # disk: two checkpoints of the largest network
SHARED = CACHE = 1e9  # shared memory holds the batches of data loader workers
MIRROR_TIMEOUT = 5.0  # seconds, for all servers together
BUSY = "nothing is known to be wrong: run drn doctor again when the machine is less busy"

Status = Literal["ok", "warning", "failure"]


class DoctorResult(NamedTuple):
    """A line of the doctor's table.

    Attributes:
        name: What was checked.
        status: `failure`: something that drn needs does not work. `warning`: it works, but not as
            well as it could, or something that only some need is missing.
        found: What was found.
        remedy: What to do about it; None where all is well.
    """

    name: str
    status: Status
    found: str
    remedy: str | None = None


class SuboptimalError(DrnError):
    """Something works, but not as well as it could."""


Check = Callable[[], str | Iterator[DoctorResult]]


def run_check(name: str, check: Check) -> list[DoctorResult]:
    """Run a check. Also an unexpected exception becomes a result, unless with --debug."""
    try:
        found = check()
        return [DoctorResult(name, "ok", found)] if isinstance(found, str) else list(found)
    except DrnError as error:
        status: Status = "warning" if isinstance(error, SuboptimalError) else "failure"
        return [DoctorResult(name, status, error.message, error.hint)]
    except Exception as error:
        if os.environ.get("DRN_DEBUG"):
            raise
        problem = f"check failed: {type(error).__name__}: {first_line(error)}"
        return [DoctorResult(name, "failure", problem, "drn --debug doctor prints the traceback")]


def check_python() -> str:
    return f"{sys.version.split()[0]} in {sys.prefix}"


def check_torch() -> str:
    try:
        import torch
    except (ImportError, OSError, RuntimeError, AttributeError) as error:
        remedy = "install it again: pip install --force-reinstall torch torchvision"
        raise DrnError(f"cannot be imported: {first_line(error)}", remedy) from error
    if _release(torch.__version__) < TORCH:
        raise DrnError(f"{torch.__version__} is too old", "pip install -U torch torchvision")
    return torch.__version__


def check_torchvision() -> str:
    """Check that torchvision belongs to the installed torch, by calling its compiled part."""
    torch_version = version("torch")
    remedy = f"install torch and torchvision together, of one build: {CHOOSE}"
    boxes = [[0.0, 0, 10, 10], [0, 0, 10, 9], [20, 20, 30, 30]]
    try:
        import torch
        from torchvision.ops import nms

        kept = nms(torch.tensor(boxes), torch.tensor([0.9, 0.8, 0.7]), 0.5).tolist()
        if kept != [0, 2]:
            raise RuntimeError(f"nms keeps {kept} of three boxes, not [0, 2]")
    except (ImportError, OSError, RuntimeError, AttributeError) as error:
        found = f"does not work with torch {torch_version}: {first_line(error)}"
        raise DrnError(found, remedy) from error
    found = version("torchvision")
    # torch 2.11 came with torchvision 0.26, 2.12 with 0.27, and so on.
    major, minor = _release(torch_version)
    if major == 2 and _release(found) != (0, minor + 15):
        found = f"{found} works, but is not made for torch {torch_version}"
        raise SuboptimalError(found, f"pip install 'torchvision==0.{minor + 15}.*'")
    return f"{found}, which belongs to torch {torch_version}"


def check_packages(timeout: float = TIMEOUT) -> str:
    """Import packages with compiled parts, each in its own process: a broken one may crash."""
    broken, slow = import_all({name: [module] for name, module in COMPILED.items()}, timeout)
    if broken:
        found = "; ".join(f"{name} cannot be imported: {why}" for name, why in broken.items())
        raise DrnError(found, f"pip install --force-reinstall {' '.join(broken)}")
    if slow:
        raise SuboptimalError(f"slow to import: {', '.join(slow)} (over {timeout:g} s)", BUSY)
    return ", ".join(f"{name} {_version_of(module)}" for name, module in COMPILED.items())


def check_extras(timeout: float = TIMEOUT) -> Iterator[DoctorResult]:
    """Import the packages of the installed extras, each extra in its own process."""
    missing = {
        extra: [package for package in packages if find_spec(package) is None]
        for extra, (_, packages) in EXTRAS.items()
    }
    installed = {extra: EXTRAS[extra][1] for extra in EXTRAS if not missing[extra]}
    broken, slow = import_all(installed, timeout)

    def check(extra: str) -> str:
        purpose, packages = EXTRAS[extra]
        if missing[extra]:
            some = "" if len(missing[extra]) == len(packages) else f" ({', '.join(missing[extra])})"
            return f"not installed{some}: pip install 'drn-cli[{extra}]', for {purpose}"
        if extra in slow:
            raise SuboptimalError(f"slow to import (over {timeout:g} s)", BUSY)
        if extra in broken:
            found = f"installed, but cannot be imported: {broken[extra]}"
            raise SuboptimalError(found, f"pip install --force-reinstall {' '.join(packages)}")
        versions = ", ".join(f"{package} {_version_of(package)}" for package in packages)
        return f"{versions}, for {purpose}"

    for extra in EXTRAS:
        yield from run_check(f"extra {extra}", partial(check, extra))


def check_cuda() -> str:
    """Check that torch's CUDA and the driver fit together, if there is a GPU to use."""
    import torch

    built = torch.version.cuda
    with warnings.catch_warnings(record=True) as said:  # torch warns why it sees no GPU
        warnings.simplefilter("always")
        available = torch.cuda.is_available()
    if available and built is None:
        return f"torch is built for ROCm {torch.version.hip}"
    gpus, driver, newest = nvidia_driver()
    named = f"the driver{f' ({driver})' if driver else ''}"
    if available:
        return f"torch is built for CUDA {built}, and {named} fits"
    if not gpus:
        return f"torch is built for {f'CUDA {built}' if built else 'CPUs'}; no NVIDIA GPU here"
    if built is None:
        found = f"torch is built for CPUs; number of NVIDIA GPUs here: {gpus}"
        raise SuboptimalError(found, f"install torch and torchvision for CUDA: {CHOOSE}")
    if newest and _release(newest)[0] < _release(built)[0]:
        found = f"torch is built for CUDA {built}, but {named} supports CUDA {newest} at most"
        raise DrnError(found, f"install a newer driver, or torch for an older CUDA: {CHOOSE}")
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible in ("", "-1"):
        found = f"CUDA_VISIBLE_DEVICES={visible} hides all NVIDIA GPUs of this machine: {gpus}"
        raise SuboptimalError(found, "unset CUDA_VISIBLE_DEVICES, or list GPUs in it: 0,1")
    found = f"torch, built for CUDA {built}, can use none of the NVIDIA GPUs here: {gpus}"
    found += "" if visible is None else f", with CUDA_VISIBLE_DEVICES={visible}"
    raise DrnError(
        f"{found}: {first_line(said[-1].message)}" if said else found,
        "does nvidia-smi work? restart the machine after an update of the driver; a container "
        "needs access to the GPUs (docker run --gpus all)",
    )


def check_gpus() -> str | Iterator[DoctorResult]:
    """Run a convolution on each GPU, in the precision that drn would choose."""
    import torch

    from drn_cli.device import autocast, resolve_precision

    if not torch.cuda.is_available():
        precision = resolve_precision("auto", torch.device("cpu"))
        return f"none that torch can use: drn computes on the CPU in {precision}"

    def check(index: int) -> str:
        device = torch.device("cuda", index)
        properties = torch.cuda.get_device_properties(device)
        found = f"{properties.name}, capability {properties.major}.{properties.minor}"
        try:
            with torch.cuda.device(device):
                free, total = torch.cuda.mem_get_info()
                precision = resolve_precision("auto", device)
                with autocast(device, precision):
                    layer = torch.nn.Conv2d(3, 8, 3, device=device)
                    layer(torch.zeros(1, 3, 32, 32, device=device)).sum().item()
        except RuntimeError as error:
            raise DrnError(
                f"{found}: cannot compute: {first_line(error)}",
                "does another process use it (nvidia-smi)? otherwise torch may be built without "
                f"this capability: {CHOOSE} for other builds",
            ) from error
        found += f", {precision}, {size(free)} of {size(total)} free"
        return _enough(free, total / 2, found, "nvidia-smi shows which processes use the rest")

    indices = range(torch.cuda.device_count())
    return (one for index in indices for one in run_check(f"GPU {index}", partial(check, index)))


def check_gloo(timeout: float = TIMEOUT) -> str:
    remedy = (
        "name the network interface, which on a single machine may be GLOO_SOCKET_IFNAME=lo; does "
        "the host name resolve to this machine, and does a firewall or VPN block it?"
    )
    return _all_reduce("gloo", timeout, remedy)


def check_nccl(timeout: float = TIMEOUT) -> str:
    """Check NCCL where two processes can have a GPU each."""
    import torch

    gpus = torch.cuda.device_count()
    if gpus < 2:
        return f"not tried: it needs two GPUs; GPUs that torch can use: {gpus}"
    if not torch.distributed.is_nccl_available():
        raise DrnError(f"torch is built without it; GPUs: {gpus}", f"install torch: {CHOOSE}")
    remedy = "run with NCCL_DEBUG=WARN for details; try NCCL_P2P_DISABLE=1 or NCCL_SOCKET_IFNAME=lo"
    return _all_reduce("nccl", timeout, remedy)


def _all_reduce(backend: Literal["gloo", "nccl"], timeout: float, remedy: str) -> str:
    try:
        took = all_reduce_probe(backend, timeout)
    except (RuntimeError, TimeoutError) as error:
        load, cores = os.getloadavg()[0], len(os.sched_getaffinity(0))
        if isinstance(error, TimeoutError) and load > 1.5 * cores:
            found = f"slow: {error}, with a load of {load:.0f} on {cores} cores"
            raise SuboptimalError(found, BUSY) from error
        raise DrnError(f"all-reduce of two processes: {error}", remedy) from error
    return f"all-reduce of a million numbers by two processes: {took:g} ms"


def check_cores() -> str:
    from drn_cli.device import core_limit

    cores, ours, limit = os.cpu_count() or 1, len(os.sched_getaffinity(0)), core_limit()
    found = str(ours) if ours == cores else f"{ours} of {cores}, by taskset or a batch system"
    if limit is None or limit >= ours:
        return found
    whole, threads = max(1, int(limit)), os.environ.get("OMP_NUM_THREADS", "")
    found += f", limited to the time of {limit:g}"
    if threads.isdigit() and int(threads) <= whole:
        return f"{found}; OMP_NUM_THREADS={threads}"
    remedy = f"export OMP_NUM_THREADS={whole}, or give the container more (docker run --cpus)"
    raise SuboptimalError(f"{found}; torch would start a thread for each core", remedy)


def check_memory() -> str:
    import psutil

    from drn_cli.device import free_memory, memory_limit

    free, total = free_memory(), psutil.virtual_memory().total
    found = f"{size(free)} of {size(min(total, memory_limit() or total))} free"
    remedy = "end other programs, or load data in the main process (data.workers=0)"
    return _enough(free, MEMORY, found, remedy)


def check_shared_memory() -> str:
    """Check /dev/shm, which holds the batches of data loader workers and data.cache=memory."""
    from drn_cli.device import SHARED_MEMORY, free_bytes

    if not SHARED_MEMORY.is_dir():
        raise DrnError("no such directory", f"mount -t tmpfs tmpfs {SHARED_MEMORY}")
    remedy = "make it larger (docker run --shm-size=8g), or use data.workers=0"
    _check_writable(SHARED_MEMORY, remedy)
    free, total = free_bytes(SHARED_MEMORY), shutil.disk_usage(SHARED_MEMORY).total
    return _enough(free, SHARED, f"{size(free)} of {size(total)} free", remedy)


def check_disk() -> str:
    """Check the current folder, where run directories go."""
    folder = Path.cwd()
    remedy = "start drn in another folder, or name one: --run-dir, --out"
    _check_writable(folder, remedy, SuboptimalError)
    free = shutil.disk_usage(folder).free
    remedy = "free some space: a run keeps several checkpoints"
    return _enough(free, DISK, f"{folder}: {size(free)} free", remedy)


def check_cache_folder() -> str:
    from drn_cli.networks.download import cache_folder, weights_folder

    folder, remedy = cache_folder(), "set DRN_CACHE to a writable folder"
    place = weights_folder().absolute()
    # A cache that many share may be read-only on purpose: what is in it can be used.
    error = SuboptimalError if place.is_dir() else DrnError
    while not place.exists():
        place = place.parent
    _check_writable(place, remedy, error)
    free = shutil.disk_usage(place).free
    found = f"{folder}{'' if folder.exists() else ', not created yet'}: {size(free)} free"
    return _enough(free, CACHE, found, f"free some space, or {remedy}")


def _check_writable(folder: Path, remedy: str, error: type[DrnError] = DrnError) -> None:
    """Write a small file and remove it."""
    try:
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".drn-doctor-") as file:
            file.write(bytes(4096))  # a full disk still creates empty files
            file.flush()
    except OSError as problem:
        reason = problem.strerror or problem
        raise error(f"{folder} is not writable: {reason}", remedy) from problem


def check_weights() -> str:
    """Count the published files in the cache folder, and verify their checksums."""
    from drn_cli.integrity import digest_file
    from drn_cli.networks.download import verify_checksum, weights_folder

    folder = weights_folder()
    cached = [file for file in PUBLISHED if (folder / file.name).is_file()]
    if bad := [file for file in cached if not verify_checksum(folder / file.name, file)]:
        paths = [folder / file.name for file in bad]
        paths = [one for path in paths for one in (path, digest_file(path)) if one.exists()]
        found = f"checksums differ from the published ones: {', '.join(file.name for file in bad)}"
        remedy = f"rm {' '.join(map(str, paths))}; drn models fetch {bad[0].arch} downloads again"
        raise SuboptimalError(found, remedy)
    rest = [file for file in PUBLISHED if file not in cached]
    zips = [file for file in rest if (folder / f"{file.name}.zip").is_file()]
    if not cached and not zips:
        return f"no published file is cached, of {len(PUBLISHED)}; drn models fetch ARCH"
    found = f"{len(cached)} of {len(PUBLISHED)} published files are cached and intact"
    found += f", {len(zips)} as archives that are unpacked when used" if zips else ""
    return f"{found}: {', '.join(sorted({file.arch for file in [*cached, *zips]}))}"


def check_mirrors(
    files: Sequence[WeightFile] = PUBLISHED, timeout: float = MIRROR_TIMEOUT
) -> Iterator[DoctorResult]:
    """Ask the mirrors of DRN_MIRRORS for each file, and each public server for one of its files.

    A public server that does not answer matters only where no other has the same weights.
    """
    from drn_cli.networks.download import candidate_urls

    mirrors = [f"{name.rstrip('/')}/" for name in os.environ.get("DRN_MIRRORS", "").split()]
    servers: dict[str, dict[str, WeightFile]] = {}
    for file, url in candidate_urls(files):
        mirror = next((mirror for mirror in mirrors if url.startswith(mirror)), None)
        name = f"mirror {mirror}" if mirror else f"server {urlsplit(url).netloc}"
        servers.setdefault(name, {})[url] = file
    asked = {
        name: list(urls) if name.startswith("mirror") else [next(iter(urls))]
        for name, urls in servers.items()
    }
    problems = head([url for urls in asked.values() for url in urls], timeout)
    # Files of one architecture and kind are interchangeable.
    available = {
        (file.arch, file.kind)
        for name, urls in servers.items()
        for url, file in urls.items()
        if not problems.get(url, problems[asked[name][0]])
    }
    for name, urls in servers.items():
        answers = [url for url in asked[name] if not problems[url]]
        problem = problems[asked[name][0]]
        missing = {file.arch for file in urls.values() if (file.arch, file.kind) not in available}
        if name.startswith("mirror") and answers:
            found = f"has {len(answers)} of {len(urls)} published files"
            yield DoctorResult(name, "ok", found)
        elif name.startswith("mirror"):
            remedy = "check DRN_MIRRORS: base URLs, separated by spaces"
            yield DoctorResult(name, "warning", f"no published file: {problem}", remedy)
        elif not missing:
            found = f"{problem}, but others have the same weights" if problem else "answers"
            yield DoctorResult(name, "ok", found)
        else:
            found = f"{problem}: no other server has weights for {', '.join(sorted(missing))}"
            remedy = "name a mirror in DRN_MIRRORS, or see drn models show ARCH for the files"
            yield DoctorResult(name, "warning", found, remedy)


CHECKS: dict[str, Check] = {
    "Python": check_python,
    "torch": check_torch,
    "torchvision": check_torchvision,
    "packages": check_packages,
    "CUDA": check_cuda,
    "GPUs": check_gpus,
    "cores": check_cores,
    "memory": check_memory,
    "/dev/shm": check_shared_memory,
    "disk": check_disk,
    "gloo": check_gloo,
    "NCCL": check_nccl,
    "cache folder": check_cache_folder,
    "weights": check_weights,
    "mirrors": check_mirrors,
    "extras": check_extras,
}


def _release(text: str) -> tuple[int, int]:
    """Return major and minor number of a version such as 2.11.0+cu130."""
    major, minor = re.findall(r"\d+", text)[:2]
    return int(major), int(minor)


_distributions = cache(packages_distributions)  # which takes 0.2 seconds


def _version_of(module: str) -> str:
    """Return the version of the distribution that a module comes from, as pip knows it."""
    names = sorted(set(_distributions().get(module.partition(".")[0], ())))
    return ", ".join(map(version, names)) or "of unknown version"


def _enough(free: float, least: float, found: str, remedy: str) -> str:
    if free < least:
        raise SuboptimalError(found, remedy)
    return found

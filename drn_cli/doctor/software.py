"""Python, torch and what else is installed: versions that drn needs and that go together."""

import os
import re
import sys
import warnings
from importlib import import_module
from importlib.metadata import version
from typing import Any

from drn_cli.doctor.children import BUSY, run_together, too_slow
from drn_cli.doctor.children import python as this_python
from drn_cli.doctor.distributions import version_of
from drn_cli.doctor.finding import Finding, in_a_line
from drn_cli.doctor.nvidia import Nvidia, nvidia

# As pyproject.toml has them.
PYTHON = (3, 11)
TORCH = (2, 11)
TORCHVISION = (0, 26)

CHOOSE = "https://pytorch.org/get-started/locally has the command"

# What is not Python's alone, and so may be installed and broken: by name and as it is imported.
COMPILED = {
    "numpy": "numpy",
    "pillow": "PIL.Image",
    "opencv-python-headless": "cv2",
    "imagecodecs": "imagecodecs",
    "safetensors": "safetensors.torch",
    "pydantic": "pydantic",
    "pyyaml": "yaml",
}
IMPORT_TIMEOUT = 300.0  # seconds, for a busy machine too


def release(text: str) -> tuple[int, int]:
    """Take major and minor number from a version such as 2.11.0+cu130."""
    found = re.match(r"(\d+)\.(\d+)", text)
    if found is None:
        raise ValueError(f"{text!r} is not a version")
    return int(found[1]), int(found[2])


def python() -> Finding:
    found = f"{sys.version.split()[0]} in {sys.prefix}"
    if sys.version_info[:2] >= PYTHON:
        return Finding("Python", "ok", found)
    return Finding("Python", "failure", found, f"drn needs Python {_dotted(PYTHON)} or newer")


def torch() -> Finding:
    installed = _import("torch")
    if isinstance(installed, Exception):
        return Finding(
            "torch",
            "failure",
            f"cannot be imported: {in_a_line(installed)}",
            "install it again: pip install --force-reinstall torch torchvision",
        )
    if release(installed.__version__) >= TORCH:
        return Finding("torch", "ok", installed.__version__)
    return Finding(
        "torch",
        "failure",
        f"{installed.__version__} is too old",
        f"pip install -U 'torch>={_dotted(TORCH)}' 'torchvision>={_dotted(TORCHVISION)}'",
    )


def torchvision() -> Finding:
    """See that torchvision is the one that belongs to torch: its compiled part has to answer."""
    of_torch = version("torch")
    # Each release of torch has one of torchvision: 2.11 and 0.26, 2.12 and 0.27, and so on.
    major, minor = release(of_torch)
    partner = (0, minor + 15) if major == 2 else None
    remedy = (
        f"pip install 'torchvision=={_dotted(partner)}.*', of the same build as torch"
        if partner
        else f"install torch and torchvision together: {CHOOSE}"
    )
    installed = _import("torchvision")
    if isinstance(installed, Exception):
        found = f"cannot be imported with torch {of_torch}: {in_a_line(installed)}"
        return Finding("torchvision", "failure", found, remedy)
    own: str = installed.__version__
    if (problem := _suppress_boxes()) is not None:
        found = f"{own} does not work with torch {of_torch}: {in_a_line(problem)}"
        return Finding("torchvision", "failure", found, remedy)
    if partner and release(own) != partner:
        found = f"{own} works, but is not made for torch {of_torch}"
        return Finding("torchvision", "warning", found, remedy)
    return Finding("torchvision", "ok", f"{own}, which belongs to torch {of_torch}")


def packages(timeout: float = IMPORT_TIMEOUT) -> Finding:
    """Import what has compiled parts, each in a process of its own: a bad one may crash."""
    commands = [this_python("-c", f"import {module}") for module in COMPILED.values()]
    endings = run_together(commands, timeout)
    broken = {
        name: ending.last_line
        for name, ending in zip(COMPILED, endings, strict=True)
        if ending.code
    }
    if broken:
        found = "; ".join(f"{name} cannot be imported: {why}" for name, why in broken.items())
        remedy = f"pip install --force-reinstall {' '.join(broken)}"
        return Finding("packages", "failure", found, remedy)
    slow = [name for name, end in zip(COMPILED, endings, strict=True) if end.code is None]
    if slow:
        return Finding("packages", "warning", too_slow(", ".join(slow), timeout), BUSY)
    found = ", ".join(f"{name} {version_of(module)}" for name, module in COMPILED.items())
    return Finding("packages", "ok", found)


def cuda() -> Finding:
    """See that torch's CUDA and the driver fit, if there is a GPU to use."""
    import torch

    there = nvidia()
    built = torch.version.cuda
    if built is None:
        return _without_cuda(there)
    with warnings.catch_warnings(record=True) as said:  # torch warns of why it sees no GPU
        warnings.simplefilter("always")
        available = torch.cuda.is_available()
    driver = f"the driver{f' ({there.driver})' if there.driver else ''}"
    if available:
        return Finding("CUDA", "ok", f"torch is built for CUDA {built}, and {driver} fits")
    if not there.gpus:
        return Finding("CUDA", "ok", f"torch is built for CUDA {built}; no NVIDIA GPU here")
    if there.cuda and release(there.cuda)[0] < release(built)[0]:
        return Finding(
            "CUDA",
            "failure",
            f"torch is built for CUDA {built}, but {driver} is for CUDA {there.cuda} at most",
            f"a newer driver, or torch for an older CUDA: {CHOOSE}",
        )
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible in ("", "-1"):
        return Finding(
            "CUDA",
            "warning",
            f"CUDA_VISIBLE_DEVICES={visible} hides the {there.gpus} NVIDIA GPU(s) of this machine",
            "unset CUDA_VISIBLE_DEVICES, or name GPUs in it: 0,1",
        )
    why = "" if visible is None else f" with CUDA_VISIBLE_DEVICES={visible}"
    if said:
        why += f": {in_a_line(said[-1].message)}"
    return Finding(
        "CUDA",
        "failure",
        f"torch, built for CUDA {built}, cannot use the {there.gpus} NVIDIA GPU(s) here{why}",
        "does nvidia-smi work? after an update of the driver, start the machine again; a "
        "container has to be given the GPUs (docker run --gpus all)",
    )


def _without_cuda(there: Nvidia) -> Finding:
    import torch

    if torch.cuda.is_available():  # AMD's
        return Finding("CUDA", "ok", f"torch is built for ROCm {torch.version.hip} instead")
    if not there.gpus:
        return Finding("CUDA", "ok", "torch is built for CPUs; no NVIDIA GPU here")
    return Finding(
        "CUDA",
        "warning",
        f"torch is built for CPUs, and this machine has {there.gpus} NVIDIA GPU(s)",
        f"install torch and torchvision for CUDA: {CHOOSE}",
    )


def _import(name: str) -> Any:
    """Import a package, or give what kept it from being imported."""
    try:
        return import_module(name)
    except (ImportError, OSError, RuntimeError, AttributeError) as error:
        return error


def _suppress_boxes() -> Exception | None:
    """Call compiled code of torchvision; give what it raises."""
    import torch
    from torchvision.ops import nms

    boxes = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 9], [20, 20, 30, 30]])
    try:
        kept = nms(boxes, torch.tensor([0.9, 0.8, 0.7]), 0.5).tolist()
    except (RuntimeError, NotImplementedError, AttributeError) as error:
        return error
    return None if kept == [0, 2] else ValueError(f"of three boxes it keeps {kept}, not [0, 2]")


def _dotted(numbers: tuple[int, int]) -> str:
    return ".".join(map(str, numbers))

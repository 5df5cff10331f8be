"""What a run was made of: versions, machine, command, and fingerprints of its data."""

import hashlib
import os
import platform
import subprocess
import sys
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
import torchvision

import drn_cli
from drn_cli.data.class_folders import ClassSample
from drn_cli.files import read_json, write_json
from drn_cli.recipe.schema import Recipe
from drn_cli.runs import Run
from drn_cli.training.setup import Training
from drn_cli.training.tasks import Material

LISTS = ("train_images.txt", "train_labels.txt", "val_images.txt", "val_labels.txt", "info.json")


def environment(training: Training) -> dict[str, Any]:
    """Tell what a run runs on, ready for JSON."""
    device, on_gpu = training.group.device, training.group.device.type == "cuda"
    start = training.start
    return {
        "drn": drn_cli.__version__,
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "device": torch.cuda.get_device_name(device) if on_gpu else "cpu",
        "gpu_memory": torch.cuda.get_device_properties(device).total_memory if on_gpu else None,
        "cores": len(os.sched_getaffinity(0)),
        "processes": training.group.world,
        "precision": training.precision,
        "compiled": training.compiled,
        "command": sys.argv,
        "job": os.environ.get("TORCHELASTIC_RUN_ID"),
        "revision": revision(),
        "seed": training.recipe.train.seed,
        "data": fingerprints(training.recipe, training.material),
        "weights": start and {"file": str(start.path), "verified": start.verified},
        "started": _now(),
        "train_pictures": len(training.material.train),
        "val_pictures": len(training.material.val),
        "parameters": sum(weight.numel() for weight in training.model.parameters()),
        "resumed": [],
    }


def note_resumption(
    run: Run,
    training: Training,
    step: int,
    changes: dict[str, tuple[Any, Any]],
    *,
    verified: bool,
) -> None:
    """Write down that a run goes on, where, in how many processes and with what changed."""
    told = read_json(run.environment) if run.environment.is_file() else environment(training)
    told["data"] = fingerprints(training.recipe, training.material)
    told.setdefault("resumed", []).append(
        {
            "at": _now(),
            "step": step,
            "processes": training.group.world,
            "verified": verified,
            "command": sys.argv,
            "changes": changes,
        }
    )
    write_json(run.environment, told)


def fingerprints(recipe: Recipe, material: Material) -> dict[str, str]:
    """Give the SHA-256 of all that says which files are trained on, and in which order.

    Of a list folder these are its lists and info.json, of class folders the names of the pictures.
    """
    folder = Path(recipe.data.lists or recipe.data.root)
    if not isinstance(material.train[0], ClassSample):
        files = [folder / name for name in LISTS]
        return {file.name: _sha256([file.read_bytes()]) for file in files if file.is_file()}
    return {
        split: _sha256(
            f"{sample.image.relative_to(material.root)}\n".encode() for sample in samples
        )
        for split, samples in (("train", material.train), ("val", material.val))
    }


def revision() -> str | None:
    """Give the Git commit of the program, if it runs from a checkout."""
    root = Path(drn_cli.__file__).parents[1]
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


def _sha256(parts: Iterable[bytes]) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    return digest.hexdigest()


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")

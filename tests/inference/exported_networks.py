"""Run folders of two untrained networks, and exports of them.

Each file is written once for all tests and pytest processes.
"""

import copy
import fcntl
import json
import os
import sys
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
import yaml

from drn_cli.data.batches import normalize
from drn_cli.data.classes import ClassSet
from drn_cli.data.folders import ChannelStats
from drn_cli.data.images import Pixels
from drn_cli.export import probes
from drn_cli.export.exporting import export
from drn_cli.export.form import ENDINGS, ExportConfig
from drn_cli.inference.metadata import to_metadata
from drn_cli.inference.source import find_source
from drn_cli.networks import create_model
from drn_cli.networks.catalog import Task
from drn_cli.networks.checkpoints import save_weights
from drn_cli.networks.models import DRN

ARCH = "drn_a_18"
SMALL = ((25, 33), (32, 24))  # replace the sizes of the parity check, which take seconds
CLASS_SET = ClassSet(("red", "green", "blue"), ((200, 40, 40), (40, 200, 40), (40, 40, 200)))
FOLDERS = ("n1", "n2", "n3")
STATISTICS = ChannelStats((0.37, 0.4, 0.43), (0.3, 0.31, 0.32))
CROP, RESIZE = 40, 48
FIXED = (48, 64)  # height and width of exports with --size
SECRET = "where_data_lay"  # part of paths that exports must not contain
RUNTIMES = ("onnx", "pt2", "openvino")


def lively(task: Task, arch: str = ARCH, classes: int = 3) -> DRN:
    """Build a network with nontrivial batch norms, in whose outputs all classes occur."""
    return copy.deepcopy(_lively(task, arch, classes))


@cache
@torch.no_grad()
def _lively(task: Task, arch: str, classes: int) -> DRN:
    torch.manual_seed(0)
    model = create_model(arch, task, classes).eval()
    for name, tensor in model.named_buffers():
        if name.endswith("running_var"):
            tensor.uniform_(0.5, 1.5)
        elif name.endswith("running_mean"):
            tensor.normal_(0, 0.1)
    model.head.weight /= 20
    scores = model.scores(normalize(torch.from_numpy(noise(48, 64))[None], STATISTICS))
    model.head.bias -= scores.mean((0, 2, 3))
    return model


def noise(height: int, width: int, seed: int = 0) -> Pixels:
    """Draw blocks of color with noise, uint8 `(H, W, 3)`."""
    random = np.random.default_rng(seed)
    blocks = random.integers(0, 256, (-(-height // 8), -(-width // 8), 3))
    image = blocks.repeat(8, 0).repeat(8, 1)[:height, :width]
    return np.clip(image + random.normal(0, 20, image.shape), 0, 255).astype(np.uint8)


def normal(pixels: Pixels, statistics: ChannelStats = STATISTICS) -> npt.NDArray[np.float32]:
    """Normalize with NumPy: `(N, H, W, 3)` to float32 `(N, 3, H, W)`."""
    x = (pixels.astype(np.float32) / 255 - np.float32(statistics.mean)) / np.float32(statistics.std)
    return np.ascontiguousarray(x.transpose(0, 3, 1, 2))


@torch.no_grad()
def expected(task: Task, pixels: Pixels) -> list[npt.NDArray[np.float32]]:
    """Return the logits and scores computed with plain PyTorch."""
    model, x = lively(task), torch.from_numpy(normal(pixels))
    return [model(x).numpy(), model.scores(x).numpy()]


def places(file: Path) -> list[bytes]:
    """Return local paths and names found in a file; there should be none."""
    content = file.read_bytes()
    root = Path(__file__).parents[2]
    known = [root, root.name + "/drn_cli", Path(sys.prefix), file.parents[1], Path.home()]
    words = [*(str(path) for path in known if len(str(path)) > 5), SECRET, "stack_trace", ".py"]
    return [word.encode() for word in words if word.encode() in content]


def write_run(folder: Path, task: Task) -> Path:
    """Write the parts of a run folder that an export reads."""
    model = lively(task)
    folders = FOLDERS if task == "classification" else None
    metadata = to_metadata(model, STATISTICS, CLASS_SET, folders)
    save_weights(folder / "checkpoints" / "best.safetensors", model, metadata)
    place = f"/{SECRET}/images"
    recipe: dict[str, Any] = {
        "task": task,
        "model": {"arch": ARCH, "weights": f"/{SECRET}/weights.pth"},
        "data": {"root": place, "classes": len(CLASS_SET)},
        "augment": {"crop": CROP},
        "train": {"epochs": 7, "batch_size": 1, "lr": 0.1},
    }
    if task == "classification":
        recipe["eval"] = {"resize": RESIZE}
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    made = {"torch": "2.0", "seed": 5, "data": {"train_images.txt": "ab12"}}
    made |= {"command": ["drn", "train", place], "platform": "a machine"}
    (folder / "environment.json").write_text(json.dumps(made))
    return folder


class Exports:
    """Run folders and exported networks, written at their first use."""

    def __init__(self, factory: pytest.TempPathFactory) -> None:
        base = factory.getbasetemp()
        # Each pytest-xdist process has a folder below a shared one.
        self.folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "exports"
        self.folder.mkdir(exist_ok=True)

    def run(self, task: Task = "segmentation") -> Path:
        folder = self.folder / task
        with (self.folder / f"{task}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            return folder if folder.exists() else write_run(folder, task)

    def __call__(self, task: Task = "segmentation", **options: Any) -> Path:
        """Return the file of an exported network, in its own folder."""
        run, form = self.run(task), ExportConfig(**options)
        name = "_".join([task, *(f"{key}={value}" for key, value in sorted(options.items()))])
        file = self.folder / name / f"net{ENDINGS[form.format]}"
        with (self.folder / f"{name}.lock").open("w") as lock, pytest.MonkeyPatch.context() as m:
            fcntl.flock(lock, fcntl.LOCK_EX)
            m.setattr(probes, "SIZES", SMALL)
            return file if file.exists() else export(find_source(run), form, file).files[-1]

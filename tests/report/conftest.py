"""Run directories of both tasks as training leaves them, with networks that were never trained."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner, Result

from drn_cli.cli.app import app
from drn_cli.data.class_folders import FolderDataset
from drn_cli.data.classes import ClassSet, generic
from drn_cli.data.folders import ListDataset
from drn_cli.inference.metadata import to_metadata
from drn_cli.networks import create_model
from drn_cli.networks.checkpoints import save_weights
from drn_cli.recipe.loading import resolved_yaml
from drn_cli.recipe.schema import Recipe
from drn_cli.runs import Run

BIRDS = ("robin", "tit", "wren")
STEPS, EPOCHS = 10, 4  # steps of an epoch, and epochs
ENVIRONMENT: dict[str, Any] = {
    "drn": "1.2.3",
    "torch": "2.15.0",
    "torchvision": "0.30.0",
    "processes": 2,
    "compiled": True,
    "command": ["drn", "train", "easy.yaml", "data.root=/data/my images"],
    "revision": None,
    "seed": 0,
    "weights": {"file": "start.pth", "verified": False},
    "data": {"train_images.txt": "0123456789abcdef" * 4},
    "started": "2026-01-31T12:00:00+00:00",
    "resumed": [{"at": "2026-01-31T13:00:00+00:00", "step": 20}],
}

Command = Callable[..., Result]


@pytest.fixture
def drn_report() -> Command:
    """Run `drn report` in this process."""
    runner = CliRunner(env={"COLUMNS": "200"})
    return lambda *words: runner.invoke(app, ["report", *map(str, words)])


def train_line(step: int, **values: Any) -> dict[str, Any]:
    return {
        "kind": "train",
        "step": step,
        "epoch": step / STEPS,
        "loss": 10 / (step + 5),
        "lr": 0.01 * (1 - step / (STEPS * EPOCHS + 1)),
        "grad_norm": 1.5,
        "skipped": 0,
        "images_per_second": 100.0 + step % 3,
        "waiting": 0.02,
        "memory": 6_442_450_944,
    } | values


def val_line(epoch: int, **values: Any) -> dict[str, Any]:
    return {"kind": "val", "step": epoch * STEPS, "epoch": epoch, "images": 5} | values


def segmentation_val(epoch: int, miou: float, **values: Any) -> dict[str, Any]:
    iou = {"red": miou, "green": miou, "blue": None}
    scores = {"miou": miou, "pixel_accuracy": miou + 0.2, "mean_accuracy": miou + 0.1}
    return val_line(epoch, iou=iou, seconds=2.5, **scores, **values)


def whole_history(ending: str | None = "finished") -> list[dict[str, Any]]:
    """Return the lines of a run of four epochs, whose third is the best."""
    lines: list[dict[str, Any]] = []
    for epoch, miou in enumerate((0.2, 0.3, 0.5, 0.4), start=1):
        lines += [train_line((epoch - 1) * STEPS + step) for step in range(1, STEPS + 1)]
        lines.append(segmentation_val(epoch, miou, loss=2.0 / epoch))
    if ending:
        lines.append({"kind": "end", "step": STEPS * EPOCHS, "ending": ending, "seconds": 4000.5})
    return lines


def recipe(data: Path) -> dict[str, Any]:
    return {
        "task": "segmentation",
        "model": {"arch": "drn_a_18", "width": 0.0625},
        "data": {"root": str(data), "classes": 3},
        "augment": {"crop": 32, "rotate": 5},
        "train": {"epochs": EPOCHS, "batch_size": 4, "lr": 0.01},
    }


def write_lines(path: Path, lines: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def write_run(
    folder: Path, settings: dict[str, Any], lines: list[dict[str, Any]] | None = None
) -> Run:
    run = Run(folder)
    folder.mkdir(parents=True)
    run.recipe.write_text(resolved_yaml(Recipe.model_validate(settings)))
    run.environment.write_text(json.dumps(ENVIRONMENT))
    if lines is not None:
        write_lines(run.metrics, lines)
    return run


@pytest.fixture(scope="session")
def segmentation_run(data_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A finished run that is only read."""
    folder = tmp_path_factory.mktemp("runs") / "easy" / "first"
    run = write_run(folder, recipe(data_folder), whole_history())
    lists = ListDataset.open(data_folder)
    class_set = lists.class_set(3)
    torch.manual_seed(2)
    model = create_model("drn_a_18", "segmentation", len(class_set), width=0.0625)
    save_weights(run.best, model, to_metadata(model, lists.statistics(), class_set))
    iou = {"red": 0.25, "green": 0.25, "blue": None}
    scores = {"step": 30, "epoch": 3, "images": 5, "miou": 0.25, "iou": iou}
    run.scores.write_text(json.dumps(scores | {"confusion_matrix": [[1, 2, 0]] * 3}))
    return run


@pytest.fixture
def own_run(segmentation_run: Run, tmp_path: Path) -> Run:
    """A copy that a test may change."""
    return Run(Path(shutil.copytree(segmentation_run.folder, tmp_path / "own" / "run")))


@pytest.fixture(scope="session")
def birds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Class folders of three classes with two images each."""
    root, random = tmp_path_factory.mktemp("birds"), np.random.default_rng(0)
    for bird in BIRDS:
        for split in ("train", "val"):
            (root / split / bird).mkdir(parents=True)
            for number in range(2):
                pixels = random.integers(0, 256, (48, 64, 3)).astype(np.uint8)
                Image.fromarray(pixels).save(root / split / bird / f"{number}.png")
    return root


@pytest.fixture(scope="session")
def classification_run(birds: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    lines = [train_line(10), val_line(1, top1=0.25, top5=0.75, seconds=1.0), train_line(20)]
    settings: dict[str, Any] = recipe(birds) | {"task": "classification", "eval": {"resize": 40}}
    run = write_run(tmp_path_factory.mktemp("runs") / "birds" / "first", settings, lines)
    scores = {"epoch": 1, "top1": 0.25, "top5": 0.75, "images": 6}
    run.scores.write_text(json.dumps(scores | {"images_worst_first": [5, 3, 4, 2, 1, 0]}))
    folder = FolderDataset.open(birds)
    torch.manual_seed(2)
    model = create_model("drn_a_18", "classification", len(folder.names), width=0.0625)
    class_set = ClassSet(folder.names, generic(len(folder.names)).colours)
    save_weights(run.best, model, to_metadata(model, folder.statistics(), class_set))
    return run

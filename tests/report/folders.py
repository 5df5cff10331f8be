"""Run folders as training leaves them, with real networks that were never trained."""

import json
from pathlib import Path
from typing import Any

import torch
import yaml

from drn_cli.data.class_folders import ClassFolder
from drn_cli.data.classes import ClassSet, generic
from drn_cli.data.folders import ListFolder
from drn_cli.distributed.group import Group
from drn_cli.evaluation.segmentation import evaluate
from drn_cli.inference.loading import load_predictor
from drn_cli.inference.told import record
from drn_cli.networks import create_model
from drn_cli.networks.checkpoints import save_weights
from drn_cli.recipe.loading import load_recipe, resolved_yaml
from drn_cli.runs import Run

ALONE = Group(0, 1, torch.device("cpu"))
STEPS, EPOCHS = 10, 4  # an epoch's steps, and epochs

ENVIRONMENT = {
    "drn": "1.2.3",
    "torch": "2.15.0",
    "python": "3.11.7",
    "device": "NVIDIA H200",
    "gpu_memory": 150_754_820_096,
    "cores": 16,
    "processes": 2,
    "precision": "bf16",
    "compiled": True,
    "command": ["drn", "train", "easy.yaml", "data.root=/data/my pictures"],
    "revision": None,
    "seed": 0,
    "data": {"train_images.txt": "0123456789abcdef" * 4},
    "started": "2026-01-31T12:00:00+00:00",
    "train_pictures": 40,
    "val_pictures": 5,
    "parameters": 11_179_074,
    "resumed": [
        {
            "at": "2026-01-31T13:00:00+00:00",
            "step": 20,
            "processes": 1,
            "command": ["drn", "train", "--resume", "runs/easy"],
            "changes": {"train.lr": [0.01, 0.02]},
        }
    ],
}


def train_line(step: int, **values: Any) -> dict[str, Any]:
    """Give what a step's line holds."""
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


def segmentation_val(epoch: int, miou: float) -> dict[str, Any]:
    iou = {"red": miou, "green": miou, "blue": None}
    scores = {"miou": miou, "pixel_accuracy": miou + 0.2, "mean_accuracy": miou + 0.1}
    return val_line(epoch, iou=iou, seconds=2.5, **scores)


def whole_history(ending: str | None = "finished") -> list[dict[str, Any]]:
    """Give the lines of a run of four epochs, whose third is the best."""
    lines: list[dict[str, Any]] = []
    for epoch, miou in enumerate((0.2, 0.3, 0.5, 0.4), start=1):
        steps = range((epoch - 1) * STEPS + 1, epoch * STEPS + 1)
        lines += [train_line(step) for step in steps]
        lines.append(segmentation_val(epoch, miou))
    if ending:
        lines.append({"kind": "end", "step": STEPS * EPOCHS, "ending": ending, "seconds": 4000.5})
    return lines


def write_lines(path: Path, lines: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def write_run(
    folder: Path,
    recipe: dict[str, Any],
    lines: list[dict[str, Any]] | None = None,
    environment: dict[str, Any] | None = None,
) -> Run:
    """Write the text files of a run."""
    run = Run(folder)
    folder.mkdir(parents=True)
    (folder / "source.yaml").write_text(yaml.safe_dump(recipe))
    run.recipe.write_text(resolved_yaml(load_recipe(str(folder / "source.yaml")).recipe))
    (folder / "source.yaml").unlink()
    run.environment.write_text(json.dumps(ENVIRONMENT if environment is None else environment))
    if lines is not None:
        write_lines(run.metrics, lines)
    return run


def segmentation_recipe(data: Path, classes: int = 3) -> dict[str, Any]:
    return {
        "task": "segmentation",
        "model": {"arch": "drn_a_18"},
        "data": {"root": str(data), "classes": classes},
        "augment": {"crop": 32},
        "train": {"epochs": EPOCHS, "batch_size": 4, "lr": 0.01},
    }


def classification_recipe(data: Path, classes: int) -> dict[str, Any]:
    recipe = segmentation_recipe(data, classes) | {"task": "classification"}
    return recipe | {"eval": {"resize": 40}}


def add_segmenter(run: Run, data: Path) -> None:
    """Put a network into a run, with the scores that it really has."""
    folder = ListFolder.open(data)
    class_set = folder.class_set(3)
    torch.manual_seed(2)
    model = create_model("drn_a_18", "segmentation", len(class_set))
    save_weights(run.best, model, record(model, folder.statistics(), class_set))
    predictor = load_predictor(run.best, ALONE.device)
    scores = evaluate(predictor, folder.samples("val"), ALONE)
    assert scores is not None
    best = {"step": 30, "epoch": 3} | scores.to_json(class_set)
    run.scores.write_text(json.dumps(best))


def add_classifier(run: Run, data: Path) -> None:
    folder = ClassFolder.open(data)
    torch.manual_seed(2)
    model = create_model("drn_a_18", "classification", len(folder.names))
    class_set = ClassSet(folder.names, generic(len(folder.names)).colours)
    save_weights(run.best, model, record(model, folder.statistics(), class_set))

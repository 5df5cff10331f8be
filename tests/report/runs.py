"""The text files of a run: recipe, environment and measurements."""

import json
from pathlib import Path
from typing import Any

from drn_cli.recipe.loading import resolved_yaml
from drn_cli.recipe.schema import Recipe
from drn_cli.runs import Run

STEPS, EPOCHS = 10, 4  # steps of an epoch, and epochs
COMMAND = ["drn", "train", "easy.yaml", "data.root=/data/my images"]
ENVIRONMENT: dict[str, Any] = {
    "drn": "1.2.3",
    "torch": "2.15.0",
    "torchvision": "0.30.0",
    "device": "NVIDIA H200",
    "gpu_memory": 150_754_820_096,
    "processes": 2,
    "compiled": True,
    "command": COMMAND,
    "revision": None,
    "seed": 0,
    "weights": {"file": "start.pth", "verified": False},
    "data": {"train_images.txt": "0123456789abcdef" * 4},
    "started": "2026-01-31T12:00:00+00:00",
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


def recipe(data: Path, classes: int = 3) -> dict[str, Any]:
    return {
        "task": "segmentation",
        "model": {"arch": "drn_a_18", "width": 0.0625},
        "data": {"root": str(data), "classes": classes},
        "augment": {"crop": 32, "rotate": 5},
        "train": {"epochs": EPOCHS, "batch_size": 4, "lr": 0.01},
    }


def write_lines(path: Path, lines: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def write_run(
    run: Run,
    settings: dict[str, Any],
    lines: list[dict[str, Any]] | None = None,
    environment: dict[str, Any] | None = None,
) -> Run:
    run.folder.mkdir(parents=True)
    run.recipe.write_text(resolved_yaml(Recipe.model_validate(settings)))
    if environment is not None:
        run.environment.write_text(json.dumps(environment))
    if lines is not None:
        write_lines(run.metrics, lines)
    return run

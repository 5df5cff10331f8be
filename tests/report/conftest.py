"""Run folders of both tasks as training leaves them, with networks that were never trained."""

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
from drn_cli.distributed.group import Group
from drn_cli.evaluation.segmentation import evaluate
from drn_cli.inference.loading import load_predictor
from drn_cli.inference.metadata import to_metadata
from drn_cli.networks import create_model
from drn_cli.networks.checkpoints import save_weights
from drn_cli.runs import Run

from .runs import ENVIRONMENT, recipe, train_line, val_line, whole_history, write_run

BIRDS = ("robin", "tit", "wren")
Command = Callable[..., Result]


@pytest.fixture
def drn_report() -> Command:
    """Run `drn report` in this process."""
    runner = CliRunner(env={"COLUMNS": "200"})
    return lambda *words: runner.invoke(app, ["report", *map(str, words)])


@pytest.fixture(scope="session")
def segmentation_run(data_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A finished run that is only read."""
    run = Run(tmp_path_factory.mktemp("runs") / "easy" / "first")
    write_run(run, recipe(data_folder), whole_history(), ENVIRONMENT)
    folder = ListDataset.open(data_folder)
    class_set = folder.class_set(3)
    torch.manual_seed(2)
    model = create_model("drn_a_18", "segmentation", len(class_set), width=0.0625)
    save_weights(run.best, model, to_metadata(model, folder.statistics(), class_set))
    predictor = load_predictor(run.best, torch.device("cpu"))
    scores = evaluate(predictor, folder.samples("val"), Group(0, 1, torch.device("cpu")))
    assert scores is not None
    run.scores.write_text(json.dumps({"step": 30, "epoch": 3} | scores.to_json(class_set)))
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
    run = Run(tmp_path_factory.mktemp("runs") / "birds" / "first")
    lines = [train_line(10), val_line(1, top1=0.25, top5=0.75, seconds=1.0), train_line(20)]
    settings: dict[str, Any] = recipe(birds) | {"task": "classification", "eval": {"resize": 40}}
    write_run(run, settings, lines, ENVIRONMENT)
    scores = {"epoch": 1, "top1": 0.25, "top5": 0.75, "images": 6}
    run.scores.write_text(json.dumps(scores | {"images_worst_first": [5, 3, 4, 2, 1, 0]}))
    folder = FolderDataset.open(birds)
    torch.manual_seed(2)
    model = create_model("drn_a_18", "classification", len(folder.names), width=0.0625)
    class_set = ClassSet(folder.names, generic(len(folder.names)).colours)
    save_weights(run.best, model, to_metadata(model, folder.statistics(), class_set))
    return run

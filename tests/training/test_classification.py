"""Training of classifiers."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from training_runs import ALONE, assert_same_run, go, prepare_in, read_best

from drn_cli.data.order import SampleKey
from drn_cli.distributed.group import Group
from drn_cli.errors import DrnError
from drn_cli.recipe.loading import load_recipe
from drn_cli.runs import Run
from drn_cli.training.tasks import task_of

COLOURS = {"blue": (40, 40, 200), "green": (40, 200, 40), "red": (200, 40, 40)}


@pytest.fixture(scope="module")
def class_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three classes of colored noise, with 8 training and 3 validation images each."""
    root = tmp_path_factory.mktemp("classes")
    random = np.random.default_rng(0)
    for split, count in (("train", 8), ("val", 3)):
        for name, colour in COLOURS.items():
            (root / split / name).mkdir(parents=True)
            for number in range(count):
                noise = random.normal(0, 40, (40, 48, 3))
                image = np.clip(np.array(colour) + noise, 0, 255).astype(np.uint8)
                Image.fromarray(image).save(root / split / name / f"{number}.png")
    return root


@pytest.fixture(scope="module")
def recipe_of_classes(class_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    recipe = {
        "task": "classification",
        "model": {"arch": "drn_a_18"},
        "data": {"root": str(class_folder), "classes": 3, "workers": 0},
        "augment": {"crop": 32},
        "train": {"epochs": 2, "batch_size": 8, "lr": 0.01},
        "eval": {"resize": 36},
    }
    path = tmp_path_factory.mktemp("recipe") / "colours.yaml"
    path.write_text(yaml.safe_dump(recipe))
    return path


@pytest.fixture(scope="module")
def classified(recipe_of_classes: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    run = Run(tmp_path_factory.mktemp("classified") / "run")
    assert go(prepare_in(ALONE, recipe_of_classes, ()), run) is None
    return run


def test_learns_and_is_scored(classified, read_metrics):
    records = read_metrics(classified.folder)
    assert [record["kind"] for record in records] == ["train", "val", "train", "val", "end"]
    assert records[2]["loss"] < records[0]["loss"]
    last = records[3]
    assert last["images"] == 9
    assert last["top5"] == 1  # of three classes
    assert last["top1"] > 0.5
    best = json.loads(classified.scores.read_text())
    assert best["top1"] == max(record["top1"] for record in records if record["kind"] == "val")


def test_best_weights_have_the_class_names(classified):
    metadata, tensors = read_best(classified)
    assert metadata["task"] == "classification"
    assert json.loads(metadata["class_names"]) == ["blue", "green", "red"]
    assert tensors["head.weight"].shape[0] == 3


def test_resumes_exactly(classified, recipe_of_classes, tmp_path, read_metrics):
    run = Run(tmp_path / "run")
    go(prepare_in(ALONE, recipe_of_classes, ()), run, stop_at=2)
    assert go(prepare_in(ALONE, recipe_of_classes, ()), run, start=run.last) is None
    assert_same_run(run, classified)
    assert read_metrics(run.folder) == read_metrics(classified.folder)


def train_in_two(group: Group, path: Path, folder: Path) -> None:
    go(prepare_in(group, path, ("train.epochs=1", "train.lr=0.0001")), Run(folder))


def test_two_processes_train_the_same_as_one(spawn, recipe_of_classes, tmp_path, read_metrics):
    one, two = Run(tmp_path / "one"), Run(tmp_path / "two")
    go(prepare_in(ALONE, recipe_of_classes, ("train.epochs=1", "train.lr=0.0001")), one)
    spawn(train_in_two, 2, recipe_of_classes, two.folder)
    records = [read_metrics(run.folder) for run in (one, two)]
    assert records[0][0]["loss"] == pytest.approx(records[1][0]["loss"], rel=1e-4)
    assert records[1][1]["images"] == 9


def test_the_command_trains_classifiers(drn, recipe_of_classes):
    done = drn("train", recipe_of_classes, "train.epochs=1", "--json")
    assert done.returncode == 0, done.stderr
    keys = {"step", "epoch", "images", "loss", "top1", "top5", "images_worst_first"}
    assert set(json.loads(done.stdout)["scores"]) == keys
    assert "top-1" in done.stderr and "top-5" in done.stderr


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("data.classes=4", r"data.classes: 4, but .* has 3 classes \(set data.classes=3\)"),
        ("data.root=nowhere", "nowhere: no such data folder"),
    ],
)
def test_refuses_wrong_class_counts_and_folders(recipe_of_classes, override, message):
    recipe = load_recipe(str(recipe_of_classes), [override]).recipe
    with pytest.raises(DrnError, match=message):
        task_of(recipe).load_data(recipe)


def test_finds_a_broken_image_before_training(recipe_of_classes, class_folder):
    recipe = load_recipe(str(recipe_of_classes), []).recipe
    task = task_of(recipe)
    data = task.load_data(recipe)
    assert task.check_samples(data) == []
    image = class_folder / "val" / "red" / "2.png"
    whole = image.read_bytes()
    try:
        image.write_bytes(whole[:100])
        with pytest.raises(DrnError, match=r"val/red/2\.png: broken image"):
            task.check_samples(data)
    finally:
        image.write_bytes(whole)


@pytest.mark.parametrize("name", ["drn_a_18_imagenet", "drn_d_105_imagenet"])
def test_imagenet_recipes_use_class_folders(name, class_folder):
    recipe = load_recipe(name, [f"data.root={class_folder}", "data.classes=3"]).recipe
    data = task_of(recipe).load_data(recipe)
    assert (len(data.train), len(data.val)) == (24, 9)
    image, target = task_of(recipe).dataset(recipe, data, verbose=True)[SampleKey(0, 0)]
    assert image.shape == (224, 224, 3)
    assert target == 0


def test_images_are_normalized_as_in_imagenet(recipe_of_classes):
    training = prepare_in(ALONE, recipe_of_classes, ())
    assert training.data.statistics.mean == (0.485, 0.456, 0.406)
    assert training.model(torch.zeros(1, 3, 32, 32)).shape == (1, 3)

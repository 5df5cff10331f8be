"""environment.json: versions, data and weights of a run."""

import json
import os
import platform
import shutil
import subprocess
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path

import pytest
import torch
import torchvision
from PIL import Image

import drn_cli
from drn_cli.environment import git_commit
from drn_cli.networks.conversion import to_original_keys
from drn_cli.recipe.loading import load_recipe
from drn_cli.runs import Run
from drn_cli.training.resuming import record_resume
from drn_cli.training.tasks import task_of


def fingerprints_of(recipe_file: Path, *overrides: str) -> dict[str, str]:
    recipe = load_recipe(str(recipe_file), overrides).recipe
    return task_of(recipe).load_data(recipe).fingerprints()


def test_the_environment_of_a_run(trained, recipe_file, data_folder):
    environment = json.loads(Run(trained.folder).environment.read_text())
    started = datetime.fromisoformat(environment.pop("started"))
    assert started.tzinfo == UTC and started < datetime.now(UTC)
    assert environment.pop("command")[1:] == ["train", str(recipe_file), "--json"]
    assert environment.pop("parameters") == 47_547
    assert environment == {
        "drn": drn_cli.__version__,
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "device": "cpu",
        "gpu_memory": None,
        "cores": len(os.sched_getaffinity(0)),
        "processes": 1,
        "precision": "fp32",
        "compiled": False,
        "job": None,
        "revision": git_commit(),
        "seed": 0,
        "data": fingerprints_of(recipe_file),
        "weights": None,
        "train_pictures": 12,
        "val_pictures": 5,
        "resumed": [],
    }


def test_fingerprints_of_lists(recipe_file, data_folder, own_data_folder):
    before = fingerprints_of(recipe_file)
    assert before == {
        name: sha256((data_folder / name).read_bytes()).hexdigest()
        for name in (
            "train_images.txt",
            "train_labels.txt",
            "val_images.txt",
            "val_labels.txt",
            "info.json",
        )
    }
    assert fingerprints_of(recipe_file, f"data.root={own_data_folder}") == before
    lines = (own_data_folder / "val_images.txt").read_text().splitlines()
    (own_data_folder / "val_images.txt").write_text("\n".join(reversed(lines)) + "\n")
    after = fingerprints_of(recipe_file, f"data.root={own_data_folder}")
    assert {name for name in after if after[name] != before[name]} == {"val_images.txt"}
    # Lists in another folder.
    elsewhere = (f"data.root={data_folder}", f"data.lists={own_data_folder}")
    assert fingerprints_of(recipe_file, *elsewhere) == after


def test_fingerprints_of_class_folders(tmp_path):
    for name in ("train/a/1", "train/b/1", "val/a/1", "val/b/1"):
        (tmp_path / name).parent.mkdir(parents=True)
        Image.new("RGB", (8, 8)).save(tmp_path / f"{name}.png")
    words = (f"data.root={tmp_path}", "data.classes=2")
    before = fingerprints_of(Path("drn_a_18_imagenet"), *words)
    assert before.keys() == {"train", "val"}
    (tmp_path / "train/a/1.png").rename(tmp_path / "train/a/2.png")
    after = fingerprints_of(Path("drn_a_18_imagenet"), *words)
    assert after["train"] != before["train"] and after["val"] == before["val"]


def test_resuming_is_recorded_in_the_environment(prepare, trained, tmp_path, monkeypatch):
    run = Run(tmp_path)
    shutil.copy(Run(trained.folder).environment, run.environment)
    before = json.loads(run.environment.read_text())
    monkeypatch.setattr("sys.argv", ["drn", "train", "--resume", "x"])
    training = prepare()
    record_resume(run, training, 7, {}, verified=True)
    record_resume(run, training, 9, {"train.lr": (0.1, 0.2)}, verified=False)
    after = json.loads(run.environment.read_text())
    first, second = after.pop("resumed")
    assert after | {"resumed": []} == before
    assert datetime.fromisoformat(first.pop("at")) <= datetime.fromisoformat(second.pop("at"))
    command = ["drn", "train", "--resume", "x"]
    whole = {"step": 7, "processes": 1, "verified": True, "command": command, "changes": {}}
    assert first == whole
    assert second["verified"] is False
    assert (second["step"], second["changes"]) == (9, {"train.lr": [0.1, 0.2]})


@pytest.mark.parametrize("verified", [True, False])
def test_records_initial_weights_and_their_verification(prepare, tmp_path, verified):
    training = prepare("model.width=1")
    assert training.environment()["weights"] is None
    file = tmp_path / "a.pth"
    # The older format of PyTorch has no CRC-32.
    state = to_original_keys(training.model)
    torch.save(state, file, _use_new_zipfile_serialization=verified)
    environment = prepare("model.width=1", f"model.weights={file}").environment()
    assert environment["weights"] == {"file": str(file), "verified": verified}


def test_resuming_restores_a_missing_environment(prepare, tmp_path):
    run, training = Run(tmp_path), prepare()
    record_resume(run, training, 7, {}, verified=True)
    environment = json.loads(run.environment.read_text())
    assert [resumption["step"] for resumption in environment["resumed"]] == [7]
    assert environment.keys() == training.environment().keys()


def test_git_commit_of_the_checkout(tmp_path):
    assert git_commit(tmp_path) is None
    git = ["git", "-C", str(tmp_path), "-c", "user.name=x", "-c", "user.email=x@example.org"]
    if shutil.which("git") is None:
        pytest.skip("no git here")
    subprocess.run([*git, "init", "--quiet"], check=True)
    assert git_commit(tmp_path) is None  # without a commit yet
    subprocess.run([*git, "commit", "--quiet", "--allow-empty", "-m", "x"], check=True)
    head = (tmp_path / ".git" / "HEAD").read_text().removeprefix("ref: ").strip()
    assert git_commit(tmp_path) == (tmp_path / ".git" / head).read_text().strip()

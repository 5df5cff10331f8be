"""`drn models import`: the tensors that it writes, and special cases of its input."""

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open

from drn_cli.networks import create_model
from drn_cli.networks.checkpoints import save_weights
from drn_cli.networks.conversion import to_original_keys
from drn_cli.networks.published import published
from drn_cli.networks.weights import load_weights


@pytest.fixture
def imported(drn_here, tmp_path: Path):
    """Import `x.pth`, or another file, and return the JSON document or the error."""

    def run(*words: str, file: str = "x.pth") -> Any:
        code, stdout, stderr = drn_here("models", "import", file, *words, "--json")
        return stderr if code else json.loads(stdout)

    return run


def metadata(path: str) -> dict[str, str]:
    with safe_open(path, "pt") as opened:
        return dict(opened.metadata())


@pytest.mark.parametrize("task", ["classification", "segmentation"])
def test_imports_files_of_the_original(imported, tmp_path, task) -> None:
    model = create_model("drn_d_22", task, 6)
    state = {f"module.{key}": value for key, value in to_original_keys(model).items()}
    file = tmp_path / "old.pth.tar"
    torch.save({"epoch": 3, "arch": "drn_d_22", "state_dict": state, "best_prec1": 50.0}, file)
    found = imported(file="old.pth.tar")
    made = tmp_path / ".cache" / "weights" / "old.safetensors"
    assert found == {
        "format": "original" if task == "classification" else "original segmentation",
        "arch": "drn_d_22",
        "task": task,
        "classes": 6,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "out": str(made),
        "sha256": hashlib.sha256(made.read_bytes()).hexdigest(),
        "verified": True,
    }
    facts = {"format": "drn", "task": task, "classes": "6", "source": "old.pth.tar"}
    assert facts.items() <= metadata(found["out"]).items()
    again = create_model("drn_d_22", task, 6)
    assert not load_weights(again, made).new_head
    state = model.state_dict()
    assert all(torch.equal(value, state[key]) for key, value in again.state_dict().items())


def test_recognizes_resnet_weights_after_import_and_export(imported, drn_here, tmp_path):
    """By the name of the imported file, which the metadata keep."""
    file = published("drn_a_18", "imagenet")[0].name
    torch.save(to_original_keys(create_model("drn_a_18", "classification", 1000)), tmp_path / file)
    imported("--task", "classification", "--out", "a.safetensors", file=file)
    exported = drn_here(
        "export", "a.safetensors", "--format", "safetensors", "--out", "b.safetensors"
    )
    assert exported[0] == 0, exported
    Image.fromarray(np.zeros((64, 64, 3), np.uint8)).save(tmp_path / "x.png")
    for one in ("a.safetensors", "b.safetensors"):
        _, _, stderr = drn_here("predict", "x.png", "--weights", one)
        assert "these are ResNet weights for initializing drn_a_18" in stderr


def test_b_26_needs_the_option_arch(imported, tmp_path: Path) -> None:
    torch.save(to_original_keys(create_model("drn_b_26", "segmentation", 6)), tmp_path / "x.pth")
    assert imported()["arch"] == "drn_c_26"
    found = imported("--arch", "drn-b-26", "--force")
    assert found["arch"] == "drn_b_26"
    load_weights(create_model("drn_b_26", "segmentation", 6), found["out"])
    wrong = imported("--arch", "drn_d_22", "--force")
    assert "contains drn_c_26 or drn_b_26, not drn_d_22" in wrong


def test_a_file_without_task_needs_the_option(imported, tmp_path: Path) -> None:
    state = create_model("drn_d_22", "segmentation", 6).state_dict()
    torch.save({"model": state}, tmp_path / "x.pth")
    assert "the task is not stated -> add --task" in imported()
    assert imported("--task", "segmentation")["task"] == "segmentation"


def test_keeps_the_metadata_of_own_files(imported, tmp_path: Path) -> None:
    model = create_model("drn_d_22", "segmentation", 2)
    save_weights(tmp_path / "best.safetensors", model, {"class_names": '["a", "b"]'})
    found = imported(file="best.safetensors")
    assert metadata(found["out"])["class_names"] == '["a", "b"]'


@pytest.mark.parametrize(
    ("flaw", "message"),
    [
        ("not finite", "x.pth: the outputs are NaN or infinite -> the weights are broken"),
        ("no head", "x.pth: a backbone without head: nothing to convert"),
    ],
)
def test_refuses_unusable_weights(imported, tmp_path, flaw, message) -> None:
    tensors = to_original_keys(create_model("drn_d_22"))
    if flaw == "no head":
        tensors = {key: value for key, value in tensors.items() if not key.startswith("fc.")}
    else:
        tensors["layer5.0.bn1.weight"][3] = float("nan")
    torch.save(tensors, tmp_path / "x.pth")
    assert message in imported()
    assert not (tmp_path / ".cache").exists()

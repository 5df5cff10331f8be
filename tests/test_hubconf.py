"""`torch.hub.load` from a checkout."""

import importlib.util
import re
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import torch
from exported_networks import Exports

import drn_cli
from drn_cli.networks.models import DRN

ROOT = Path(__file__).parents[1]


def load(name: str, **options: Any) -> DRN:
    return torch.hub.load(str(ROOT), name, source="local", **options)


@pytest.fixture
def untouched(monkeypatch: pytest.MonkeyPatch) -> None:
    """Undo torch.hub's changes of sys.path and sys.modules."""
    monkeypatch.setattr(sys, "path", list(sys.path))


pytestmark = pytest.mark.usefixtures("untouched")


@pytest.fixture(scope="module")
def hubconf() -> Any:
    spec = importlib.util.spec_from_file_location("hubconf", ROOT / "hubconf.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_architecture_has_an_entry_point_with_help(hubconf: Any) -> None:
    """As `torch.hub.list` and `torch.hub.help` print them."""
    entries = {name: value for name, value in vars(hubconf).items() if callable(value)}
    public = [name for name in entries if not name.startswith("_")]
    assert sorted(public) == sorted(drn_cli.list_models())
    for name in public:
        assert f"Build {name}." in entries[name].__doc__
        assert "weights" in entries[name].__doc__


def test_both_tasks() -> None:
    classifier = load("drn_d_22")
    assert (classifier.arch, classifier.task, classifier.classes) == (
        "drn_d_22",
        "classification",
        1000,
    )
    segmenter = load("drn_c_26", task="segmentation", classes=5).eval()
    assert (segmenter.arch, segmenter.task) == ("drn_c_26", "segmentation")
    with torch.inference_mode():
        assert segmenter(torch.zeros(1, 3, 17, 23)).shape == (1, 5, 17, 23)


@pytest.fixture(scope="session")
def exports(tmp_path_factory: pytest.TempPathFactory) -> Exports:
    return Exports(tmp_path_factory)


def test_weights_of_a_file(exports: Exports) -> None:
    checkpoint = exports.run() / "checkpoints" / "best.safetensors"
    found = load("drn_a_18", task="segmentation", classes=3, weights=str(checkpoint))
    right = drn_cli.create_model("drn_a_18", "segmentation", 3, weights=str(checkpoint))
    torch.testing.assert_close(found.state_dict(), right.state_dict(), rtol=0, atol=0)


def test_dependencies_are_those_of_the_package(hubconf: Any) -> None:
    """torch.hub checks that they are installed, and names missing ones."""
    assert all(importlib.util.find_spec(name) for name in hubconf.dependencies)
    names = {"PIL": "pillow", "cv2": "opencv-python-headless", "yaml": "pyyaml"}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    needed = {re.split("[>=<]", line)[0] for line in project["dependencies"]}
    assert {names.get(name, name) for name in hubconf.dependencies} <= needed

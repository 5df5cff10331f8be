"""Weight files: those for the original code, and ours in half precision."""

import hashlib
import json
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from exported_networks import CLASS_SET, STATISTICS, Exports, lively
from torch import Tensor, nn

from drn_cli.export.weights import write_original, write_safetensors
from drn_cli.inference.metadata import read_channel_stats, read_class_set
from drn_cli.inference.opening import read_network
from drn_cli.networks import create_model
from drn_cli.networks.catalog import Task

GOLDEN = json.loads((Path(__file__).parents[1] / "networks" / "golden.json").read_text())
TASKS = ["segmentation", "classification"]
CLASSES = {"segmentation": 19, "classification": 1000}


def digest(tensors: dict[str, Tensor]) -> dict[str, Any]:
    """Return a digest of keys and shapes, computed as for the original code."""
    lines = sorted(f"{key}:{list(value.shape)}" for key, value in tensors.items())
    return {"count": len(lines), "sha256": hashlib.sha256("\n".join(lines).encode()).hexdigest()}


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("arch", ["drn_a_18", "drn_c_58", "drn_d_22"])
def test_has_keys_and_shapes_of_the_original(tmp_path: Path, arch: str, task: Task) -> None:
    model = create_model(arch, task, CLASSES[task])
    write_original(tmp_path / "a.pth", model, {"arch": arch}, half=False)
    assert not zipfile.is_zipfile(tmp_path / "a.pth")  # which PyTorch before 1.4 cannot read
    state = torch.load(tmp_path / "a.pth", weights_only=True)
    assert digest(state) == GOLDEN[arch][task]["keys"]
    assert all(type(value) is Tensor and value.dtype == torch.float32 for value in state.values())


@pytest.mark.parametrize("task", TASKS)
def test_can_be_read_back(exports: Exports, task: Task) -> None:
    file = exports(task, format="fyu")
    found = read_network(file)
    right = lively(task)
    assert (found.arch, found.task, found.classes) == ("drn_a_18", task, 3)
    counters = {key for key in right.state_dict() if key.endswith("num_batches_tracked")}
    for key, value in right.state_dict().items():
        assert key in counters or torch.equal(found.model.state_dict()[key], value)
    assert read_class_set(found.metadata) == CLASS_SET
    assert read_channel_stats(found.metadata, STATISTICS) == STATISTICS
    assert json.loads(found.metadata["provenance"])["recipe"]["train"]["epochs"] == 7


def test_metadata_do_not_break_strict_loading(exports: Exports) -> None:
    state = torch.load(exports("classification", format="fyu"), weights_only=True)
    theirs = torchvision.models.resnet18(num_classes=3)
    loaded = theirs.load_state_dict(state, strict=True)
    assert (loaded.missing_keys, loaded.unexpected_keys) == ([], [])
    assert torch.equal(theirs.fc.weight, lively("classification").head.weight.flatten(1))
    assert torch.equal(theirs.bn1.running_var, state["bn1.running_var"])
    copied = nn.DataParallel(torchvision.models.resnet18(num_classes=3))
    copied.load_state_dict({f"module.{key}": value for key, value in state.items()})


@pytest.mark.parametrize("format_", ["fyu", "safetensors"])
def test_half_precision_halves_the_file_and_loads_as_float32(tmp_path: Path, format_: str) -> None:
    model = lively("segmentation", "drn_d_22")
    write: Any = write_original if format_ == "fyu" else write_safetensors
    strings = {"format": "drn", "arch": "drn_d_22", "task": "segmentation", "classes": "3"}
    for half in (False, True):
        write(tmp_path / f"{half}", model, strings, half=half)
    sizes = [(tmp_path / f"{half}").stat().st_size for half in (False, True)]
    assert sizes[1] / sizes[0] == pytest.approx(0.5, abs=0.01)
    found = read_network(tmp_path / "True").model
    for key, value in model.state_dict().items():
        given = found.state_dict()[key]
        assert given.dtype == value.dtype
        if value.is_floating_point():
            assert torch.equal(given, value.half().float())

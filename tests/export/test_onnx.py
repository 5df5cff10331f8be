"""ONNX files, used without drn."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from exported_networks import STATISTICS, Exports, expected, noise, normal, places
from torch import nn

from drn_cli.export.onnx import write_onnx
from drn_cli.networks.catalog import Task

CPU = ["CPUExecutionProvider"]
TASKS = ["segmentation", "classification"]


def session(exports: Exports, task: Task = "segmentation", **options: Any) -> Any:
    file = exports(task, format="onnx", **options)
    return onnxruntime.InferenceSession(file, providers=CPU)


def axes(values: Any) -> dict[str, list[int | str]]:
    return {
        one.name: [axis.dim_param or axis.dim_value for axis in one.type.tensor_type.shape.dim]
        for one in values
    }


@pytest.mark.parametrize("task", TASKS)
def test_is_valid_and_names_the_dynamic_axes(exports: Exports, task: Task) -> None:
    file = exports(task, format="onnx")
    model = onnx.load(file)
    onnx.checker.check_model(model, full_check=True)
    assert [(one.domain, one.version) for one in model.opset_import] == [("", 18)]
    assert {path.suffix for path in file.parent.iterdir()} == {".onnx", ".json"}  # weights inside
    assert axes(model.graph.input) == {"images": ["batch", 3, "height", "width"]}
    found = axes(model.graph.output)
    if task == "segmentation":
        assert found["logits"] == ["batch", 3, "height", "width"]
    else:
        assert found["logits"] == ["batch", 3]
    assert list(found) == ["logits", "scores"]
    assert found["scores"][:2] == ["batch", 3]
    kinds = {one.type.tensor_type.elem_type for one in (*model.graph.input, *model.graph.output)}
    assert kinds == {onnx.TensorProto.FLOAT}


@pytest.mark.parametrize("task", TASKS)
def test_has_metadata_without_paths(exports: Exports, task: Task) -> None:
    file = exports(task, format="onnx")
    metadata = {entry.key: entry.value for entry in onnx.load(file).metadata_props}
    assert (metadata["arch"], metadata["task"], metadata["classes"]) == ("drn_a_18", task, "3")
    assert json.loads(metadata["class_names"]) == ["red", "green", "blue"]
    assert json.loads(metadata["mean"]) == list(STATISTICS.mean)
    assert metadata["licence"] == "not stated"
    assert json.loads(metadata["provenance"])["recipe"]["train"]["epochs"] == 7
    assert places(file) == []


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("shape", [(3, 33, 47), (1, 1, 1), (2, 7, 90)])
def test_outputs_agree_with_pytorch(
    exports: Exports, task: Task, shape: tuple[int, int, int]
) -> None:
    pixels = np.stack([noise(*shape[1:], seed) for seed in range(shape[0])])
    found = session(exports, task).run(["logits", "scores"], {"images": normal(pixels)})
    for given, right in zip(found, expected(task, pixels), strict=True):
        assert given.shape == right.shape
        assert np.abs(given - right).max() < 1e-4


def test_index_maps_of_pixels(exports: Exports) -> None:
    ready = session(exports, argmax=True, normalize=True)
    pixels = np.stack([noise(48, 64, seed) for seed in (4, 5)])
    [classes] = ready.run(None, {"images": pixels.transpose(0, 3, 1, 2)})
    assert (classes.dtype, classes.shape) == (np.uint8, (2, 48, 64))
    assert (classes == expected("segmentation", pixels)[0].argmax(1)).mean() > 0.999
    assert set(np.unique(classes)) == {0, 1, 2}
    metadata = ready.get_modelmeta().custom_metadata_map
    assert (metadata["input"], metadata["outputs"]) == ("uint8", "classes")
    assert [one.name for one in ready.get_outputs()] == ["classes"]


def test_fixed_size(tmp_path: Path) -> None:
    layer = nn.Conv2d(3, 5, 3, padding=1)
    x, free = torch.zeros(2, 3, 24, 40), ({0: torch.export.Dim.DYNAMIC},)
    program = torch.export.export(layer, (x,), dynamic_shapes=free)
    write_onnx(tmp_path / "a.onnx", program, ["logits"], {"arch": "x"})
    model = onnx.load(tmp_path / "a.onnx")
    onnx.checker.check_model(model, full_check=True)
    assert axes(model.graph.input) == {"images": ["batch", 3, 24, 40]}
    assert axes(model.graph.output) == {"logits": ["batch", 5, 24, 40]}

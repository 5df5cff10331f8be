"""OpenVINO files, used without drn."""

import json
from pathlib import Path

import numpy as np
import openvino
import pytest
import torch
from exported_networks import Exports, expected, noise, normal, places
from torch import nn

from drn_cli.export.openvino import write_openvino
from drn_cli.inference.runtimes import open_exported
from drn_cli.networks.catalog import Task

METADATA = {"arch": "drn_a_18", "task": "segmentation", "classes": "3", "input": "normalised"}
METADATA |= {"outputs": "logits"}
TASKS = ["segmentation", "classification"]
EXACT = {"INFERENCE_PRECISION_HINT": "f32"}


@pytest.mark.parametrize("task", TASKS)
def test_outputs_agree_with_pytorch_at_any_size(exports: Exports, task: Task) -> None:
    ready = openvino.Core().compile_model(exports(task, format="openvino"), "CPU", EXACT)
    assert [one.any_name for one in ready.inputs] == ["images"]
    assert [one.any_name for one in ready.outputs] == ["logits", "scores"]
    for count, height, width in ((3, 33, 47), (1, 1, 1)):
        pixels = np.stack([noise(height, width, seed) for seed in range(count)])
        found = ready({"images": normal(pixels)})
        for name, right in zip(("logits", "scores"), expected(task, pixels), strict=True):
            assert found[name].shape == right.shape
            assert np.abs(found[name] - right).max() < 1e-4


@pytest.mark.parametrize("task", TASKS)
def test_has_metadata_without_paths(exports: Exports, task: Task) -> None:
    file = exports(task, format="openvino")
    metadata = json.loads(openvino.Core().read_model(file).get_rt_info(["drn"]).value)
    assert (metadata["arch"], metadata["task"], metadata["outputs"]) == (
        "drn_a_18",
        task,
        "logits,scores",
    )
    assert places(file) == []


def test_half_precision_halves_the_weights(tmp_path: Path) -> None:
    layer = nn.Conv2d(64, 200, 3)
    program = torch.export.export(layer, (torch.zeros(1, 64, 8, 8),))
    for half in (False, True):
        file = tmp_path / f"{half}.xml"
        write_openvino(file, program, ["logits"], METADATA, half=half, calibration=[])
        size = file.with_suffix(".bin").stat().st_size
        assert size == pytest.approx((2 if half else 4) * layer.weight.numel(), rel=0.01)
        assert open_exported(file, quiet=True).metadata == METADATA

"""torch.export programs, used without drn."""

import json
import zipfile

import numpy as np
import pytest
import torch
from exported_networks import (
    FIXED,
    STATISTICS,
    Exports,
    expected,
    lively,
    noise,
    normal,
    places,
)

from drn_cli.export.form import ExportConfig
from drn_cli.export.program import Deployed, trace
from drn_cli.networks.catalog import Task

TASKS = ["segmentation", "classification"]


@pytest.mark.parametrize("task", TASKS)
def test_outputs_agree_with_pytorch_at_any_size(exports: Exports, task: Task) -> None:
    program = torch.export.load(exports(task, format="pt2")).module()
    for count, height, width in ((3, 33, 47), (1, 90, 17)):
        pixels = np.stack([noise(height, width, seed) for seed in range(count)])
        found = program(torch.from_numpy(normal(pixels)))
        for given, right in zip(found, expected(task, pixels), strict=True):
            assert given.shape == right.shape
            assert np.abs(given.numpy() - right).max() < 1e-4


@pytest.mark.parametrize("task", TASKS)
def test_has_metadata_without_paths(exports: Exports, task: Task) -> None:
    file = exports(task, format="pt2")
    files = {"drn.json": ""}
    torch.export.load(file, extra_files=files)
    metadata = json.loads(files["drn.json"])
    assert (metadata["arch"], metadata["task"], metadata["input"]) == (
        "drn_a_18",
        task,
        "normalised",
    )
    assert places(file) == []
    with zipfile.ZipFile(file) as archive:  # so that the search above covers all bytes
        assert {member.compress_type for member in archive.infolist()} == {zipfile.ZIP_STORED}


def test_a_fixed_size_has_a_dynamic_batch(exports: Exports) -> None:
    program = torch.export.load(exports(format="pt2", size=FIXED)).module()
    assert program(torch.zeros(5, 3, *FIXED))[0].shape == (5, 3, *FIXED)
    with pytest.raises(RuntimeError, match="equal to 64, but got 72"):
        program(torch.zeros(1, 3, 48, 72))


@pytest.mark.parametrize(
    ("classes", "kind"), [(3, torch.uint8), (256, torch.uint8), (257, torch.int32)]
)
def test_type_of_index_maps(classes: int, kind: torch.dtype) -> None:
    model = lively("segmentation", classes=classes)
    config = ExportConfig(format="pt2", argmax=True, normalize=True)
    x = torch.from_numpy(noise(20, 30)).permute(2, 0, 1)[None]
    with torch.inference_mode():
        [found] = Deployed(model, STATISTICS, config)(x)
        right = model(torch.from_numpy(normal(noise(20, 30)[None]))).argmax(1)
    assert (found.dtype, found.shape) == (kind, (1, 20, 30))
    assert (found == right).float().mean() > 0.999


def test_half_precision_has_float32_inputs_and_outputs() -> None:
    model = lively("segmentation", "drn_d_22")
    program = trace(model, STATISTICS, ExportConfig(format="pt2", precision="float16"))
    kinds = {name: value.dtype for name, value in program.state_dict.items()}
    assert {kind for name, kind in kinds.items() if name.startswith("network.")} == {torch.float16}
    x = torch.from_numpy(normal(noise(33, 47)[None]))
    with torch.inference_mode():
        logits, scores = program.module()(x)
        right = model(x)
    assert logits.dtype == scores.dtype == torch.float32
    assert 0 < (logits - right).abs().max() < 0.02 * right.abs().max()
    assert all(value.dtype == torch.float32 for value in model.state_dict().values() if value.dim())

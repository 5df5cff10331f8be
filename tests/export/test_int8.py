"""Exports in int8 and float16, and calibration."""

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import openvino
import pytest
import torch
from exported_networks import STATISTICS, noise, normal

from drn_cli.data.images import read_image
from drn_cli.errors import DrnError
from drn_cli.export import parity
from drn_cli.export.exporting import export
from drn_cli.export.form import ExportConfig
from drn_cli.export.int8 import calibration_inputs, quantize_onnx
from drn_cli.inference.loading import load_predictor
from drn_cli.inference.source import find_source

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("config", "shape", "kind"),
    [
        ({}, (1, 3, 20, 30), np.float32),
        ({"normalize": True}, (1, 3, 20, 30), np.uint8),
        ({"size": (16, 24)}, (1, 3, 16, 24), np.float32),
    ],
)
def test_calibration_inputs(config: dict[str, Any], shape: tuple[int, ...], kind: Any) -> None:
    [found] = calibration_inputs([noise(20, 30)], STATISTICS, ExportConfig(format="onnx", **config))
    assert (found.shape, found.dtype) == (shape, kind)
    if "normalize" in config:
        assert np.array_equal(found[0].transpose(1, 2, 0), noise(20, 30))
    elif not config:
        assert np.allclose(found, normal(noise(20, 30)[None]), atol=1e-5)


class Unreadable(list[Any]):
    """Inputs that fail without an error message."""

    def __getitem__(self, _: object) -> Any:
        raise ValueError


PIXELS = noise(8, 8).transpose(2, 0, 1)[None] / np.float32(255)
CHECKPOINT = "the network computes NaN or infinity for an image: check the checkpoint"
OTHERS = (
    "if the network computes NaN or infinity, check the checkpoint; otherwise use other images "
    "for --calibration, or another precision or format"
)


@pytest.mark.parametrize(
    ("inputs", "problem", "hint"),
    [
        (
            [PIXELS * np.float32("nan")],
            "autodetected range of [nan, nan] is not finite",
            CHECKPOINT,
        ),
        (
            [PIXELS * np.float32("inf")],
            "autodetected range of [nan, nan] is not finite",
            CHECKPOINT,
        ),
        ([PIXELS, PIXELS * np.float32("inf")], "Maximum allowed size exceeded", OTHERS),
        ([PIXELS, PIXELS * np.float32(1e30)], "Maximum allowed size exceeded", OTHERS),
        ([PIXELS * np.float32(1e-42)], "Too many bins for data range. Cannot create", OTHERS),
        (Unreadable(), "ValueError", OTHERS),
    ],
)
def test_explains_a_failed_calibration(
    inputs: list[Any], problem: str, hint: str, tmp_path: Path
) -> None:
    names = ["images", *(f"x{number}" for number in range(6))]
    nodes = [
        onnx.helper.make_node("Conv", [before, "w"], [after], name=f"to {after}")
        for before, after in pairwise(names)
    ]
    ends = [
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1, 3, 8, 8])
        for name in (names[0], names[-1])
    ]
    weights = onnx.numpy_helper.from_array(np.eye(3, dtype=np.float32)[..., None, None], "w")
    graph = onnx.helper.make_graph(nodes, "net", ends[:1], ends[1:], [weights])
    opsets = [onnx.helper.make_opsetid("", 18)]
    onnx.save(
        onnx.helper.make_model(graph, opset_imports=opsets, ir_version=10), tmp_path / "a.onnx"
    )
    with pytest.raises(DrnError) as caught:
        quantize_onnx(tmp_path / "a.onnx", inputs)
    assert str(caught.value).startswith(f"--int8: calibration failed: {problem}")
    assert caught.value.hint == hint


def assert_agrees_with_its_run(weights: Path, run: Path, data: Path, least: float) -> None:
    exported, right = (load_predictor(find_source(one).checkpoint, CPU) for one in (weights, run))
    names = (data / "val_images.txt").read_text().split()
    images = [read_image(data / name) for name in names]
    same = [(exported(image) == right(image)).float().mean() for image in images]
    assert float(torch.stack(same).mean()) > least


@pytest.fixture
def lenient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lower the limits for networks that were trained for seconds only."""
    monkeypatch.setattr(parity, "AGREEMENT", {"int8": 0.9, "float16": 0.99})


@pytest.mark.slow
def test_onnx_int8(
    trained: Any,
    data_folder: Path,
    tmp_path: Path,
    lenient: None,
    capfd: pytest.CaptureFixture[str],
) -> None:
    form = ExportConfig(format="onnx", precision="int8", size=(48, 64))
    done = export(find_source(trained.folder), form, tmp_path / "a.onnx")
    assert capfd.readouterr().out == ""  # where --json prints
    assert done.parity.to_json()["allowed"] == {"difference": None, "agreement": 0.9}
    assert done.parity.comparisons[0].inputs == "val images of the run"
    file = done.files[-1]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.onnx", "a.onnx.parity.json"]
    assert file.stat().st_size < 0.45 * 44e6
    model = onnx.load(file)
    onnx.checker.check_model(model, full_check=True)
    names = {entry.key: entry.value for entry in model.metadata_props}
    assert (names["arch"], names["precision"]) == ("drn_a_18", "int8")
    assert str(tmp_path).encode() not in file.read_bytes()
    producers = {node.output[0]: node.op_type for node in model.graph.node}
    convolutions = [node for node in model.graph.node if node.op_type == "Conv"]
    inside = [producers.get(node.input[1]) == "DequantizeLinear" for node in convolutions]
    assert inside == [False] * 3 + [True] * (len(inside) - 5) + [False] * 2
    assert_agrees_with_its_run(file, trained.folder, data_folder, 0.95)


@pytest.mark.slow
def test_openvino_int8(
    trained: Any,
    data_folder: Path,
    tmp_path: Path,
    lenient: None,
    capfd: pytest.CaptureFixture[str],
) -> None:
    form = ExportConfig(format="openvino", precision="int8", size=(48, 64))
    source = find_source(trained.folder)
    done = export(source, form, tmp_path / "a.xml", calibration=[str(data_folder / "images")])
    assert capfd.readouterr().out == ""
    assert done.parity.precision == "int8"
    model = openvino.Core().read_model(tmp_path / "a.xml")
    assert any(op.get_type_name() == "FakeQuantize" for op in model.get_ops())
    assert (tmp_path / "a.bin").stat().st_size < 0.45 * 44e6
    assert_agrees_with_its_run(tmp_path / "a.xml", trained.folder, data_folder, 0.95)


@pytest.mark.slow
def test_onnx_float16(trained: Any, data_folder: Path, tmp_path: Path, lenient: None) -> None:
    form = ExportConfig(format="onnx", precision="float16", size=(48, 64))
    file = export(find_source(trained.folder), form, tmp_path / "a.onnx").files[-1]
    assert file.stat().st_size < 0.52 * 44.8e6
    assert_agrees_with_its_run(file, trained.folder, data_folder, 0.99)

"""Options that a format supports."""

from typing import Any

import pytest

from drn_cli.errors import DrnError
from drn_cli.export.form import ENDINGS, ExportConfig
from drn_cli.networks.catalog import ARCHITECTURES


@pytest.mark.parametrize(
    ("config", "task", "message"),
    [
        ({"format": "fyu", "argmax": True}, "segmentation", "--argmax: not supported by fyu"),
        ({"format": "fyu", "normalize": True}, "segmentation", "--normalize: not supported by fyu"),
        ({"format": "safetensors", "size": (8, 8)}, "segmentation", "--size: not supported by saf"),
        ({"format": "pt2", "precision": "int8"}, "segmentation", "--int8: not supported by pt2"),
        ({"format": "fyu", "precision": "int8"}, "segmentation", "--int8: not supported by fyu"),
        ({"format": "onnx", "argmax": True}, "classification", "--argmax: only for segmentation"),
    ],
)
def test_rejects_unsupported_options(config: dict[str, Any], task: Any, message: str) -> None:
    with pytest.raises(DrnError, match=message):
        ExportConfig(**config).check(ARCHITECTURES["drn_d_22"], task)


@pytest.mark.parametrize("format_", ["onnx", "pt2", "openvino"])
def test_formats_with_a_graph_support_all_options(format_: Any) -> None:
    options = {"format": format_, "normalize": True, "size": (8, 9), "precision": "float16"}
    ExportConfig(**options, argmax=True).check(ARCHITECTURES["drn_d_22"], "segmentation")
    ExportConfig(**options).check(ARCHITECTURES["drn_d_22"], "classification")


def test_outputs_are_scores_or_classes() -> None:
    assert ExportConfig(format="onnx").outputs == ["logits", "scores"]
    assert ExportConfig(format="onnx", argmax=True).outputs == ["classes"]


def test_endings_of_formats_differ() -> None:
    assert len(set(ENDINGS.values())) == len(ENDINGS) == 5

"""What can be asked of a format, and what cannot."""

from typing import Any

import pytest

from drn_cli.errors import DrnError
from drn_cli.export.form import ENDINGS, ExportConfig


@pytest.mark.parametrize(
    ("form", "task", "message"),
    [
        ({"format": "fyu", "argmax": True}, "segmentation", "--argmax: a file of weights has no"),
        ({"format": "fyu", "normalize": True}, "segmentation", "--normalize: a file of weights"),
        ({"format": "safetensors", "size": (8, 8)}, "segmentation", "--size: a file of weights"),
        ({"format": "pt2", "precision": "int8"}, "segmentation", "--int8: .* not for pt2"),
        ({"format": "fyu", "precision": "int8"}, "segmentation", "--int8: .* not for fyu"),
        ({"format": "onnx", "argmax": True}, "classification", "--argmax: is for segmenters"),
    ],
)
def test_what_means_nothing_is_refused(form: dict[str, Any], task: Any, message: str) -> None:
    with pytest.raises(DrnError, match=message):
        ExportConfig(**form).check(task)


@pytest.mark.parametrize("format_", ["onnx", "pt2", "openvino"])
def test_a_computation_can_have_it_all(format_: Any) -> None:
    whole = {"format": format_, "normalize": True, "size": (8, 9), "precision": "float16"}
    ExportConfig(**whole, argmax=True).check("segmentation")
    ExportConfig(**whole).check("classification")


def test_outputs_are_scores_or_classes() -> None:
    assert ExportConfig(format="onnx").outputs == ["logits", "scores"]
    assert ExportConfig(format="onnx", argmax=True).outputs == ["classes"]


def test_files_can_be_told_apart_by_their_endings() -> None:
    assert len(set(ENDINGS.values())) == len(ENDINGS) == 5

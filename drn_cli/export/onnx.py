"""ONNX files, written by PyTorch's dynamo exporter."""

import logging
import re
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from drn_cli.inference.runtimes import INPUT, require_package

OPSET = 18
AXES = ("batch", None, "height", "width")


def write_onnx(
    path: Path,
    program: torch.export.ExportedProgram,
    outputs: Sequence[str],
    metadata: Mapping[str, str],
) -> None:
    """Write an exported program as ONNX.

    Args:
        path: The file.
        program: The exported program.
        outputs: Names of its outputs.
        metadata: Metadata of the file.

    Raises:
        DrnError: onnx or onnxscript is not installed.
    """
    for package in ("onnx", "onnxscript"):
        require_package(package, "onnx", "--format onnx")
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about PyTorch's own code
        exported = torch.onnx.export(
            program,
            (),
            dynamo=True,
            input_names=[INPUT],
            output_names=list(outputs),
            opset_version=OPSET,
            verbose=False,
        )
    assert exported is not None
    _clean(exported.model)
    exported.model.metadata_props.update(metadata)
    exported.save(path, external_data=False)


def _clean(model: Any) -> None:
    """Name the dynamic axes, and remove the source locations of nodes."""
    axes = dict(zip(map(str, model.graph.inputs[0].shape), AXES, strict=True))
    names = {symbol: name for symbol, name in axes.items() if name and not symbol.isdigit()}
    for node in model.graph:
        node.metadata_props.clear()
    values = [*model.graph.inputs, *(value for node in model.graph for value in node.outputs)]
    for value in values:
        if names and value.shape is not None:
            for axis, size in enumerate(value.shape):
                if not isinstance(size, int):
                    pattern = r"\b(" + "|".join(names) + r")\b"
                    value.shape[axis] = re.sub(pattern, lambda m: names[m[0]], str(size))

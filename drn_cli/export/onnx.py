"""ONNX files, by way of PyTorch's dynamo exporter."""

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
    told: Mapping[str, str],
) -> None:
    """Write a program as ONNX.

    Args:
        path: The file.
        program: What was traced.
        outputs: Names of its outputs.
        told: Strings for the file's metadata.

    Raises:
        DrnError: What writes ONNX is not installed.
    """
    for package in ("onnx", "onnxscript"):
        require_package(package, "onnx", "--format onnx")
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of PyTorch, about itself
        made = torch.onnx.export(
            program,
            (),
            dynamo=True,
            input_names=[INPUT],
            output_names=list(outputs),
            opset_version=OPSET,
            verbose=False,
        )
    assert made is not None
    _clean(made.model)
    made.model.metadata_props.update(told)
    made.save(path, external_data=False)


def _clean(model: Any) -> None:
    """Call free axes by their names, and drop where in our code each node comes from."""
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

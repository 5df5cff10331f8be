"""OpenVINO files: an .xml with the graph and a .bin with the weights."""

import json
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from drn_cli.errors import DrnError
from drn_cli.export.int8 import Input, quantize_openvino
from drn_cli.inference.runtimes import INPUT, METADATA_KEY, require_package


def write_openvino(
    path: Path,
    program: torch.export.ExportedProgram,
    outputs: Sequence[str],
    metadata: Mapping[str, str],
    *,
    half: bool,
    calibration: Sequence[Input],
) -> None:
    """Write an exported program for OpenVINO.

    Args:
        path: The .xml; the .bin is written beside it.
        program: The exported program.
        outputs: Names of its outputs.
        metadata: Metadata of the file.
        half: Whether the weights are stored in 16 bits. OpenVINO chooses the type of computation.
        calibration: Inputs for int8 calibration; empty for floats.

    Raises:
        DrnError: OpenVINO is not installed.
    """
    openvino = require_package("openvino", "openvino", "--format openvino")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about PyTorch's own code
        model = openvino.convert_model(program)
    model.inputs[0].get_tensor().set_names({INPUT})
    for output, name in zip(model.outputs, outputs, strict=True):
        output.get_tensor().set_names({name})
    if calibration:
        model = quantize_openvino(model, calibration)
    model.set_rt_info(json.dumps(metadata), [METADATA_KEY])
    try:
        openvino.save_model(model, path, compress_to_fp16=half)
    except RuntimeError as error:  # without a reason
        raise DrnError(
            f"{path.name}: cannot be written by OpenVINO", "check that the disk is not full"
        ) from error

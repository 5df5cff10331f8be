"""OpenVINO's files: an .xml with the computation and a .bin with the weights."""

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
    told: Mapping[str, str],
    *,
    half: bool,
    calibrating: Sequence[Input],
) -> None:
    """Write a program for OpenVINO.

    Args:
        path: The .xml; the .bin of the same name lies beside it.
        program: What was traced.
        outputs: Names of its outputs.
        told: Strings for the file's metadata.
        half: Whether weights are kept in 16 bits. Computation is in the processor's own type.
        calibrating: Inputs that ranges of 8-bit whole numbers are taken from; none for floats.

    Raises:
        DrnError: OpenVINO is not installed.
    """
    openvino = require_package("openvino", "openvino", "--format openvino")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of PyTorch, about itself
        model = openvino.convert_model(program)
    model.inputs[0].get_tensor().set_names({INPUT})
    for output, name in zip(model.outputs, outputs, strict=True):
        output.get_tensor().set_names({name})
    if calibrating:
        model = quantize_openvino(model, calibrating)
    model.set_rt_info(json.dumps(told), [METADATA_KEY])
    try:
        openvino.save_model(model, path, compress_to_fp16=half)
    except RuntimeError as error:  # it does not say why
        raise DrnError(
            f"{path.name}: cannot be written by OpenVINO", "check that the disk is not full"
        ) from error

"""Static int8 quantization, calibrated on images.

The first three convolutions, which have few channels, and the last two, which decide between
classes, stay in float32. On CamVid, 99 % of the pixels kept their class, instead of 97 % with all
convolutions in int8 (docs/performance.md).
"""

import io
import logging
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from drn_cli.data.batches import normalize
from drn_cli.data.folders import ChannelStats
from drn_cli.data.images import Pixels
from drn_cli.errors import DrnError
from drn_cli.export.form import ExportConfig
from drn_cli.formatting import first_line
from drn_cli.inference.runtimes import INPUT, require_package
from drn_cli.inference.views import resize_image

FIRST, LAST = 3, 2  # convolutions that stay in float32
PERCENTILE = 99.99  # of the values, which sets their range; outliers would widen it
NOT_FINITE = "not finite"  # in NumPy's message about a histogram of NaN or infinity

Input = npt.NDArray[Any]  # input of the network, (1, 3, H, W)


def calibration_inputs(
    images: Sequence[Pixels], statistics: ChannelStats, config: ExportConfig
) -> list[Input]:
    """Convert images to inputs of the network: uint8 pixels, or normalized ones."""
    inputs = []
    for image in images:
        resized = resize_image(image, *config.size) if config.size else image
        x = torch.from_numpy(np.array(resized))[None]
        x = x.permute(0, 3, 1, 2) if config.normalize else normalize(x, statistics)
        inputs.append(x.contiguous().numpy())
    return inputs


class _Reader:
    """Calibration data reader of ONNX Runtime, which may request a part of the inputs."""

    def __init__(self, inputs: Sequence[Input]) -> None:
        self._inputs = inputs
        self.set_range(0, len(inputs))

    def __len__(self) -> int:
        return len(self._inputs)

    def set_range(self, start_index: int, end_index: int) -> None:
        self._left = iter(self._inputs[start_index:end_index])

    def get_next(self) -> dict[str, Input] | None:
        x = next(self._left, None)
        return None if x is None else {INPUT: x}


def quantize_onnx(path: Path, inputs: Sequence[Input]) -> None:
    """Quantize the convolutions of an ONNX file to int8, in place.

    Raises:
        DrnError: ONNX Runtime's quantization is not installed, or cannot determine the ranges of
            the activations, for example because some are NaN.
    """
    onnx = require_package("onnx", "onnx", "--int8")
    tools: Any = require_package("onnxruntime.quantization", "onnx", "--int8")
    shapes: Any = require_package("onnxruntime.quantization.shape_inference", "onnx", "--int8")
    metadata = {entry.key: entry.value for entry in onnx.load(path).metadata_props}
    with tempfile.TemporaryDirectory(dir=path.parent) as folder, _quiet():
        preprocessed = Path(folder) / path.name
        shapes.quant_pre_process(path, preprocessed, skip_symbolic_shape=True)
        nodes = onnx.load(preprocessed).graph.node
        names = [node.name for node in nodes if node.op_type == "Conv"]
        try:
            tools.quantize_static(
                preprocessed,
                path,
                _Reader(inputs),
                quant_format=tools.QuantFormat.QDQ,
                op_types_to_quantize=["Conv"],
                nodes_to_exclude=_float_convolutions(names),
                per_channel=True,
                weight_type=tools.QuantType.QInt8,
                activation_type=tools.QuantType.QUInt8,
                calibrate_method=tools.CalibrationMethod.Percentile,
                # One image at a time, as it keeps all activations of its inputs.
                extra_options={"CalibPercentile": PERCENTILE, "CalibStridedMinMax": 1},
            )
        except ValueError as error:
            problem = first_line(error)
            hint = (
                "if the network computes NaN or infinity, check the checkpoint; otherwise use "
                "other images for --calibration, or another precision or format"
            )
            if NOT_FINITE in problem:
                hint = "the network computes NaN or infinity for an image: check the checkpoint"
            raise DrnError(f"--int8: calibration failed: {problem}", hint) from error
    quantized = onnx.load(path)
    del quantized.metadata_props[:]
    onnx.helper.set_model_props(quantized, metadata)
    onnx.save(quantized, path)


def quantize_openvino(model: Any, inputs: Sequence[Input]) -> Any:
    """Return an OpenVINO model with convolutions in int8 and corrected biases.

    Raises:
        DrnError: nncf is not installed.
    """
    nncf: Any = require_package("nncf", "openvino-int8", "--int8")
    operations = [(op.get_type_name(), op.get_friendly_name()) for op in model.get_ordered_ops()]
    names = _float_convolutions([name for kind, name in operations if kind == "Convolution"])
    # What follows the last one stays in float32, too: int8 would convert NaN to numbers.
    last = [name for _, name in operations].index(names[-1])
    after = [name for _, name in operations[last + 1 :]]
    floats = nncf.IgnoredScope(names=names + after, validate=False)
    with _quiet():
        data = nncf.Dataset(inputs)
        return nncf.quantize(model, data, subset_size=len(inputs), ignored_scope=floats)


def _float_convolutions(names: list[str]) -> list[str]:
    return [*names[:FIRST], *names[-LAST:]]


@contextmanager
def _quiet() -> Iterator[None]:
    """Suppress the logs, warnings and prints of libraries, which would end up in --json output."""
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(action="ignore"), redirect_stdout(io.StringIO()):
            yield
    finally:
        logging.disable(logging.NOTSET)

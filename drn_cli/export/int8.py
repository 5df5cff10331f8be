"""Whole numbers of 8 bits instead of floats, their ranges taken from images.

The ends of the network stay in float32: the stem and the two convolutions after it, which have few
channels, and the last two, whose sums decide between classes. On CamVid that made 99 per cent of
the pixels the same, instead of 97 (docs/performance.md).
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
from drn_cli.inference.runtimes import INPUT, require_package
from drn_cli.inference.views import resize_image

FIRST, LAST = 3, 2  # convolutions that stay in float32
INSIDE = 99.99  # per cent of the values that set a range; the few others would widen it
NOT_FINITE = "not finite"  # in what NumPy says of a histogram of NaN or infinity

Input = npt.NDArray[Any]  # (1, 3, H, W), as the network takes it


def calibration_inputs(
    images: Sequence[Pixels], statistics: ChannelStats, form: ExportConfig
) -> list[Input]:
    """Make of images what the network takes: pixels as they are, or normalised ones."""
    inputs = []
    for image in images:
        resized = resize_image(image, *form.size) if form.size else image
        x = torch.from_numpy(np.array(resized))[None]
        x = x.permute(0, 3, 1, 2) if form.normalize else normalize(x, statistics)
        inputs.append(x.contiguous().numpy())
    return inputs


class _Reader:
    """Images as ONNX Runtime asks for them, also for some of them alone."""

    def __init__(self, inputs: Sequence[Input]) -> None:
        self._inputs = inputs
        self.set_range(0, len(inputs))

    def __len__(self) -> int:
        return len(self._inputs)

    def set_range(self, start_index: int, end_index: int) -> None:
        self._left = iter(self._inputs[start_index:end_index])

    def get_next(self) -> dict[str, Input] | None:
        one = next(self._left, None)
        return None if one is None else {INPUT: one}


def quantize_onnx(path: Path, inputs: Sequence[Input]) -> None:
    """Replace an ONNX file by one whose convolutions compute in 8 bits.

    Raises:
        DrnError: ONNX Runtime's quantisation is not installed, or cannot determine the ranges
            of the values that the network computes, for example because some are NaN.
    """
    onnx = require_package("onnx", "onnx", "--int8")
    tools: Any = require_package("onnxruntime.quantization", "onnx", "--int8")
    shapes: Any = require_package("onnxruntime.quantization.shape_inference", "onnx", "--int8")
    told = {entry.key: entry.value for entry in onnx.load(path).metadata_props}
    with tempfile.TemporaryDirectory(dir=path.parent) as folder, _quiet():
        simple = Path(folder) / path.name
        shapes.quant_pre_process(path, simple, skip_symbolic_shape=True)
        nodes = onnx.load(simple).graph.node
        names = [node.name for node in nodes if node.op_type == "Conv"]
        try:
            tools.quantize_static(
                simple,
                path,
                _Reader(inputs),
                quant_format=tools.QuantFormat.QDQ,
                op_types_to_quantize=["Conv"],
                nodes_to_exclude=_ends(names),
                per_channel=True,
                weight_type=tools.QuantType.QInt8,
                activation_type=tools.QuantType.QUInt8,
                calibrate_method=tools.CalibrationMethod.Percentile,
                # One image at a time: it would keep every map of all of them.
                extra_options={"CalibPercentile": INSIDE, "CalibStridedMinMax": 1},
            )
        except ValueError as error:
            problem = next(iter(str(error).splitlines()), type(error).__name__)
            hint = (
                "if the network computes NaN or infinity, check the checkpoint; else use other "
                "images for --calibration, or another precision or format"
            )
            if NOT_FINITE in problem:
                hint = "the network computes NaN or infinity from an image: check the checkpoint"
            raise DrnError(f"--int8: cannot be calibrated: {problem}", hint) from error
    made = onnx.load(path)
    del made.metadata_props[:]
    onnx.helper.set_model_props(made, told)
    onnx.save(made, path)


def quantize_openvino(model: Any, inputs: Sequence[Input]) -> Any:
    """Give a model of OpenVINO whose convolutions compute in 8 bits, biases corrected.

    Raises:
        DrnError: What does it is not installed.
    """
    nncf: Any = require_package("nncf", "openvino-int8", "--int8")
    operations = [(op.get_type_name(), op.get_friendly_name()) for op in model.get_ordered_ops()]
    names = _ends([name for kind, name in operations if kind == "Convolution"])
    # What follows the last one stays as well: 8 bits would turn NaN into numbers.
    last = [name for _, name in operations].index(names[-1])
    behind = [name for _, name in operations[last + 1 :]]
    floats = nncf.IgnoredScope(names=names + behind, validate=False)
    with _quiet():
        data = nncf.Dataset(inputs)
        return nncf.quantize(model, data, subset_size=len(inputs), ignored_scope=floats)


def _ends(convolutions: list[str]) -> list[str]:
    return [*convolutions[:FIRST], *convolutions[-LAST:]]


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep what libraries say of themselves off the terminal, and off what --json prints."""
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(action="ignore"), redirect_stdout(io.StringIO()):
            yield
    finally:
        logging.disable(logging.NOTSET)

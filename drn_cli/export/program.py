"""Tracing with torch.export, which all formats with a computation graph are made from."""

import io
import json
import warnings
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from drn_cli.data.folders import ChannelStats
from drn_cli.export.form import ExportConfig
from drn_cli.inference.preparation import fold_batchnorm
from drn_cli.inference.runtimes import METADATA_KEY
from drn_cli.inference.score_maps import NO_CLASS
from drn_cli.networks.models import DRN, upsample

TRACED = (2, 3, 66, 91)  # shape of the example input; batch and size become dynamic


class Deployed(nn.Module):
    """A network for deployment: batch norm folded, with optional normalization and argmax.

    Shapes: `images` `(N, 3, H, W)` in, float32 and normalized, or uint8. Segmenters return `logits`
    `(N, classes, H, W)` and `scores` at output stride 8, or the index map `(N, H, W)`, uint8 up to
    256 classes. Classifiers return `logits` `(N, classes)` and `scores` at output stride 8, of
    which the logits are the mean. All but the index map are float32.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, model: DRN, statistics: ChannelStats, config: ExportConfig) -> None:
        super().__init__()
        self.network = fold_batchnorm(model)
        self.config = config
        # OpenVINO itself converts the weights to 16 bits when it writes the file.
        self.half_precision = config.precision == "float16" and config.format != "openvino"
        if self.half_precision:
            self.network.half()
        for name, values in (("mean", statistics.mean), ("std", statistics.std)):
            self.register_buffer(name, 255 * torch.tensor(values).view(3, 1, 1))

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        x = images
        if self.config.normalize:
            x = (x.float() - self.mean) / self.std
        if self.half_precision:
            x = x.half()
        scores = self.network.scores(x).float()
        if self.network.task == "classification":
            return scores.mean(dim=(2, 3)), scores
        logits = upsample(scores, images.shape[-2], images.shape[-1])
        if not self.config.argmax:
            return logits, scores
        classes = logits.argmax(1)
        if self.network.classes > NO_CLASS:  # the value that marks pixels is a class
            return (classes.to(torch.uint8 if self.network.classes == 256 else torch.int32),)
        # Zero, or NaN if the score of any class is not finite; upsampled like the scores.
        zeros = (scores - scores).sum(1, keepdim=True)
        finite = upsample(zeros, images.shape[-2], images.shape[-1])[:, 0] == 0
        return (torch.where(finite, classes.to(torch.uint8), NO_CLASS),)


def trace(
    model: DRN, statistics: ChannelStats, config: ExportConfig
) -> torch.export.ExportedProgram:
    """Trace a network, with dynamic batch size and, unless `config` fixes it, image size."""
    count, channels, *size = TRACED
    x = torch.zeros(count, channels, *(config.size or size))
    dynamic = (0,) if config.size else (0, 2, 3)
    shapes = (dict.fromkeys(dynamic, torch.export.Dim.DYNAMIC),)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about PyTorch's own code
        program = torch.export.export(
            Deployed(model, statistics, config).eval(),
            (x.to(torch.uint8) if config.normalize else x,),
            dynamic_shapes=shapes,
        )
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)  # contains paths of this machine
    return program


def write_program(
    path: Path, program: torch.export.ExportedProgram, metadata: Mapping[str, str]
) -> None:
    """Write a torch.export program with its metadata."""
    program.example_inputs = None  # PyTorch would unpickle them when loading
    buffer = io.BytesIO()  # PyTorch aborts the process if it cannot write to the disk
    torch.export.save(program, buffer, extra_files={f"{METADATA_KEY}.json": json.dumps(metadata)})
    path.write_bytes(buffer.getbuffer())

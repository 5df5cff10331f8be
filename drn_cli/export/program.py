"""A network as a program: what is traced for every format that has a computation in it."""

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

TRACED = (2, 3, 66, 91)  # any size would do


class Deployed(nn.Module):
    """A network with what its form puts before and behind it, batch norms folded.

    Shapes: `images` `(N, 3, H, W)` in: float32 and normalised, or uint8. Out, of a segmenter:
    `logits` `(N, classes, H, W)` and `scores`, the same at an eighth of the size; or the index map
    `(N, H, W)`, uint8 up to 256 classes. Of a classifier: `logits` `(N, classes)` and `scores` at
    each position, whose mean they are. All but the index map are float32.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, model: DRN, statistics: ChannelStats, form: ExportConfig) -> None:
        super().__init__()
        self.network = fold_batchnorm(model)
        self.form = form
        # OpenVINO keeps weights in 16 bits and computes in 32, which it does itself.
        self.halved = form.precision == "float16" and form.format != "openvino"
        if self.halved:
            self.network.half()
        for name, values in (("mean", statistics.mean), ("std", statistics.std)):
            self.register_buffer(name, 255 * torch.tensor(values).view(3, 1, 1))

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        x = images
        if self.form.normalize:
            x = (x.float() - self.mean) / self.std
        if self.halved:
            x = x.half()
        scores = self.network.scores(x).float()
        if self.network.task == "classification":
            return scores.mean(dim=(2, 3)), scores
        logits = upsample(scores, images.shape[-2], images.shape[-1])
        if not self.form.argmax:
            return logits, scores
        classes = logits.argmax(1)
        if self.network.classes > NO_CLASS:  # no value is left to mark a pixel with
            return (classes.to(torch.uint8 if self.network.classes == 256 else torch.int32),)
        # Zero, or NaN where a score of any class is not finite; it spreads as scores do.
        zeros = (scores - scores).sum(1, keepdim=True)
        finite = upsample(zeros, images.shape[-2], images.shape[-1])[:, 0] == 0
        return (torch.where(finite, classes.to(torch.uint8), NO_CLASS),)


def trace(model: DRN, statistics: ChannelStats, form: ExportConfig) -> torch.export.ExportedProgram:
    """Make a program of a network, for any batch, height and width unless its form freezes them."""
    count, channels, *size = TRACED
    x = torch.zeros(count, channels, *(form.size or size))
    dynamic = (0,) if form.size else (0, 2, 3)
    shapes = (dict.fromkeys(dynamic, torch.export.Dim.DYNAMIC),)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of PyTorch, about itself
        program = torch.export.export(
            Deployed(model, statistics, form).eval(),
            (x.to(torch.uint8) if form.normalize else x,),
            dynamic_shapes=shapes,
        )
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)  # where our code lies on this machine
    return program


def write_program(
    path: Path, program: torch.export.ExportedProgram, told: Mapping[str, str]
) -> None:
    """Write a program of torch.export, with what it says of itself."""
    program.example_inputs = None  # PyTorch would unpickle them when it loads the file
    buffer = io.BytesIO()  # PyTorch ends the process where it cannot write to the disk itself
    torch.export.save(program, buffer, extra_files={f"{METADATA_KEY}.json": json.dumps(told)})
    path.write_bytes(buffer.getbuffer())

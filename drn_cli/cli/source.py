"""Options and setup that `eval`, `predict` and `localize` share: network, view, processes."""

import math
import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from drn_cli.cli import console
from drn_cli.cli.completion import complete_weights
from drn_cli.cli.launching import should_launch
from drn_cli.errors import DrnError, reports_for_all

if TYPE_CHECKING:
    import torch

    from drn_cli.data.classification import View
    from drn_cli.inference.classifier import ClassificationPredictor
    from drn_cli.inference.normalization import Normalization
    from drn_cli.inference.opening import OpenedNetwork
    from drn_cli.inference.predictor import SegmentationPredictor
    from drn_cli.inference.source import Source
    from drn_cli.networks.catalog import Task
    from drn_cli.recipe.schema import Eval

_option = partial(typer.Option, rich_help_panel="Inference")


def _scales(text: str) -> tuple[float, ...]:
    try:
        scales = tuple(float(word) for word in text.split(","))
    except ValueError as error:
        raise typer.BadParameter(f"{text!r}: not numbers such as 0.5,1,1.5") from error
    if not all(0 < scale <= 8 for scale in scales):
        raise typer.BadParameter(f"{text!r}: scales must be above 0 and at most 8")
    return scales


NETWORK: dict[str, Any] = {
    "metavar": "RUN|FILE|NAME",
    "autocompletion": complete_weights,
    "help": "Run directory, checkpoint, exported network, or name of a network with published "
    "weights. Default: the newest run with a best network.",
}
Weights = Annotated[Path | None, typer.Option(**NETWORK)]
MultiScale = Annotated[
    bool,
    _option("--ms", help="Multi-scale inference at 0.5,0.75,1,1.25,1.5,1.75, as in the paper."),
]
Scales = Annotated[
    Any,  # tuple[float, ...] | None
    _option(
        parser=_scales,
        metavar="S,S,...",
        help="Scales for multi-scale inference, such as 0.5,1,1.5. Default: the recipe's.",
    ),
]
Flip = Annotated[
    bool | None, _option("--flip/--no-flip", help="Average with the horizontally flipped image.")
]
Tile = Annotated[
    int | None,
    _option(
        min=64, help="Tile size for sliding-window inference, in pixels. Default: as memory allows."
    ),
]
TenCrop = Annotated[
    bool,
    _option(
        "--ten-crop",
        help="Average over the corner and center crops and their mirror images (classifiers).",
    ),
]
Precision = Annotated[
    Literal["auto", "fp32", "bf16", "fp16"],
    _option(
        help="Precision. auto: bf16 on GPUs that support it, fp16 on other GPUs, fp32 on CPUs."
    ),
]
Compile = Annotated[
    bool,
    _option(
        "--compile",
        help="Use torch.compile. Compiles once per image size (minutes), then runs faster.",
    ),
]


def _three(text: str) -> tuple[float, ...]:
    try:
        values = tuple(map(float, text.split(",")))
    except ValueError:
        values = ()
    if len(values) != 3 or not all(map(math.isfinite, values)):
        raise typer.BadParameter(f"{text!r}: not three numbers such as 0.485,0.456,0.406")
    return values


Stats = Annotated[
    Path | None,
    _option(
        metavar="DIR",
        help="Data folder whose info.json has the mean and std of the network's training. "
        "Default: those in the file of the network, or else a guess.",
    ),
]
Mean = Annotated[
    Any,  # tuple[float, ...] | None
    _option(
        "--mean",
        parser=_three,
        metavar="R,G,B",
        help="Mean of the network's training, for pixels in 0..1; requires --std.",
    ),
]
Std = Annotated[
    Any,  # tuple[float, ...] | None
    _option(
        "--std",
        parser=_three,
        metavar="R,G,B",
        help="Standard deviation of the network's training; requires --mean.",
    ),
]


@dataclass(frozen=True, slots=True)
class InferenceOptions:
    """Options of inference."""

    view: "Eval"  # scales, flip and tile size (segmenters)
    ten_crop: bool  # whether to average ten crops (classifiers)
    precision: Literal["auto", "fp32", "bf16", "fp16"]  # value of `--precision`
    compiled: bool  # whether to use torch.compile
    changed: bool = False  # whether an option changed the view
    given: "Normalization | None" = None  # mean and standard deviation, if options state them

    def open(self, source: "Source", task: "Task | None" = None) -> "OpenedNetwork":
        """Open a network; raises DrnError if it is for another task or an option does not apply."""
        from drn_cli.inference.opening import open_network
        from drn_cli.inference.runtimes import ExportedNetwork

        network = open_network(source.checkpoint, task)
        if network.task == "segmentation" and self.ten_crop:
            raise DrnError("--ten-crop: for classifiers only", f"{network.path} is a segmenter")
        if network.task == "classification" and self.changed:
            raise DrnError(
                "--ms, --scales, --flip, --tile: for segmenters only",
                f"{network.path} is a classifier",
            )
        if isinstance(network, ExportedNetwork) and self.precision not in ("auto", "fp32"):
            raise DrnError(
                f"--precision {self.precision}: the precision of {network.path} is fixed by its "
                "export",
                "leave out --precision",
            )
        return network

    def segmenter(
        self, network: "OpenedNetwork", device: "torch.device", **options: Any
    ) -> "SegmentationPredictor":
        """Load a segmenter; further options as for `load_predictor`."""
        from drn_cli.inference.loading import load_predictor

        options = self._load_options(device) | options
        return load_predictor(network, device, view=self.view, **options)

    def classifier(
        self, network: "OpenedNetwork", device: "torch.device", **options: Any
    ) -> "ClassificationPredictor":
        """Load a classifier; further options as for `load_classifier`."""
        from drn_cli.inference.loading import load_classifier

        options = self._load_options(device) | options
        view: View = "10-crop" if self.ten_crop else "1-crop"
        return load_classifier(network, device, view=view, **options)

    def _load_options(self, device: "torch.device") -> dict[str, Any]:
        from drn_cli.device import autocast_type, resolve_precision

        kind = autocast_type(resolve_precision(self.precision, device))
        return {"autocast": kind, "compiled": self.compiled, "given": self.given}


def describe(
    source: "Source",
    network: "OpenedNetwork",
    ready: "SegmentationPredictor | ClassificationPredictor",
) -> dict[str, Any]:
    """Return the network and the normalization of its inputs as fields for JSON."""
    assert ready.normalization is not None  # set for networks that were loaded from a file
    return source.to_json() | {"verified": network.verified} | ready.normalization.to_json()


def inference_options(
    source: "Source",
    multi_scale: bool,
    scales: tuple[float, ...] | None,
    flip: bool | None,
    tile: int | None,
    ten_crop: bool,
    precision: Literal["auto", "fp32", "bf16", "fp16"],
    compiled: bool,
    given: "Normalization | None",
) -> InferenceOptions:
    """Combine the options of a command line with the view of the run's recipe.

    Raises:
        typer.BadParameter: --ms and --scales are both given.
    """
    from drn_cli.recipe.schema import MULTI_SCALE

    if multi_scale:
        if scales is not None:
            raise typer.BadParameter("--ms and --scales exclude each other")
        scales = MULTI_SCALE
    view, changed = source.view(scales, flip, tile), bool(scales or flip or tile)
    return InferenceOptions(view, ten_crop, precision, compiled, changed, given)


def launch_processes(gpus: int | Literal["auto"]) -> None:
    """Run this command line in several processes and exit, unless this is one of them."""
    from drn_cli.distributed.launch import LaunchOptions, launch

    options = LaunchOptions(gpus)
    if should_launch(options):
        raise typer.Exit(launch(sys.argv[1:], options))


def report_weights(source: "Source") -> None:
    """Print in one process which weights are used, unless the user named their file."""
    if source.choice is not None and reports_for_all():
        console.note(f"weights: {source.checkpoint} ({source.choice})")

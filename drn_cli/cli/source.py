"""What `eval`, `predict` and `localize` share: which network, how it looks, how many processes."""

import math
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from drn_cli.cli import console
from drn_cli.cli.completion import complete_weights
from drn_cli.cli.launching import launch_options, should_launch
from drn_cli.errors import DrnError, reports_for_all

if TYPE_CHECKING:
    import torch

    from drn_cli.inference.classifier import ClassificationPredictor
    from drn_cli.inference.normalization import Normalization
    from drn_cli.inference.opening import OpenedNetwork
    from drn_cli.inference.predictor import SegmentationPredictor
    from drn_cli.inference.source import Source
    from drn_cli.recipe.schema import Eval

VIEW = "How images are seen"


def _scales(text: str) -> tuple[float, ...]:
    try:
        scales = tuple(float(word) for word in text.split(","))
    except ValueError as error:
        raise typer.BadParameter(f"{text!r}: numbers with commas between, as 0.5,1") from error
    if not all(0 < scale <= 8 for scale in scales):
        raise typer.BadParameter(f"{text!r}: should all be above 0 and up to 8")
    return scales


Weights = Annotated[
    Path | None,
    typer.Option(
        metavar="RUN|FILE|NAME",
        autocompletion=complete_weights,
        help="Run folder, checkpoint, exported network, or a network with published weights; by "
        "default the newest run that has a best network.",
    ),
]
MultiScale = Annotated[
    bool,
    typer.Option(
        "--ms", help="See at 0.5,0.75,1,1.25,1.5,1.75, as the paper does.", rich_help_panel=VIEW
    ),
]
Scales = Annotated[
    Any,  # tuple[float, ...] | None
    typer.Option(
        parser=_scales,
        metavar="S,S,...",
        help="Sizes to look at, such as 0.5,1,1.5; by default the recipe's.",
        rich_help_panel=VIEW,
    ),
]
Flip = Annotated[
    bool | None,
    typer.Option("--flip/--no-flip", help="Look at the mirrored image too.", rich_help_panel=VIEW),
]
Tile = Annotated[
    int | None,
    typer.Option(
        min=64,
        help="Longest side of overlapping tiles, in pixels; by default as large as memory allows.",
        rich_help_panel=VIEW,
    ),
]
TenCrop = Annotated[
    bool,
    typer.Option(
        "--ten-crop",
        help="Average over corners, centre and their mirror images (classifiers).",
        rich_help_panel=VIEW,
    ),
]
Precision = Annotated[
    Literal["auto", "fp32", "bf16", "fp16"],
    typer.Option(
        help="What to compute in; auto is bf16 on GPUs that have it, fp16 on others, fp32 on CPUs.",
        rich_help_panel=VIEW,
    ),
]
Compile = Annotated[
    bool,
    typer.Option(
        "--compile",
        help="Through torch.compile: minutes for each size of image, then quicker.",
        rich_help_panel=VIEW,
    ),
]


def _three(text: str) -> tuple[float, ...]:
    try:
        values = tuple(float(word) for word in text.split(","))
    except ValueError as error:
        raise typer.BadParameter(f"{text!r}: three numbers, as 0.485,0.456,0.406") from error
    if len(values) != 3 or not all(map(math.isfinite, values)):
        raise typer.BadParameter(f"{text!r}: three numbers, as 0.485,0.456,0.406")
    return values


Stats = Annotated[
    Path | None,
    typer.Option(
        metavar="DIR",
        help="Data folder whose info.json has the mean and std that the network was trained with; "
        "by default those in its file, else a guess.",
        rich_help_panel=VIEW,
    ),
]
Mean = Annotated[
    Any,  # tuple[float, ...] | None
    typer.Option(
        "--mean",
        parser=_three,
        metavar="R,G,B",
        help="The mean itself, of pixels in 0..1; --std goes with it.",
        rich_help_panel=VIEW,
    ),
]
Std = Annotated[
    Any,  # tuple[float, ...] | None
    typer.Option(
        "--std",
        parser=_three,
        metavar="R,G,B",
        help="The standard deviation itself; --mean goes with it.",
        rich_help_panel=VIEW,
    ),
]


@dataclass(frozen=True, slots=True)
class InferenceOptions:
    """How images are looked at, and what is computed in.

    Attributes:
        view: Sizes, mirrored, tiles (segmenters).
        ten_crop: Whether ten crops are averaged (classifiers).
        precision: As `--precision` says it.
        compiled: Whether through torch.compile.
        changed: Whether an option changed the view.
        given: Mean and standard deviation, if they were stated.
    """

    view: "Eval"
    ten_crop: bool
    precision: Literal["auto", "fp32", "bf16", "fp16"]
    compiled: bool
    changed: bool = False
    given: "Normalization | None" = None

    def check(self, network: "OpenedNetwork") -> None:
        """See that no option was given that means nothing for a network.

        Raises:
            DrnError: One was.
        """
        from drn_cli.inference.runtimes import ExportedNetwork

        if network.task == "segmentation" and self.ten_crop:
            raise DrnError("--ten-crop: is for classifiers, and this is a segmenter")
        if network.task == "classification" and self.changed:
            raise DrnError(
                "--ms, --scales, --flip, --tile: are for segmenters, not for classifiers"
            )
        if isinstance(network, ExportedNetwork) and self.precision not in ("auto", "fp32"):
            raise DrnError(
                f"--precision {self.precision}: {network.path} computes in what it was exported in"
            )

    def computing(self, device: "torch.device") -> "dict[str, Any]":
        """Give what `load_predictor` and `load_classifier` want to know of it."""
        from drn_cli.device import autocast_type, resolve_precision

        kind = autocast_type(resolve_precision(self.precision, device))
        return {"autocast": kind, "compiled": self.compiled, "given": self.given}


def describe(
    source: "Source",
    network: "OpenedNetwork",
    ready: "SegmentationPredictor | ClassificationPredictor",
) -> dict[str, Any]:
    """Return which network answers and what its inputs are normalized with, ready for JSON."""
    assert ready.normalization is not None  # networks of files have one
    verified = {"verified": network.verified}
    return source.to_json() | verified | ready.normalization.to_json()


def resolve_view(
    source: "Source",
    scales: tuple[float, ...] | None,
    flip: bool | None,
    tile: int | None,
    multi_scale: bool,
) -> "Eval":
    """Say how to look at images: as the recipe does, unless an option says otherwise.

    Raises:
        typer.BadParameter: --ms and --scales are both given.
    """
    from drn_cli.recipe.schema import MULTI_SCALE

    if multi_scale:
        if scales is not None:
            raise typer.BadParameter("--ms and --scales both say at which sizes")
        scales = MULTI_SCALE
    return source.view(scales, flip, tile)


def launch_processes(gpus: int | Literal["auto"]) -> None:
    """Run this same command line in several processes and exit, unless this is one of them."""
    from drn_cli.distributed.launch import launch

    options = launch_options(gpus)
    if should_launch(options):
        raise typer.Exit(launch(sys.argv[1:], options))


def report_weights(source: "Source") -> None:
    """Print which weights are used, unless their file was named; one process of a job does."""
    if source.choice is not None and reports_for_all():
        console.note(f"weights: {source.checkpoint} ({source.choice})")

"""`drn predict`: label the pixels of any image, or say what it shows."""

from pathlib import Path
from typing import Annotated, Any

import typer

from drn_cli.cli.images import MaxPixels
from drn_cli.cli.launching import Gpus
from drn_cli.cli.predicting.classification import classify
from drn_cli.cli.predicting.segmentation import PredictOptions, label, label_one
from drn_cli.cli.source import (
    Compile,
    Flip,
    InferenceOptions,
    Mean,
    MultiScale,
    Precision,
    Scales,
    Stats,
    Std,
    TenCrop,
    Tile,
    Weights,
    launch_processes,
    report_weights,
    resolve_view,
)

EPILOG = """[bold]Examples[/]

  drn predict street.jpg

  drn predict photos/ 'videos/**/frame_*.jpg' --out labelled --gpus auto --skip-existing

  drn predict night/ --weights drn-d-105_ms_cityscapes.pth --ms --save index,probabilities

  drn predict - --out - < street.jpg > labelled.png

  drn predict cs/leftImg8bit/test --weights best.safetensors --cityscapes-submission results.zip

  drn predict photos/ --weights drn_d_22 --top-k 3 --csv classes.csv

A segmenter writes what --save names into folders below --out, in the input's folder structure:
index (grey PNG, the class id of each pixel), colour (the same ids with a palette), overlay (colours
over the image) and probabilities (npz: float16 of each class and pixel). A classifier prints the
likeliest classes. An image that cannot be read is reported and skipped, and the exit code is 1.
"""

KINDS = ("index", "colour", "overlay", "probabilities")


def _kinds(text: str) -> Any:
    kinds = tuple(dict.fromkeys(text.split(",")))
    for kind in kinds:
        if kind not in KINDS:
            raise typer.BadParameter(f"{kind!r}: some of {','.join(KINDS)}")
    return kinds


def predict(
    inputs: Annotated[
        list[str],
        typer.Argument(metavar="INPUT...", help="Images, folders, quoted globs, or - for stdin."),
    ],
    weights: Weights = None,
    out: Annotated[
        Path, typer.Option(metavar="DIR|-", help="Folder for the predictions; - is stdout.")
    ] = Path("predictions"),
    save: Annotated[
        Any,  # tuple[Kind, ...] | None
        typer.Option(
            parser=_kinds,
            metavar="KIND,...",
            help=f"What to write: some of {','.join(KINDS)}; by default the first three.",
        ),
    ] = None,
    skip_existing: Annotated[
        bool, typer.Option("--skip-existing", help="Go on: leave out what is written already.")
    ] = False,
    force: Annotated[
        bool,
        typer.Option(
            "--force",
            help="Delete files recorded in OUT/predictions.json that another network made and "
            "that would remain beside the new ones.",
        ),
    ] = False,
    submission: Annotated[
        Path | None,
        typer.Option(
            "--cityscapes-submission",
            metavar="FILE.zip",
            help="Pack label ids of the 1525 test images as the Cityscapes server takes them.",
        ),
    ] = None,
    partial: Annotated[
        bool, typer.Option("--partial", help="Let the submission have fewer images.")
    ] = False,
    top_k: Annotated[
        int, typer.Option(min=1, help="Classes to name of each image (classifiers).")
    ] = 5,
    csv: Annotated[
        Path | None, typer.Option(help="File with a line for each image (classifiers).")
    ] = None,
    multi_scale: MultiScale = False,
    scales: Scales = None,
    flip: Flip = None,
    tile: Tile = None,
    ten_crop: TenCrop = False,
    stats: Stats = None,
    mean: Mean = None,
    std: Std = None,
    precision: Precision = "auto",
    compile_: Compile = False,
    batch: Annotated[
        int | None,
        typer.Option(min=1, help="Images of one size that a GPU takes at once; by default auto."),
    ] = None,
    gpus: Gpus = 1,
    max_pixels: MaxPixels = None,
    as_json: Annotated[bool, typer.Option("--json", help="List what was found as JSON.")] = False,
) -> None:
    """Label the pixels of images with a trained network, or classify them."""
    options = PredictOptions(out, save, skip_existing, submission, partial, batch, as_json, force)
    if "-" in inputs or str(out) == "-":
        _check_stream(inputs, options)
    from drn_cli.inference.inputs import check_inputs
    from drn_cli.inference.normalization import user_normalization
    from drn_cli.inference.source import find_source

    check_inputs(inputs)
    source = find_source(weights)
    view = resolve_view(source, scales, flip, tile, multi_scale)
    changed = bool(multi_scale or scales or flip or tile)
    inference = InferenceOptions(
        view, ten_crop, precision, compile_, changed, user_normalization(stats, mean, std)
    )
    if "-" not in inputs and str(out) != "-":
        launch_processes(gpus)
    report_weights(source)

    from drn_cli.inference.opening import open_network

    network = open_network(source.checkpoint)
    inference.check(network)
    if network.task == "classification":
        classify(inputs, source, network, inference, options, top_k, csv)
        return
    if csv is not None:
        raise typer.BadParameter("--csv is for classifiers, and this is a segmenter")
    if str(out) == "-":
        label_one(inputs[0], network, inference, options)
    else:
        label(inputs, source, network, inference, options)


def _check_stream(inputs: list[str], options: PredictOptions) -> None:
    """See that what comes by stdin or goes to stdout is one image."""
    if len(inputs) > 1:
        raise typer.BadParameter("- stands for a single image; give no other input with it")
    folder_only = options.as_json or options.submission or options.skip_existing or options.force
    if str(options.out) == "-" and folder_only:
        raise typer.BadParameter("--out - writes one image to stdout, and nothing else there")
    if str(options.out) == "-" and options.save is not None and len(options.save) > 1:
        raise typer.BadParameter("--out - takes one of --save's kinds; by default colour")

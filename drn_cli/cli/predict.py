"""`drn predict`: segmentation maps of images, or their top-k classes."""

from pathlib import Path
from typing import Annotated, Any

import typer

from drn_cli.cli.images import MaxPixels
from drn_cli.cli.launching import Gpus
from drn_cli.cli.predicting.classification import classify
from drn_cli.cli.predicting.segmentation import PredictOptions, segment, segment_one
from drn_cli.cli.source import (
    Compile,
    Flip,
    Mean,
    MultiScale,
    Precision,
    Scales,
    Stats,
    Std,
    TenCrop,
    Tile,
    Weights,
    inference_options,
    launch_processes,
    report_weights,
)

EPILOG = """[bold]Examples[/]

  drn predict street.jpg

  drn predict photos/ 'videos/**/frame_*.jpg' --gpus auto --skip-existing

  drn predict night/ --weights runs/trial --ms --save index,probabilities

  drn predict - --out - < street.jpg > segmented.png

  drn predict leftImg8bit/test --cityscapes-submission results.zip

  drn predict photos/ --weights drn_d_22 --top-k 3 --csv classes.csv

A segmenter writes the kinds of --save to subfolders of --out, with the folder
structure of the input: index (gray PNG of class ids), colour (the same ids
with a palette), overlay (colors over the image) and probabilities (npz:
float16 per class and pixel). A classifier prints the most probable classes.
An image that cannot be read is reported and skipped; the exit code is then 1.
"""

KINDS = ("index", "colour", "overlay", "probabilities")


def _kinds(text: str) -> Any:
    kinds = tuple(dict.fromkeys(text.split(",")))
    for kind in kinds:
        if kind not in KINDS:
            raise typer.BadParameter(f"{kind!r}: not one of {','.join(KINDS)}")
    return kinds


def predict(
    inputs: Annotated[
        list[str],
        typer.Argument(metavar="INPUT...", help="Images, folders, quoted globs, or - for stdin."),
    ],
    weights: Weights = None,
    out: Annotated[
        Path, typer.Option(metavar="DIR|-", help="Folder for the predictions, or - for stdout.")
    ] = Path("predictions"),
    save: Annotated[
        Any,  # tuple[Kind, ...] | None
        typer.Option(
            parser=_kinds,
            metavar="KIND,...",
            help=f"Kinds of files: {', '.join(KINDS)}. Default: the first three.",
        ),
    ] = None,
    skip_existing: Annotated[
        bool, typer.Option("--skip-existing", help="Skip images whose predictions exist.")
    ] = False,
    force: Annotated[
        bool,
        typer.Option(
            "--force",
            help="Delete files of another network, listed in OUT/predictions.json, that would "
            "remain next to the new ones.",
        ),
    ] = False,
    submission: Annotated[
        Path | None,
        typer.Option(
            "--cityscapes-submission",
            metavar="FILE.zip",
            help="Zip file of label ids of the 1525 test images, for the Cityscapes server.",
        ),
    ] = None,
    partial: Annotated[
        bool, typer.Option("--partial", help="Allow a submission with fewer images.")
    ] = False,
    top_k: Annotated[
        int, typer.Option(min=1, help="Number of classes per image (classifiers).")
    ] = 5,
    csv: Annotated[
        Path | None, typer.Option(help="CSV file with a row per image (classifiers).")
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
        typer.Option(min=1, help="Batch size of images of one size on a GPU. Default: automatic."),
    ] = None,
    gpus: Gpus = 1,
    max_pixels: MaxPixels = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the results as JSON.")] = False,
) -> None:
    """Run inference on images: segmentation maps, or top-k classes."""
    options = PredictOptions(out, save, skip_existing, submission, partial, batch, as_json, force)
    if "-" in inputs or str(out) == "-":
        _check_stream(inputs, options)
    from drn_cli.inference.inputs import check_inputs
    from drn_cli.inference.normalization import user_normalization
    from drn_cli.inference.source import find_source

    check_inputs(inputs, stdin=True)
    source = find_source(weights)
    given = user_normalization(stats, mean, std)
    view = (multi_scale, scales, flip, tile)
    inference = inference_options(source, *view, ten_crop, precision, compile_, given)
    if "-" not in inputs and str(out) != "-":
        launch_processes(gpus)
    report_weights(source)

    network = inference.open(source)
    if network.task == "classification":
        classify(inputs, source, network, inference, options, top_k, csv)
        return
    if csv is not None:
        raise typer.BadParameter(f"--csv is for classifiers only ({network.path} is a segmenter)")
    if str(out) == "-":
        segment_one(inputs[0], network, inference, options)
    else:
        segment(inputs, source, network, inference, options)


def _check_stream(inputs: list[str], options: PredictOptions) -> None:
    """Check that stdin or stdout is used for a single image."""
    if len(inputs) > 1:
        raise typer.BadParameter("INPUT: - and --out - take a single image")
    folder_only = options.as_json or options.submission or options.skip_existing or options.force
    if str(options.out) == "-" and folder_only:
        raise typer.BadParameter(
            "--out - cannot be combined with --json, --cityscapes-submission, --skip-existing or "
            "--force"
        )
    if str(options.out) == "-" and options.save is not None and len(options.save) > 1:
        raise typer.BadParameter("--out - writes a single kind of --save (default: colour)")

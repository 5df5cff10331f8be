"""`drn eval`: score a trained network, a folder of images, or predictions, against labels."""

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from drn_cli.cli.completion import complete_weights
from drn_cli.cli.evaluating.data import score_data
from drn_cli.cli.evaluating.folders import FolderEvaluation, Ids, score_folder, score_predictions
from drn_cli.cli.evaluating.output import ScoreWriter
from drn_cli.cli.images import MaxPixels
from drn_cli.cli.launching import Gpus
from drn_cli.cli.sizes import parse_size
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

  drn eval                                         the newest run that has a best network

  drn eval runs/drn_d_22_camvid/2026-01-31_12-00-00 --ms --csv images.csv --report eval.html

  drn eval drn-d-105_ms_cityscapes.pth --data /data/cityscapes --ms --gpus auto

  drn eval --images generated/ --labels gtFine/val --weights drn-d-105_ms_cityscapes.pth --ms

  drn eval --predictions predictions/index --labels data/camvid/valannot

  drn eval drn_d_22 --data /data/imagenet --ten-crop
"""

FOLDERS = "Images and labels in folders"


def _size(text: str) -> Any:
    if text in ("label", "none"):
        return text
    return parse_size(text)


def evaluate(
    source: Annotated[
        Path | None,
        typer.Argument(
            metavar="RUN|FILE|NAME",
            autocompletion=complete_weights,
            help="Run folder, checkpoint, exported network, or a network with published weights; "
            "by default the newest run that has a best network.",
        ),
    ] = None,
    data: Annotated[
        Path | None, typer.Option(help="Data folder; by default that of the run's recipe.")
    ] = None,
    split: Annotated[Literal["train", "val", "test"], typer.Option(help="Of the data.")] = "val",
    images: Annotated[
        Path | None,
        typer.Option(help="Folder of images to score, instead.", rich_help_panel=FOLDERS),
    ] = None,
    predictions: Annotated[
        Path | None,
        typer.Option(
            help="Folder of predicted index maps to score; no network.", rich_help_panel=FOLDERS
        ),
    ] = None,
    labels: Annotated[
        Path | None, typer.Option(help="Folder of their label maps.", rich_help_panel=FOLDERS)
    ] = None,
    weights: Weights = None,
    resize_to: Annotated[
        Any,
        typer.Option(
            parser=_size,
            metavar="label|WxH|none",
            help="label: images to their labels' size (the default for images); none: labels "
            "to their images' size; WxH, width before height as in 1920x1080: both.",
            rich_help_panel=FOLDERS,
        ),
    ] = None,
    labels_hold: Annotated[
        Ids,
        typer.Option(help="Ids of the label maps; auto: by looking.", rich_help_panel=FOLDERS),
    ] = "auto",
    predictions_hold: Annotated[
        Ids,
        typer.Option(help="Ids of the predictions; auto: by looking.", rich_help_panel=FOLDERS),
    ] = "auto",
    classes: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=255,
            help="Number of classes, for --predictions.",
            rich_help_panel=FOLDERS,
        ),
    ] = None,
    image_suffix: Annotated[
        str | None,
        typer.Option(
            help="What names of images end with, before the format.", rich_help_panel=FOLDERS
        ),
    ] = None,
    label_suffix: Annotated[
        str | None,
        typer.Option(help="The same for label maps.", rich_help_panel=FOLDERS),
    ] = None,
    partial: Annotated[
        bool,
        typer.Option(
            "--partial",
            help="Score a part: leave out files without a counterpart, those that fail, and links "
            "to nothing; of class folders also what lies outside them.",
        ),
    ] = False,
    multi_scale: MultiScale = False,
    scales: Scales = None,
    flip: Flip = None,
    tile: Tile = None,
    ten_crop: TenCrop = False,
    stats: Stats = None,
    mean: Mean = None,
    std: Std = None,
    precision: Precision = "fp32",
    compile_: Compile = False,
    csv: Annotated[
        Path | None, typer.Option(help="File for the scores of each image, worst first.")
    ] = None,
    worst: Annotated[int, typer.Option(min=0, help="How many of the worst images to list.")] = 5,
    report: Annotated[
        Path | None, typer.Option(help="HTML page with scores, confusion and images.")
    ] = None,
    report_images: Annotated[
        int, typer.Option(min=0, max=200, help="Images on the page, the worst and the best.")
    ] = 24,
    max_pixels: MaxPixels = None,
    gpus: Gpus = 1,
    as_json: Annotated[bool, typer.Option("--json", help="Print the scores as JSON.")] = False,
) -> None:
    """Score a network: mIoU and IoU of each class, or top-1 and top-5; or score predictions."""
    if source is not None and weights is not None:
        raise typer.BadParameter("the network is named twice, as an argument and as --weights")
    if (labels is None) != (images is None and predictions is None):
        raise typer.BadParameter("--labels goes with --images or --predictions, and they with it")
    if images is not None and predictions is not None:
        raise typer.BadParameter("--images and --predictions are two ways to score")
    seen = {"--ms": multi_scale, "--scales": scales, "--flip": flip, "--tile": tile}
    seen |= {"--ten-crop": ten_crop, "--compile": compile_, "--weights": weights, "RUN": source}
    seen |= {"--stats": stats, "--mean": mean, "--std": std}
    paired = {"--resize-to": resize_to, "--image-suffix": image_suffix}
    paired |= {"--label-suffix": label_suffix, "--labels-hold": labels_hold != "auto"}
    compared = {"--classes": classes, "--predictions-hold": predictions_hold != "auto"}
    if labels is not None:
        _refuse({"--data": data, "--split": split != "val"}, "a data folder, not folders to pair")
    else:
        _refuse(paired, "folders to pair, with --labels")
    if predictions is not None:
        _refuse(seen, "a network, which --predictions needs none of")
    else:
        _refuse(compared, "--predictions")
    writer = ScoreWriter(csv, worst, report, report_images, as_json)
    if predictions is not None:
        assert labels is not None
        launch_processes(gpus)
        folders = FolderEvaluation(
            predictions, labels, resize_to, labels_hold, image_suffix, label_suffix, partial
        )
        score_predictions(folders, predictions_hold, classes, writer)
        return
    from drn_cli.inference.normalization import user_normalization
    from drn_cli.inference.source import find_source

    found = find_source(source or weights)
    view = resolve_view(found, scales, flip, tile, multi_scale)
    changed = bool(multi_scale or scales or flip or tile)
    inference = InferenceOptions(
        view, ten_crop, precision, compile_, changed, user_normalization(stats, mean, std)
    )
    launch_processes(gpus)
    report_weights(found)
    if images is not None:
        assert labels is not None
        folders = FolderEvaluation(
            images, labels, resize_to, labels_hold, image_suffix, label_suffix, partial
        )
        score_folder(found, folders, inference, writer)
    else:
        score_data(found, data, split, inference, writer, partial=partial)


def _refuse(options: dict[str, Any], what: str) -> None:
    """See that no option was given that would mean nothing here."""
    for name, value in options.items():
        if value:
            raise typer.BadParameter(f"{name} is for {what}")

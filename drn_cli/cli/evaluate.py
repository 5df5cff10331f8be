"""`drn eval`: evaluate a network, a folder of images, or saved predictions."""

from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from drn_cli.cli.evaluating.data import score_data
from drn_cli.cli.evaluating.folders import FolderEvaluation, Ids, score_folder, score_predictions
from drn_cli.cli.evaluating.output import ScoreWriter
from drn_cli.cli.images import MaxPixels
from drn_cli.cli.launching import Gpus
from drn_cli.cli.sizes import parse_size
from drn_cli.cli.source import (
    NETWORK,
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

  drn eval                        the newest run with a best network

  drn eval runs/trial --ms --csv images.csv --report eval.html

  drn eval drn-d-105_ms_cityscapes.pth --data /data/cityscapes --ms

  drn eval drn-d-105_ms_cityscapes.pth --images generated/ --labels gtFine/val

  drn eval --predictions predictions/index --labels data/camvid/valannot

  drn eval drn_d_22 --data /data/imagenet --ten-crop
"""

_folder_option = partial(typer.Option, rich_help_panel="Folders of images and label maps")


def _size(text: str) -> Any:
    if text in ("label", "none"):
        return text
    return parse_size(text)


def evaluate(
    source: Annotated[Path | None, typer.Argument(**NETWORK)] = None,
    data: Annotated[
        Path | None, typer.Option(help="Data folder. Default: that of the run's recipe.")
    ] = None,
    split: Annotated[
        Literal["train", "val", "test"], typer.Option(help="Split of the data.")
    ] = "val",
    images: Annotated[
        Path | None,
        _folder_option(
            help="Folder of images to evaluate the network on, instead of a data folder."
        ),
    ] = None,
    predictions: Annotated[
        Path | None,
        _folder_option(help="Folder of saved index maps to evaluate, without a network."),
    ] = None,
    labels: Annotated[
        Path | None, _folder_option(help="Folder of label maps for --images or --predictions.")
    ] = None,
    weights: Weights = None,
    resize_to: Annotated[
        Any,
        _folder_option(
            parser=_size,
            metavar="label|WxH|none",
            help="label: resize images to their label maps (default for --images); none: resize "
            "label maps to their images; WxH (1920x1080): resize both.",
        ),
    ] = None,
    labels_hold: Annotated[
        Ids, _folder_option(help="Ids in the label maps. auto: by names and values.")
    ] = "auto",
    predictions_hold: Annotated[
        Ids, _folder_option(help="Ids in the predictions. auto: by names and values.")
    ] = "auto",
    classes: Annotated[
        int | None, _folder_option(min=1, max=255, help="Number of classes, for --predictions.")
    ] = None,
    image_suffix: Annotated[
        str | None, _folder_option(help="Suffix of the images' names before the extension.")
    ] = None,
    label_suffix: Annotated[
        str | None, _folder_option(help="Suffix of the label maps' names before the extension.")
    ] = None,
    partial: Annotated[
        bool,
        typer.Option(
            "--partial",
            help="Evaluate a part: leave out unpaired files, files that fail, broken links, and "
            "files outside the class folders.",
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
        Path | None, typer.Option(help="CSV file with the scores of each image, worst first.")
    ] = None,
    worst: Annotated[int, typer.Option(min=0, help="Number of worst images to list.")] = 5,
    report: Annotated[
        Path | None, typer.Option(help="HTML page with scores, confusion matrix and images.")
    ] = None,
    report_images: Annotated[
        int, typer.Option(min=0, max=200, help="Number of worst and best images on the page.")
    ] = 24,
    max_pixels: MaxPixels = None,
    gpus: Gpus = 1,
    as_json: Annotated[bool, typer.Option("--json", help="Print the scores as JSON.")] = False,
) -> None:
    """Evaluate a network or saved predictions: mIoU and IoU per class, or top-1 and top-5."""
    if source is not None and weights is not None:
        raise typer.BadParameter("pass the network as an argument or as --weights, not both")
    if (labels is None) != (images is None and predictions is None):
        raise typer.BadParameter("--labels requires --images or --predictions, and they require it")
    if images is not None and predictions is not None:
        raise typer.BadParameter("--images and --predictions exclude each other")
    network = {"--ms": multi_scale, "--scales": scales, "--flip": flip, "--tile": tile}
    network |= {"--ten-crop": ten_crop, "--compile": compile_, "--weights": weights, "RUN": source}
    network |= {"--stats": stats, "--mean": mean, "--std": std}
    paired = {"--resize-to": resize_to, "--image-suffix": image_suffix}
    paired |= {"--label-suffix": label_suffix, "--labels-hold": labels_hold != "auto"}
    saved = {"--classes": classes, "--predictions-hold": predictions_hold != "auto"}
    if labels is not None:
        _refuse({"--data": data, "--split": split != "val"}, "cannot be combined with --labels")
    else:
        _refuse(paired, "requires --labels")
    if predictions is not None:
        _refuse(network, "cannot be combined with --predictions")
    else:
        _refuse(saved, "requires --predictions")
    writer = ScoreWriter(csv, worst, report, report_images, as_json)
    folders, compared = None, images or predictions
    if labels is not None and compared is not None:
        folders = FolderEvaluation(
            compared, labels, resize_to, labels_hold, image_suffix, label_suffix, partial
        )
    if folders is not None and predictions is not None:
        launch_processes(gpus)
        score_predictions(folders, predictions_hold, classes, writer)
        return
    from drn_cli.inference.normalization import user_normalization
    from drn_cli.inference.source import find_source

    found = find_source(source or weights)
    given = user_normalization(stats, mean, std)
    view = (multi_scale, scales, flip, tile)
    inference = inference_options(found, *view, ten_crop, precision, compile_, given)
    launch_processes(gpus)
    report_weights(found)
    if folders is not None:
        score_folder(found, folders, inference, writer)
    else:
        score_data(found, data, split, inference, writer, partial=partial)


def _refuse(options: dict[str, Any], problem: str) -> None:
    """Raise a usage error if any of the options is given."""
    for name, value in options.items():
        if value:
            raise typer.BadParameter(f"{name} {problem}")

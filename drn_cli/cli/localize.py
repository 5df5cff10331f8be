"""`drn localize`: where in images a classifier sees its classes, and how right it is."""

import math
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from drn_cli.cli.images import MaxPixels
from drn_cli.cli.launching import Gpus
from drn_cli.cli.localizing.evaluation import LocalizeOptions, evaluate_boxes
from drn_cli.cli.localizing.images import find_boxes
from drn_cli.cli.source import (
    Compile,
    InferenceOptions,
    Mean,
    Precision,
    Stats,
    Std,
    Weights,
    launch_processes,
    report_weights,
)

EPILOG = """[bold]Examples[/]

  drn localize photos/ --weights drn_d_22

  drn localize dog.jpg --weights drn_d_54 --class 'Labrador retriever' --save heatmap,array

  drn localize /data/imagenet/val --eval --boxes /data/imagenet/val_boxes.csv --weights drn_c_26

  drn localize tiny/val/images --eval --boxes tiny/val/val_annotations.txt --weights runs/tiny \\
      --thresholds 0:20:0.5 --csv boxes.csv --report boxes.html

A class's box is the smallest around the positions where the class scores higher than all others,
and higher than the threshold. Any DRN classifier will do; nothing is trained.
"""

NONE = float("-inf")
DEFAULT_SWEEP = (NONE, *map(float, range(31)))  # of scores
DEFAULT_SHARES = (NONE, *(n / 20 for n in range(1, 20)))  # of probabilities
SAVED = ("heatmap", "array")


def _thresholds(text: str) -> Any:
    found: list[float] = []
    for word in text.split(","):
        try:
            if word == "none":
                found.append(NONE)
                continue
            start, stop, step = map(float, word.split(":")) if ":" in word else (float(word), 0, 0)
            count = math.floor((stop - start) / step + 1e-9) + 1 if ":" in word else 1
            some = [start + n * step for n in range(count)]
            if not some or not all(map(math.isfinite, some)):
                raise ValueError
            found += some
        except (ValueError, OverflowError, ZeroDivisionError) as error:
            raise typer.BadParameter(
                f"{word!r}: none, a number, or START:STOP:STEP, with commas between"
            ) from error
    return tuple(found)


def _saved(text: str) -> Any:
    words = tuple(text.split(","))
    if not set(words) <= set(SAVED):
        raise typer.BadParameter(f"{text!r}: some of {','.join(SAVED)}")
    return words


def localize(
    inputs: Annotated[
        list[str],
        typer.Argument(metavar="INPUT...", help="Images, folders, or quoted globs."),
    ],
    weights: Weights = None,
    out: Annotated[Path, typer.Option(help="Folder for heat maps, arrays and boxes.")] = Path(
        "localized"
    ),
    save: Annotated[
        Any,
        typer.Option(
            parser=_saved, metavar="KIND,...", help=f"What to write: some of {','.join(SAVED)}."
        ),
    ] = "heatmap",
    top_k: Annotated[int, typer.Option(min=1, help="Classes to look for in each image.")] = 1,
    class_: Annotated[
        list[str] | None,
        typer.Option("--class", help="Look for this class instead; may be repeated."),
    ] = None,
    thresholds: Annotated[
        Any,
        typer.Option(
            parser=_thresholds,
            metavar="T,...",
            help="Numbers, none, or START:STOP:STEP; by default none, with --eval none and 0:30:1.",
        ),
    ] = None,
    of: Annotated[
        Literal["score", "probability"],
        typer.Option(help="What thresholds and maps are of: scores (logits), or their softmax."),
    ] = "score",
    see: Annotated[
        Literal["whole", "centre"],
        typer.Option(help="All of an image, or the centre that classifiers are tested on."),
    ] = "whole",
    side: Annotated[
        int | None,
        typer.Option(
            min=8,
            help="Pixels that the shorter side is brought to; by default as in tests.",
        ),
    ] = None,
    evaluate: Annotated[
        bool, typer.Option("--eval", help="Score boxes against true ones instead.")
    ] = False,
    boxes: Annotated[
        Path | None,
        typer.Option(
            help="True boxes: ImageNet's XML files, LOC_val_solution.csv, val_boxes.csv, "
            "val_annotations.txt, *_boxes.txt, or a folder of them."
        ),
    ] = None,
    csv: Annotated[Path | None, typer.Option(help="File with a line for each box.")] = None,
    report: Annotated[Path | None, typer.Option(help="HTML page, with --eval.")] = None,
    report_images: Annotated[
        int, typer.Option(min=0, max=200, help="Images on the page, the worst and the best.")
    ] = 24,
    stats: Stats = None,
    mean: Mean = None,
    std: Std = None,
    partial: Annotated[
        bool,
        typer.Option(
            "--partial", help="With --eval: leave out images without boxes, and boxes without one."
        ),
    ] = False,
    precision: Precision = "fp32",
    compile_: Compile = False,
    max_pixels: MaxPixels = None,
    gpus: Gpus = 1,
    as_json: Annotated[bool, typer.Option("--json", help="Print what was found as JSON.")] = False,
) -> None:
    """Find objects with a classifier: heat maps and boxes, or their error against true boxes."""
    if evaluate != (boxes is not None):
        raise typer.BadParameter("--eval and --boxes go together")
    if report is not None and not evaluate:
        raise typer.BadParameter("--report goes with --eval")
    if partial and not evaluate:
        raise typer.BadParameter("--partial goes with --eval")
    if evaluate and class_:
        raise typer.BadParameter("--class does not go with --eval")
    from drn_cli.inference.inputs import check_inputs
    from drn_cli.inference.normalization import user_normalization
    from drn_cli.inference.source import find_source
    from drn_cli.recipe.schema import Eval

    check_inputs(inputs)
    source = find_source(weights)
    inference = InferenceOptions(
        Eval(), False, precision, compile_, given=user_normalization(stats, mean, std)
    )
    launch_processes(gpus)
    report_weights(source)
    if boxes is not None:
        sweep = DEFAULT_SWEEP if of == "score" else DEFAULT_SHARES
        options = LocalizeOptions(
            thresholds or sweep, of, see, side, csv, report, report_images, as_json, partial
        )
        evaluate_boxes(inputs, boxes, source, inference, options)
    else:
        options = LocalizeOptions(thresholds or (NONE,), of, see, side, csv, None, 0, as_json)
        find_boxes(inputs, out, save, class_ or (), top_k, source, inference, options)

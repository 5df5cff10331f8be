"""`drn localize`: class activation maps and boxes of a classifier, and their error."""

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

  drn localize dog.jpg --class 'Labrador retriever' --save heatmap,array

  drn localize val/ --eval --boxes val_boxes.csv --weights drn_c_26

  drn localize val/ --eval --boxes val_boxes.csv --thresholds 0:20:0.5

The box of a class is the smallest one around the positions where the class
scores higher than all others, and higher than the threshold. Works with any
DRN classifier, without training.
"""

NONE = float("-inf")
SCORE_SWEEP = (NONE, *map(float, range(31)))
PROBABILITY_SWEEP = (NONE, *(n / 20 for n in range(1, 20)))
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
            raise typer.BadParameter(f"{word!r}: not a number, START:STOP:STEP or none") from error
    return tuple(found)


def _saved(text: str) -> Any:
    words = tuple(text.split(","))
    if not set(words) <= set(SAVED):
        raise typer.BadParameter(f"{text!r}: not a list of {','.join(SAVED)}")
    return words


def localize(
    inputs: Annotated[
        list[str], typer.Argument(metavar="INPUT...", help="Images, folders, or quoted globs.")
    ],
    weights: Weights = None,
    out: Annotated[Path, typer.Option(help="Folder for heat maps, arrays and boxes.")] = Path(
        "localized"
    ),
    save: Annotated[
        Any,
        typer.Option(
            parser=_saved, metavar="KIND,...", help=f"Kinds of files: {', '.join(SAVED)}."
        ),
    ] = "heatmap",
    top_k: Annotated[
        int, typer.Option(min=1, help="Number of classes per image, most probable first.")
    ] = 1,
    class_: Annotated[
        list[str] | None, typer.Option("--class", help="Localize this class instead. Repeatable.")
    ] = None,
    thresholds: Annotated[
        Any,
        typer.Option(
            parser=_thresholds,
            metavar="T,...",
            help="Numbers, START:STOP:STEP or none. Default: none; with --eval, none,0:30:1.",
        ),
    ] = None,
    of: Annotated[
        Literal["score", "probability"],
        typer.Option(help="Values of maps and thresholds: scores (logits), or their softmax."),
    ] = "score",
    see: Annotated[
        Literal["whole", "centre"],
        typer.Option(help="The whole image, or the center crop that classifiers are evaluated on."),
    ] = "whole",
    side: Annotated[
        int | None,
        typer.Option(
            min=8, help="Resize the shorter side to this many pixels. Default: as in evaluation."
        ),
    ] = None,
    evaluate: Annotated[
        bool, typer.Option("--eval", help="Evaluate boxes against true boxes instead.")
    ] = False,
    boxes: Annotated[
        Path | None,
        typer.Option(
            help="True boxes: ImageNet's XML files, LOC_val_solution.csv, val_boxes.csv, "
            "val_annotations.txt, *_boxes.txt, or a folder of them."
        ),
    ] = None,
    csv: Annotated[Path | None, typer.Option(help="CSV file with a row for each box.")] = None,
    report: Annotated[Path | None, typer.Option(help="HTML page, with --eval.")] = None,
    report_images: Annotated[
        int, typer.Option(min=0, max=200, help="Number of worst and best images on the page.")
    ] = 24,
    stats: Stats = None,
    mean: Mean = None,
    std: Std = None,
    partial: Annotated[
        bool,
        typer.Option(
            "--partial",
            help="With --eval: leave out images without boxes, and boxes without an image.",
        ),
    ] = False,
    precision: Precision = "fp32",
    compile_: Compile = False,
    max_pixels: MaxPixels = None,
    gpus: Gpus = 1,
    as_json: Annotated[bool, typer.Option("--json", help="Print the results as JSON.")] = False,
) -> None:
    """Localize objects with a classifier: heat maps and boxes, or their error."""
    if evaluate != (boxes is not None):
        raise typer.BadParameter("--eval and --boxes require each other")
    if report is not None and not evaluate:
        raise typer.BadParameter("--report requires --eval")
    if partial and not evaluate:
        raise typer.BadParameter("--partial requires --eval")
    if evaluate and class_:
        raise typer.BadParameter("--class cannot be combined with --eval")
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
        sweep = SCORE_SWEEP if of == "score" else PROBABILITY_SWEEP
        options = LocalizeOptions(
            thresholds or sweep, of, see, side, csv, report, report_images, as_json, partial
        )
        evaluate_boxes(inputs, boxes, source, inference, options)
    else:
        options = LocalizeOptions(thresholds or (NONE,), of, see, side, csv, None, 0, as_json)
        find_boxes(inputs, out, save, class_ or (), top_k, source, inference, options)

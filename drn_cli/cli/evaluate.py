"""`drn eval`: score a trained network on labelled pictures."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from drn_cli.cli import console
from drn_cli.cli.launching import Gpus
from drn_cli.cli.source import Flip, Scales, Tile, find_source, spread

if TYPE_CHECKING:
    from drn_cli.data.classes import ClassSet
    from drn_cli.evaluation.confusion import Scores

EPILOG = """[bold]Examples[/]

  drn eval                                         the newest run, on its validation pictures

  drn eval runs/drn_d_22_camvid/2026-01-31_12-00-00 --json

  drn eval drn-d-105_ms_cityscapes.pth --data /data/cityscapes --scales 0.5,0.75,1,1.25,1.5,1.75

  drn eval --split train --gpus 2
"""


def evaluate(
    source: Annotated[
        Path | None,
        typer.Argument(
            metavar="RUN|CHECKPOINT", help="Run folder or file; by default the newest run."
        ),
    ] = None,
    data: Annotated[
        Path | None, typer.Option(help="Data folder; by default that of the run's recipe.")
    ] = None,
    split: Annotated[str, typer.Option(help="train, val or test.")] = "val",
    scales: Scales = None,
    flip: Flip = None,
    tile: Tile = None,
    gpus: Gpus = 1,
    as_json: Annotated[bool, typer.Option("--json", help="Print the scores as JSON.")] = False,
) -> None:
    """Score a trained network: mIoU, IoU of each class, pixel accuracy."""
    if split not in ("train", "val", "test"):
        raise typer.BadParameter(f"--split {split}: one of train, val, test")
    from drn_cli.data.folders import ListFolder
    from drn_cli.errors import DrnError

    found = find_source(source)
    view = found.view(scales, flip, tile)
    recipe = found.recipe
    if data is not None:
        folder = ListFolder.open(data)
    elif recipe is not None:
        folder = ListFolder.open(recipe.data.root, recipe.data.lists)
    else:
        raise DrnError(f"{found.checkpoint}: does not say which pictures", "name them: --data DIR")
    samples = folder.samples(split)  # type: ignore[arg-type]
    spread(gpus)

    from tqdm import tqdm

    from drn_cli.distributed.group import join
    from drn_cli.evaluation.segmentation import evaluate as score
    from drn_cli.inference.loading import load_predictor

    with join() as group:
        predictor = load_predictor(
            found.checkpoint,
            group.device,
            data=folder,
            view=view,
        )
        mine = len(group.share(samples))
        with tqdm(total=mine, unit="picture", disable=None if group.first else True) as bar:
            scores = score(predictor, samples, group, step=bar.update)
        assert scores is not None  # nobody stops it
        if group.first:
            if as_json:
                about = {"checkpoint": str(found.checkpoint), "split": split}
                console.emit_json(about | scores.to_json(predictor.class_set))
            else:
                console.note(f"{found.checkpoint}, {split}: {scores.images} pictures")
                _print(scores, predictor.class_set)


def _print(scores: "Scores", class_set: "ClassSet") -> None:
    numbers = ("IoU %", "labelled pixels")
    table = console.table("class", *numbers, right=numbers)
    for name, iou, labelled in zip(
        class_set.names, scores.iou, scores.matrix.sum(axis=1).tolist(), strict=True
    ):
        table.add_row(name, "absent" if iou is None else f"{100 * iou:.2f}", f"{labelled:,}")
    table.add_section()
    table.add_row("[bold]mIoU[/]", f"[bold]{100 * scores.miou:.2f}[/]", "")
    table.add_row("pixel accuracy", f"{100 * scores.pixel_accuracy:.2f}", "")
    table.add_row("mean accuracy", f"{100 * scores.mean_accuracy:.2f}", "")
    console.out.print(table)
    absent = sum(iou is None for iou in scores.iou)
    if absent:
        console.note(
            f"{absent} classes occur neither in labels nor in predictions; not in the mean"
        )

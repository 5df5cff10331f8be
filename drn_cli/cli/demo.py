"""`drn demo`: draw images, train, evaluate and predict in one command."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from drn_cli.cli import console

if TYPE_CHECKING:
    from drn_cli.data.classes import ClassSet
    from drn_cli.data.folders import Sample

TRAIN, VAL, TEST = 192, 12, 4  # scenes; more scenes help more than more epochs
OVERVIEW = 4, 2  # number of scenes in the overview, and their scale
TITLE_HEIGHT = 24  # pixels

EPILOG = """[bold]Examples[/]

  drn demo

  drn demo --out /tmp/demo train.epochs=2

Draws street scenes with labels of 19 classes in the layout of Cityscapes,
trains a DRN-D-22 with 3/8 of the channels on them, evaluates it, predicts,
and prints each command as you would type it. Nothing is downloaded.
"""


def demo(
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="KEY=VALUE", help="Override keys of the demo recipe."),
    ] = None,
    out: Annotated[Path, typer.Option(help="Output folder.")] = Path("drn-demo"),
) -> None:
    """Draw images, train, evaluate and predict. Takes a few minutes on a laptop."""
    from drn_cli.cli.evaluate import evaluate
    from drn_cli.cli.predict import predict
    from drn_cli.cli.prepare.common import progress_bar
    from drn_cli.cli.train import train
    from drn_cli.data.folders import ListDataset
    from drn_cli.data.prepare.scenes import make_scenes
    from drn_cli.recipe.loading import load_recipe
    from drn_cli.runs import new_run

    data, predictions = out / "data", out / "predictions"
    images = data / "leftImg8bit" / "val"
    settings = [f"data.root={data}", *(overrides or [])]
    load_recipe("demo", settings)  # report errors before anything is drawn

    counts = f"--train {TRAIN} --val {VAL} --test {TEST}"
    _headline("Drawing street scenes", f"drn data prepare scenes {data} {counts}")
    with progress_bar() as progress:
        make_scenes(data, train=TRAIN, val=VAL, test=TEST, progress=progress)

    run = new_run("demo", out / "runs", make=True).folder
    _headline("Training", f"drn train demo {' '.join(settings)} --run-dir {run}")
    predicting = f"drn predict {images} --weights {run} --out {predictions}"
    try:
        train("demo", settings, run_dir=run)
    except typer.Exit:  # interrupted
        console.note(f"then evaluate and predict: drn eval {run}; {predicting}")
        raise

    _headline("Evaluating", f"drn eval {run}")
    evaluate(run)

    _headline("Predicting", predicting)
    predict([str(images)], weights=run, out=predictions)

    folder = ListDataset.open(data)
    overview = out / "overview.png"
    _write_overview(folder.samples("val"), images, predictions, folder.class_set(19), overview)
    _headline("Done")
    console.out.print(
        f"Look at:\n"
        f"  {overview}   images, labels and predictions side by side\n"
        f"  {run / 'report.html'}   how the training went\n"
        "Label a photograph with this network:\n"
        f"  drn predict YOUR.jpg --weights {run}\n"
        "Train on your own images and label maps:\n"
        "  drn data prepare pairs --help      make a data folder of them\n"
        "  drn data check FOLDER              find mistakes in it\n"
        "  drn recipes copy drn_d_22_camvid   a recipe to start from\n"
        "  drn train drn_d_22_camvid.yaml data.root=FOLDER data.classes=N model.weights=imagenet",
        soft_wrap=True,
    )


def _headline(title: str, command: str | None = None) -> None:
    console.err.print(console.styled("\n", (title, "bold")))
    if command is not None:
        console.err.print(console.styled((f"$ {command}", "dim")), soft_wrap=True)


def _write_overview(
    samples: "list[Sample]", images: Path, predictions: Path, classes: "ClassSet", path: Path
) -> None:
    """Write image, label and prediction of the first samples side by side, under titles."""
    import numpy as np
    from PIL import Image, ImageDraw

    from drn_cli.data.images import read_image, read_label, write_png

    count, scale = OVERVIEW
    palette = np.frombuffer(classes.palette(), np.uint8).reshape(256, 3)
    rows = []
    for sample in samples[:count]:
        assert sample.label is not None
        predicted = predictions / "index" / sample.image.relative_to(images)
        maps = (palette[read_label(label)] for label in (sample.label, predicted))
        columns = [
            np.pad(column, ((2, 2), (2, 2), (0, 0))) for column in (read_image(sample.image), *maps)
        ]
        rows.append(np.concatenate(columns, axis=1))
    sheet = np.concatenate(rows, axis=0).repeat(scale, axis=0).repeat(scale, axis=1)
    titles = Image.new("RGB", (sheet.shape[1], TITLE_HEIGHT))
    for number, title in enumerate(("image", "label", "prediction")):
        place = number * sheet.shape[1] // 3 + 2 * scale, 2
        ImageDraw.Draw(titles).text(place, title, "white", font_size=TITLE_HEIGHT * 0.7)
    write_png(path, np.concatenate([np.asarray(titles), sheet], axis=0))

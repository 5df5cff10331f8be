"""`drn demo`: the whole road once, on pictures that it draws itself."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from drn_cli.cli import console

if TYPE_CHECKING:
    from drn_cli.data.classes import ClassSet
    from drn_cli.data.folders import Sample

EPILOG = """[bold]Examples[/]

  drn demo

  drn demo --out /tmp/demo train.epochs=2

It draws street scenes with labels of 19 classes in the layout of Cityscapes, trains a DRN-D-22 on
them, scores it and predicts, and shows each command as you would type it. Nothing is downloaded.
"""


def demo(
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="KEY=VALUE", help="Settings that replace the demo recipe's."),
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder for everything that is made.")] = Path(
        "drn-demo"
    ),
) -> None:
    """Try everything once: draw pictures, train, evaluate, predict. A few minutes on a laptop."""
    from drn_cli.cli.evaluate import evaluate
    from drn_cli.cli.predict import predict
    from drn_cli.cli.train import train
    from drn_cli.data.folders import ListFolder
    from drn_cli.data.prepare.scenes import make_scenes
    from drn_cli.runs import new_run

    data, predictions = out / "data", out / "predictions"
    pictures = data / "leftImg8bit" / "val"
    settings = [f"data.root={data}", *(overrides or [])]

    _headline("Drawing street scenes")
    make_scenes(data)
    console.note(f"{data}: 48 scenes to train on, 12 to validate with, 4 without labels")

    run = new_run("demo", out / "runs", make=True).folder
    _headline("Training", f"drn train demo {' '.join(settings)} --run-dir {run}")
    train("demo", settings, run_dir=run)

    _headline("Evaluating", f"drn eval {run}")
    evaluate(run)

    _headline("Predicting", f"drn predict {pictures} --weights {run} --out {predictions}")
    predict([str(pictures)], weights=run, out=predictions)

    folder = ListFolder.open(data)
    sheet = out / "overview.png"
    _overview(folder.samples("val"), pictures, predictions, folder.class_set(19), sheet)
    _headline("Done")
    console.out.print(f"Look at {sheet}: picture, label and prediction side by side.")
    console.out.print(
        f"Next:\n  drn report {run}\n"
        f"  drn predict YOUR.jpg --weights {run}\n"
        "  drn data prepare camvid --help     real photographs\n"
        "  drn recipes list                   what else can be trained",
        soft_wrap=True,
    )


def _headline(title: str, command: str | None = None) -> None:
    console.err.print(console.styled("\n", (title, "bold")))
    if command is not None:
        console.err.print(console.styled((f"$ {command}", "dim")), soft_wrap=True)


def _overview(
    samples: "list[Sample]", pictures: Path, predictions: Path, class_set: "ClassSet", sheet: Path
) -> None:
    """Write picture, label and prediction of each sample side by side, a row a sample."""
    import numpy as np

    from drn_cli.data.images import read_image, read_label, write_image

    palette = np.frombuffer(class_set.palette(), np.uint8).reshape(256, 3)
    rows = []
    for sample in samples[:6]:
        assert sample.label is not None
        predicted = predictions / "index" / sample.image.relative_to(pictures)
        columns = [
            read_image(sample.image),
            palette[read_label(sample.label)],
            palette[read_label(predicted)],
        ]
        rows.append(np.concatenate(columns, axis=1))
    write_image(sheet, np.concatenate(rows, axis=0))

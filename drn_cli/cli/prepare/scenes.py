"""`drn data prepare scenes`."""

from pathlib import Path
from typing import Annotated

import typer

from drn_cli.cli.prepare.common import AsJson, progress_bar, report
from drn_cli.cli.sizes import METAVAR, parse_size

EPILOG = """[bold]Examples[/]

  drn data prepare scenes data/scenes

  drn data prepare scenes big --train 400 --val 100 --test 0 --size 2048x1024

The folder has the layout of Cityscapes: label ids and train ids of its 19
classes, five lists and info.json. Sizes range from 64x32 to 8192x4096, at
most 8 times as wide as high or 4 times as high as wide. The same options give
the same files; a second run does nothing.
"""


def scenes(
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Data folder to write.")],
    train: Annotated[int, typer.Option(help="Training images.")] = 48,
    val: Annotated[int, typer.Option(help="Validation images.")] = 12,
    test: Annotated[int, typer.Option(help="Images without labels.")] = 4,
    size: Annotated[
        str,
        typer.Option(
            metavar=METAVAR, help="Width and height of the images in pixels, such as 512x256."
        ),
    ] = "256x128",
    seed: Annotated[int, typer.Option(help="Random seed.")] = 0,
    as_json: AsJson = False,
) -> None:
    """Synthetic street scenes with labels, of any size and number, for trials and benchmarks."""
    from drn_cli.data.prepare.scenes import make_scenes

    width, height = parse_size(size)
    with progress_bar() as progress:
        made = make_scenes(
            out,
            train=train,
            val=val,
            test=test,
            width=width,
            height=height,
            seed=seed,
            progress=progress,
        )
    report(made, as_json, f"train with: drn train demo data.root={made.out}")

"""`drn predict`: label the pixels of any picture."""

import time
from pathlib import Path
from typing import Annotated, Any

import typer

from drn_cli.cli import console
from drn_cli.cli.source import Flip, Scales, Tile, find_source

EPILOG = """[bold]Examples[/]

  drn predict street.jpg

  drn predict photos/ more/*.png --out labelled

  drn predict 'videos/**/frame_*.jpg' --weights runs/drn_d_22_camvid/2026-01-31_12-00-00

  drn predict night/ --weights drn-d-105_ms_cityscapes.pth --scales 0.75,1,1.25 --json

Each picture gives three PNG files, in the input's folder structure: index/ (grey, the class id
of each pixel), colour/ (the same ids with a palette) and overlay/ (colours over the picture).
A picture that cannot be read is reported and skipped, and the exit code is 1.
"""


def predict(
    inputs: Annotated[
        list[str], typer.Argument(metavar="INPUT...", help="Pictures, folders or quoted globs.")
    ],
    weights: Annotated[
        Path | None,
        typer.Option(
            metavar="RUN|FILE", help="Run folder or checkpoint; by default the newest run."
        ),
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder for the predictions.")] = Path("predictions"),
    scales: Scales = None,
    flip: Flip = None,
    tile: Tile = None,
    as_json: Annotated[bool, typer.Option("--json", help="List what was written as JSON.")] = False,
) -> None:
    """Label the pixels of pictures with a trained network."""
    from drn_cli.inference.inputs import find_pictures

    pictures = find_pictures(inputs, out)
    found = find_source(weights)
    view = found.view(scales, flip, tile)

    import torch
    from tqdm import tqdm

    from drn_cli.data.images import read_image
    from drn_cli.errors import DrnError
    from drn_cli.inference.loading import load_predictor
    from drn_cli.inference.outputs import write_prediction
    from drn_cli.inference.reading import ahead

    predictor = load_predictor(
        found.checkpoint,
        torch.device("cuda" if torch.cuda.is_available() else "cpu"),
        view=view,
    )
    console.note(f"{found.checkpoint} on {len(pictures)} pictures")
    written: list[dict[str, Any]] = []
    failed: list[dict[str, str]] = []
    started = time.perf_counter()
    reader = ahead(lambda picture: read_image(picture.path), pictures)
    for picture, read in tqdm(reader, total=len(pictures), unit="picture", disable=None):
        try:
            image = read()
        except DrnError as error:
            console.fail(error)
            failed.append({"image": str(picture.path), "error": error.message})
            continue
        classes = predictor(image).cpu().numpy()
        files = write_prediction(out, picture.name, image, classes, predictor.class_set)
        written.append({"image": str(picture.path)} | {k: str(v) for k, v in files.items()})
    speed = len(written) / (time.perf_counter() - started)
    if as_json:
        console.emit_json(
            {"checkpoint": str(found.checkpoint), "written": written, "failed": failed}
        )
    else:
        console.out.print(
            f"{len(written)} pictures labelled, {speed:.1f} a second: {out}/index, {out}/colour, "
            f"{out}/overlay",
            soft_wrap=True,
        )
    if failed:
        console.note(f"{len(failed)} of {len(pictures)} pictures could not be read")
        raise typer.Exit(1)

"""`drn predict`: label the pixels of any picture."""

import time
from collections.abc import Sequence
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from drn_cli.cli import console
from drn_cli.cli.launching import Gpus
from drn_cli.cli.source import Flip, Scales, Tile, find_source, spread

if TYPE_CHECKING:
    from drn_cli.inference.inputs import Picture
    from drn_cli.inference.predictor import Predictor

EPILOG = """[bold]Examples[/]

  drn predict street.jpg

  drn predict photos/ more/*.png --out labelled

  drn predict 'videos/**/frame_*.jpg' --weights runs/drn_d_22_camvid/2026-01-31_12-00-00

  drn predict night/ --weights drn-d-105_ms_cityscapes.pth --scales 0.75,1,1.25 --json

  drn predict frames/ --gpus auto

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
    gpus: Gpus = 1,
    as_json: Annotated[bool, typer.Option("--json", help="List what was written as JSON.")] = False,
) -> None:
    """Label the pixels of pictures with a trained network."""
    from drn_cli.inference.inputs import find_pictures

    pictures = find_pictures(inputs, out)
    found = find_source(weights)
    view = found.view(scales, flip, tile)

    spread(gpus)

    from drn_cli.distributed.group import join
    from drn_cli.distributed.launch import leave
    from drn_cli.inference.loading import load_predictor

    with join() as group:
        if group.first:
            console.note(f"{found.checkpoint} on {len(pictures)} pictures")
        predictor = load_predictor(found.checkpoint, group.device, view=view)
        started = time.perf_counter()
        mine = _label(group.share(pictures), out, predictor, aloud=group.first)
        # In the order of the pictures, which went to the processes in turn.
        entries = [entry for row in zip_longest(*group.gather(mine)) for entry in row if entry]
        if group.first:
            seconds = time.perf_counter() - started
            _report(found.checkpoint, out, entries, seconds, as_json)
    if any("error" in entry for entry in entries):
        raise typer.Exit(leave(1))


def _label(
    pictures: "Sequence[Picture]", out: Path, predictor: "Predictor", *, aloud: bool
) -> list[dict[str, str]]:
    """Write the predictions; give for each picture the files, or the error."""
    from tqdm import tqdm

    from drn_cli.data.images import read_image
    from drn_cli.errors import DrnError
    from drn_cli.inference.outputs import write_prediction
    from drn_cli.inference.reading import ahead

    entries: list[dict[str, str]] = []
    reader = ahead(lambda picture: read_image(picture.path), pictures)
    bar = tqdm(reader, total=len(pictures), unit="picture", disable=None if aloud else True)
    for picture, read in bar:
        try:
            image = read()
        except DrnError as error:
            console.fail(error)
            entries.append({"image": str(picture.path), "error": error.message})
            continue
        classes = predictor(image).cpu().numpy()
        files = write_prediction(out, picture.name, image, classes, predictor.class_set)
        entries.append({"image": str(picture.path)} | {k: str(v) for k, v in files.items()})
    return entries


def _report(
    checkpoint: Path, out: Path, entries: list[dict[str, str]], seconds: float, as_json: bool
) -> None:
    written = [entry for entry in entries if "error" not in entry]
    failed = [entry for entry in entries if "error" in entry]
    if as_json:
        console.emit_json({"checkpoint": str(checkpoint), "written": written, "failed": failed})
    else:
        console.out.print(
            f"{len(written)} pictures labelled, {len(written) / seconds:.1f} a second: "
            f"{out}/index, {out}/colour, {out}/overlay",
            soft_wrap=True,
        )
    if failed:
        console.note(f"{len(failed)} of {len(entries)} pictures could not be read")

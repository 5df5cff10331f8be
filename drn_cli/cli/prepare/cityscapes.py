"""`drn data prepare cityscapes`."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from drn_cli.cli import console
from drn_cli.cli.images import MaxPixels
from drn_cli.cli.prepare.common import AsJson, files_left_out, progress_bar, report

if TYPE_CHECKING:
    from drn_cli.data.prepare.cityscapes import PreparedCityscapes

EPILOG = """[bold]Examples[/]

  drn data prepare cityscapes /data/cityscapes

  drn data prepare cityscapes data/cityscapes --zips ~/Downloads

  drn data prepare cityscapes sample --partial

ROOT contains the folders leftImg8bit and gtFine of the release. A missing
folder is unpacked from leftImg8bit_trainvaltest.zip or
gtFine_trainvaltest.zip, but only the images and the label ids of train and
val. Train ids are written beside the label ids, as *_gtFine_trainIds.png;
license plates and unknown ids become 255. Existing files
*_gtFine_labelTrainIds.png of the official scripts are used.

Files of the release are not changed. An interrupted run continues when it is
started again; a second run does nothing.
"""


def cityscapes(
    root: Annotated[Path, typer.Argument(metavar="ROOT", help="Folder of the dataset.")],
    zips: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Folder of the zip files, if not ROOT.")
    ] = None,
    lists: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Folder for the lists and info.json, if not ROOT."),
    ] = None,
    partial: Annotated[
        bool,
        typer.Option(
            "--partial", help="Accept a subset of Cityscapes; skip images without labels."
        ),
    ] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Overwrite lists and info.json of another dataset.")
    ] = False,
    max_pixels: MaxPixels = None,
    as_json: AsJson = False,
) -> None:
    """Cityscapes: 19 classes, 2975/500/1525 images; from its folders or zip files."""
    from drn_cli.data.prepare.cityscapes import prepare_cityscapes
    from drn_cli.data.prepare.cityscapes_layout import EXPECTED

    with progress_bar("file") as progress:
        made = prepare_cityscapes(
            root, zips=zips, lists=lists, partial=partial, force=force, progress=progress
        )
    if made.left_out:
        console.warn(f"train and val images without labels, left out: {made.left_out}")
    if as_json:
        console.emit_json(
            {
                "out": str(made.out),
                "images": dict(made.counts),
                "unchanged": made.unchanged,
                "cities": made.cities,
                "expected": {"images": EXPECTED},
                "images_without_label": made.left_out,
                "left_out": files_left_out(made.other_files),
            }
        )
        return
    _show(made, EXPECTED)
    where = f"data.root={root}" + (f" data.lists={lists}" if lists is not None else "")
    report(made, as_json, f"train with: drn train drn_d_22_cityscapes {where}")


def _show(made: "PreparedCityscapes", expected: Mapping[str, int]) -> None:
    """Print the number of images per city and split, beside that of the release."""
    table = console.table("split", "city", "images", "expected", right=("images", "expected"))
    for split, cities in made.cities.items():
        for city, count in cities.items():
            table.add_row(split, city, str(count), "")
        total, wanted = made.counts[split], expected[split]
        style = "bold" if total == wanted else "bold yellow"
        table.add_row(split, "all", str(total), str(wanted), style=style, end_section=True)
    console.out.print(table)

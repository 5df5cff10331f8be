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

ROOT holds the folders leftImg8bit and gtFine of the release. A folder that
is not there is unpacked from leftImg8bit_trainvaltest.zip or
gtFine_trainvaltest.zip, as far as it is needed: the images, and the label
ids of train and val. Train ids are written beside the label ids, as
*_gtFine_trainIds.png; license plates and unknown ids become 255. Files
*_gtFine_labelTrainIds.png of the official scripts are used where they are.

No file of the release is changed. A run that was interrupted is taken up by
the next one, and a second run does nothing.
"""


def cityscapes(
    root: Annotated[Path, typer.Argument(metavar="ROOT", help="Folder of the data set.")],
    zips: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Where the zips are, if not in ROOT.")
    ] = None,
    lists: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Folder for the lists and info.json, if not ROOT."),
    ] = None,
    partial: Annotated[
        bool,
        typer.Option("--partial", help="Take a part of Cityscapes; leave out what has no label."),
    ] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Replace lists and info.json of another origin.")
    ] = False,
    max_pixels: MaxPixels = None,
    as_json: AsJson = False,
) -> None:
    """Cityscapes: 19 classes, 2975/500/1525 images; from its folders or its zips."""
    from drn_cli.data.prepare.cityscapes import prepare_cityscapes
    from drn_cli.data.prepare.cityscapes_layout import EXPECTED

    with progress_bar("file") as progress:
        made = prepare_cityscapes(
            root, zips=zips, lists=lists, partial=partial, force=force, progress=progress
        )
    if made.left_out:
        console.warn(f"train and val images left out for want of a label: {made.left_out}")
    if as_json:
        console.emit_json(
            {
                "out": str(made.out),
                "images": dict(made.counts),
                "unchanged": made.unchanged,
                "cities": made.cities,
                "expected": EXPECTED,
                "left_out": made.left_out,
                "files_left_out": files_left_out(made.passed_over),
            }
        )
        return
    _show(made, EXPECTED)
    where = f"data.root={root}" + (f" data.lists={lists}" if lists is not None else "")
    report(made, as_json, f"train on it: drn train drn_d_22_cityscapes {where}")


def _show(made: "PreparedCityscapes", expected: Mapping[str, int]) -> None:
    """Print the images of each city, and of each split against those of the release."""
    table = console.table("split", "city", "images", "expected", right=("images", "expected"))
    for split, cities in made.cities.items():
        for city, count in cities.items():
            table.add_row(split, city, str(count), "")
        total, wanted = made.counts[split], expected[split]
        style = "bold" if total == wanted else "bold yellow"
        table.add_row(split, "all", str(total), str(wanted), style=style, end_section=True)
    console.out.print(table)

"""`drn data prepare pairs`."""

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from drn_cli.cli import console
from drn_cli.cli.images import MaxPixels
from drn_cli.cli.prepare.common import AsJson, progress_bar, report

EPILOG = """[bold]Examples[/]

  drn data prepare pairs --images photos --labels masks --out data/mine

  drn data prepare pairs --images photos --labels masks --write-classes my.csv

  drn data prepare pairs --images photos --labels masks --classes my.csv

  drn data prepare pairs --images photos --labels masks --label-suffix _mask

  drn data prepare pairs --images photos --labels masks --group '^(drive_..)'

An image and a label match if their folders and names are equal without the
suffix that all labels, or all images, have in common, such as _mask. Suffixes
are detected. Both folders are searched recursively.

Labels contain class ids (gray or palette; 255 is ignored), or colors that a
class file defines: CSV with the header name,r,g,b, lines "R G B name", or a
JSON list. For class ids one name per line suffices; a column id maps other
label values to classes. Classes named void, ignore or unlabeled become 255.

An existing split is kept: folders train, val (valid, validation) and test
above or below the images, ImageSets/Segmentation/*.txt of Pascal VOC, or
train.txt and val.txt beside the data. Otherwise, or with --split random, the
split is a function of names and seed: adding images does not move others, and
ratios are met on average. --group keeps related images in one split.

Images of the data folder are hard links to yours, or copies if the file
system has no hard links, so do not edit them. A second run with the same
files does nothing.
"""


def pairs(
    images: Annotated[Path, typer.Option(help="Folder of the images.", show_default=False)],
    labels: Annotated[Path, typer.Option(help="Folder of the labels.", show_default=False)],
    out: Annotated[Path, typer.Option(help="Data folder to write.")] = Path("data/pairs"),
    classes: Annotated[Path | None, typer.Option(help="Class file: names, colors, ids.")] = None,
    write_classes: Annotated[
        Path | None,
        typer.Option(
            help="Write a class file with the values of the labels, to add names to; then stop."
        ),
    ] = None,
    ignore: Annotated[
        list[str] | None,
        typer.Option(metavar="VALUE|NAME", help="Label value or class to ignore; may be repeated."),
    ] = None,
    unknown_as_void: Annotated[
        bool, typer.Option("--unknown-as-void", help="Ignore colors and values of no class.")
    ] = False,
    split: Annotated[
        Literal["keep", "random"],
        typer.Option(help="keep: the split of the source, if it has one."),
    ] = "keep",
    val: Annotated[
        float | None, typer.Option(help="Ratio of validation images.  [default: 0.1]")
    ] = None,
    test: Annotated[float | None, typer.Option(help="Ratio of test images.  [default: 0]")] = None,
    seed: Annotated[
        int | None, typer.Option(help="Random seed of the split.  [default: 0]")
    ] = None,
    group: Annotated[
        str | None,
        typer.Option(metavar="REGEX", help="Keep images together whose paths have the same match."),
    ] = None,
    image_suffix: Annotated[
        str | None, typer.Option(help="Suffix of image names. Default: detected.")
    ] = None,
    label_suffix: Annotated[
        str | None, typer.Option(help="Suffix of label names. Default: detected.")
    ] = None,
    skip_unmatched: Annotated[
        bool,
        typer.Option(
            "--skip-unmatched", help="Skip images without labels, and labels without images."
        ),
    ] = False,
    max_pixels: MaxPixels = None,
    as_json: AsJson = False,
) -> None:
    """Folders of your own images and label maps."""
    from drn_cli.data.prepare.label_reading import scan_labels, write_class_file
    from drn_cli.data.prepare.pairs import match_folders, prepare_pairs
    from drn_cli.data.prepare.splits import SplitRatios
    from drn_cli.files import read_json

    folders = match_folders(
        images,
        labels,
        image_suffix=image_suffix,
        label_suffix=label_suffix,
        skip_unmatched=skip_unmatched,
    )
    found = folders.pairing
    console.note(str(found))
    if write_classes is not None:
        with progress_bar("label") as progress:
            count = write_class_file(write_classes, scan_labels(folders.label_files(), progress))
        if as_json:
            console.emit_json({"out": str(write_classes), "classes": count})
            return
        noun = "class" if count == 1 else "classes"
        console.out.print(f"{write_classes} written: {count} {noun}", soft_wrap=True)
        console.note(f"add names (void: ignored), then use it with --classes {write_classes}")
        return
    given = {"val": val, "test": test, "seed": seed, "group": group}
    ratios: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    with progress_bar("file") as progress:
        made = prepare_pairs(
            folders,
            out,
            progress,
            classes=classes,
            ignore=ignore or (),
            unknown_as_void=unknown_as_void,
            ratios=SplitRatios(**ratios) if ratios else None,
            keep_split=split == "keep",
        )
    info = read_json(made.out / "info.json")
    number = len(info["classes"])
    then = f"drn train drn_d_22_camvid data.root={made.out} data.classes={number}"
    about = {"split": info.get("split"), "left_out": folders.left_out.to_json()}
    report(made, as_json, f"train with: {then}", **about)

"""`drn data prepare pairs`."""

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from drn_cli.cli import console
from drn_cli.cli.images import MaxPixels
from drn_cli.cli.prepare.common import AsJson, progress_bar, report

EPILOG = """[bold]Examples[/]

  drn data prepare pairs --images photos --labels masks --out data/mine

  drn data prepare pairs --images photos --labels masks --write-classes classes.csv

  drn data prepare pairs --images photos --labels masks --classes classes.csv

  drn data prepare pairs --images leftImg8bit --labels gtFine --label-suffix _gtFine_labelIds

  drn data prepare pairs --images photos --labels masks --val 0.2 --group '^(drive_[0-9]+)'

A label belongs to the image of the same folder and name once a suffix that all labels have,
_mask for instance, is removed. It is found by looking, and so is one that all images have.
Both folders are searched with all that is in them.

Labels hold class ids (grey or palette; 255 is ignored), or colours that a class file names:
CSV with the header name,r,g,b, lines "R G B name", or a JSON list. For class ids one name a line
is enough; a column id gives the label value of each class where these are not 0, 1, 2 and so on.
Classes called void, ignore or unlabeled become 255.

A split that the source has is kept: folders train, val (valid, validation) and test above or below
the images, ImageSets/Segmentation/*.txt of Pascal VOC, or train.txt and val.txt beside the data.
Otherwise, or with --split random, it depends on names and seed alone: more images do not move
those that were there, and shares are met on average. --group keeps images together, those of a
drive for instance.

Images in the data folder are hard links to yours where the file system allows it, and copies
elsewhere: do not edit them in place. A second run with the same files does nothing.
"""


def pairs(
    images: Annotated[Path, typer.Option(help="Folder of the images.", show_default=False)],
    labels: Annotated[Path, typer.Option(help="Folder of the labels.", show_default=False)],
    out: Annotated[Path, typer.Option(help="Data folder to make.")] = Path("data/pairs"),
    classes: Annotated[Path | None, typer.Option(help="Class file: names, colours, ids.")] = None,
    write_classes: Annotated[
        Path | None,
        typer.Option(help="Write a class file of what the labels hold, to put names into; stop."),
    ] = None,
    ignore: Annotated[
        list[str] | None,
        typer.Option(metavar="VALUE|NAME", help="Label value or class to ignore; repeat for more."),
    ] = None,
    unknown_as_void: Annotated[
        bool, typer.Option("--unknown-as-void", help="Ignore colours and values of no class.")
    ] = False,
    split: Annotated[
        Literal["keep", "random"],
        typer.Option(help="Keep the split of the source, if it has one."),
    ] = "keep",
    val: Annotated[
        float | None, typer.Option(help="Share of the images to validate with.  [default: 0.1]")
    ] = None,
    test: Annotated[
        float | None, typer.Option(help="Share of the images to test with.  [default: 0]")
    ] = None,
    seed: Annotated[
        int | None, typer.Option(help="Another seed, another split.  [default: 0]")
    ] = None,
    group: Annotated[
        str | None,
        typer.Option(metavar="REGEX", help="Images whose paths match equally stay together."),
    ] = None,
    image_suffix: Annotated[
        str | None, typer.Option(help="What names of images end with; found by looking.")
    ] = None,
    label_suffix: Annotated[
        str | None, typer.Option(help="What names of labels end with; found by looking.")
    ] = None,
    skip_unmatched: Annotated[
        bool, typer.Option("--skip-unmatched", help="Leave out what has no counterpart.")
    ] = False,
    max_pixels: MaxPixels = None,
    as_json: AsJson = False,
) -> None:
    """Your own folders of images and labels."""
    from drn_cli.data.prepare.label_reading import look, write_class_file
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
    found = folders.matching
    console.note(str(found))
    if write_classes is not None:
        with progress_bar("label") as progress:
            count = write_class_file(write_classes, look(folders.label_files(), progress))
        _tell_written(write_classes, count, as_json)
        return
    given = {"val": val, "test": test, "seed": seed, "group": group}
    shares: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    with progress_bar("file") as progress:
        made = prepare_pairs(
            folders,
            out,
            progress,
            classes=classes,
            ignore=ignore or (),
            unknown_as_void=unknown_as_void,
            shares=SplitRatios(**shares) if shares else None,
            keep_split=split == "keep",
        )
    info = read_json(made.out / "info.json")
    number = len(info["classes"])
    then = f"drn train drn_d_22_camvid data.root={made.out} data.classes={number}"
    about = {"split": info.get("split"), "left_out": folders.left_out.to_json()}
    report(made, as_json, f"train on it: {then}", **about)


def _tell_written(path: Path, count: int, as_json: bool) -> None:
    if as_json:
        console.emit_json({"classes_file": str(path), "classes": count})
        return
    console.out.print(f"{path} written: {count} classes", soft_wrap=True)
    console.note(f"put names into it, void for what to ignore; then: --classes {path}")

"""`drn data show`: draw a contact sheet of a data folder."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from drn_cli.cli import console
from drn_cli.cli.images import MaxPixels
from drn_cli.cli.prepare.common import AsJson, progress_bar
from drn_cli.errors import DrnError

if TYPE_CHECKING:
    from drn_cli.data.parallel import Progress
    from drn_cli.data.showing.samples import ContactSheet, SampleSelection
    from drn_cli.recipe.schema import Recipe

Split = Literal["train", "val", "test"]

SHEET = "contact-sheet.png"

EPILOG = """[bold]Examples[/]

  drn data show data/camvid

  drn data show data/camvid --recipe drn_d_22_camvid augment.rotate=10

  drn data show data/cityscapes --split val --count 10 --out val.png

  drn data show data/imagenet        class folders: train/CLASS, val/CLASS

One row per sample, evenly spaced over the split: image, label map, overlay,
and the training crops of three epochs with class borders. Stripes mark
ignored pixels. Class folders: the image and resized crops, or for val the
center crop.

Without --recipe, crops are 3/4 of the first image's shorter side, scaled by
up to 1.5 and rotated by up to 5 degrees; crops of class folders are 224 wide.
"""


def show(
    root: Annotated[Path, typer.Argument(metavar="DIR", help="Data folder, of lists or classes.")],
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="KEY=VALUE", help="Override keys of the recipe.")
    ] = None,
    out: Annotated[Path, typer.Option(help="PNG file to write.")] = Path(SHEET),
    split: Annotated[Split, typer.Option(help="Split to show.")] = "train",
    count: Annotated[int, typer.Option(min=1, max=100, help="Number of samples.")] = 6,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the crops, as train.seed.")] = 0,
    epoch: Annotated[int, typer.Option(min=0, help="First epoch whose crops are shown.")] = 0,
    recipe: Annotated[
        str | None, typer.Option(help="Recipe (name or file) with the crops and classes.")
    ] = None,
    lists: Annotated[
        Path | None, typer.Option(help="Folder of the lists and info.json, if not DIR.")
    ] = None,
    max_pixels: MaxPixels = None,
    as_json: AsJson = False,
) -> None:
    """Draw a contact sheet: images, labels, and crops as the network sees them."""
    if out.suffix.lower() != ".png":
        raise typer.BadParameter(f"--out {out}: not a .png file")
    if out.name != SHEET and out.exists() and out.resolve().is_relative_to(root.resolve()):
        raise DrnError(
            f"{out}: already exists in the data folder, whose files are not overwritten",
            "remove it or use another --out",
        )
    settings = _recipe(root, recipe, overrides or [])
    from drn_cli.data.class_folders import is_class_folder
    from drn_cli.data.images import write_png
    from drn_cli.data.showing.samples import SampleSelection, in_words

    if lists is None and settings is not None and settings.data.lists is not None:
        lists = Path(settings.data.lists)
    make = _class_folder if lists is None and is_class_folder(root) else _list_folder
    with progress_bar() as progress:
        sheet = make(root, lists, split, SampleSelection(count, seed, epoch), settings, progress)
    write_png(out, sheet.pixels)
    if as_json:
        console.emit_json(
            {
                "out": str(out),
                "split": split,
                "images": sheet.images,
                "class_names": list(sheet.classes),
                "seed": seed,
                "augmentation": sheet.settings,
                "samples": sheet.samples,
            }
        )
        return
    if sheet.settings is not None:
        console.note(f"training crops with seed {seed}: {in_words(sheet.settings)}")
        if recipe is None:
            console.note("these are default crops; --recipe NAME shows those of a recipe")
    shown = f"{len(sheet.samples)} of {sheet.images} {split} images"
    console.out.print(f"{out}: {shown}", soft_wrap=True)


def _recipe(root: Path, name: str | None, overrides: list[str]) -> "Recipe | None":
    if name is None:
        if overrides:
            raise DrnError(f"{overrides[0]}: no recipe to override", "add --recipe NAME")
        return None
    from drn_cli.recipe.loading import load_recipe

    here = f"data.root={json.dumps(str(root))}"  # some recipes have none
    return load_recipe(name, [here, *overrides]).recipe


def _list_folder(
    root: Path,
    lists: Path | None,
    split: Split,
    choice: "SampleSelection",
    recipe: "Recipe | None",
    progress: "Progress",
) -> "ContactSheet":
    from drn_cli.data.augment import Augmentation
    from drn_cli.data.folders import ListDataset
    from drn_cli.data.showing.pairs import list_folder_sheet

    folder = ListDataset.open(root, lists)
    if recipe is None:
        return list_folder_sheet(folder, split, choice, progress=progress)
    if recipe.task != "segmentation":
        raise DrnError(
            f"{root}: contains lists of images and labels, but the recipe trains a classifier",
            "use a recipe for segmentation",
        )
    augment = recipe.augment
    augmentation = Augmentation(augment.crop, augment.scale, augment.rotate, augment.flip)
    classes = recipe.data.classes
    return list_folder_sheet(folder, split, choice, augmentation, classes, progress)


def _class_folder(
    root: Path,
    _: Path | None,
    split: Split,
    choice: "SampleSelection",
    recipe: "Recipe | None",
    progress: "Progress",
) -> "ContactSheet":
    from drn_cli.data.class_folders import FolderDataset
    from drn_cli.data.resized_crop import ResizedCrop
    from drn_cli.data.showing.classes import class_folder_sheet

    if split == "test":
        raise DrnError("--split test: class folders have only train and val")
    folder = FolderDataset.open(root)
    crop = ResizedCrop()
    if recipe is not None:
        if recipe.task != "classification":
            raise DrnError(
                f"{root}: contains class folders, but the recipe trains a segmenter",
                "use a recipe for classification",
            )
        if recipe.data.classes != len(folder.names):
            raise DrnError(
                f"{root}: has {len(folder.names)} classes, the recipe {recipe.data.classes}",
                f"set data.classes={len(folder.names)}",
            )
        crop = ResizedCrop(recipe.augment.crop, recipe.augment.flip)
    return class_folder_sheet(folder, split, choice, crop, progress)

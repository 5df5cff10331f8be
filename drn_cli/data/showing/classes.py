"""A class folder on a contact sheet: images, and the crops that a classifier gets to see.

Training samples come with the very crops that training takes, the same function of (seed, epoch,
sample); those of validation with the one crop that they are tested on.
"""

from dataclasses import asdict

from drn_cli.data.class_folders import ClassSample, FolderDataset, Split
from drn_cli.data.images import Pixels, read_image
from drn_cli.data.parallel import Progress
from drn_cli.data.resized_crop import CropParams, ResizedCrop, center_crop
from drn_cli.data.showing.contact_sheet import Cell, thumbnail
from drn_cli.data.showing.samples import (
    ContactSheet,
    SampleRow,
    SampleSelection,
    make_sheet,
    render_each,
)

TESTED = 256 / 224  # the shorter side of an image, relative to the crop it is tested on


def class_folder_sheet(
    folder: FolderDataset,
    split: Split,
    choice: SampleSelection,
    crop: ResizedCrop,
    progress: Progress | None = None,
) -> ContactSheet:
    """Show samples of a split.

    Args:
        folder: Where they are.
        split: Which of its splits.
        choice: Which samples.
        crop: That of training; its size is that of the tested crop too.
        progress: Told how many samples are done.

    Raises:
        DrnError: The split is missing, or an image is broken.
    """
    samples = folder.samples(split)

    def show(number: int) -> SampleRow:
        sample = samples[number]
        image = read_image(sample.image)
        shown = _show_image(sample, number, folder.names[sample.target], image)
        if split == "train":
            _add_crops(shown, image, number, crop, choice)
        else:
            tested = center_crop(image, crop.crop, round(TESTED * crop.crop))
            shown.tiles.append(Cell(thumbnail(tested), f"as it is tested: the centre {crop.crop}"))
        return shown

    shown = render_each(choice.of(len(samples)), show, progress)
    settings = asdict(crop) if split == "train" else None
    where = f"{folder.root}, {split}"
    return make_sheet(where, len(samples), shown, classes=folder.names, settings=settings)


def _show_image(sample: ClassSample, number: int, name: str, image: Pixels) -> SampleRow:
    height, width = image.shape[:2]
    facts = {
        "sample": number,
        "image": str(sample.image),
        "class": name,
        "width": width,
        "height": height,
    }
    return SampleRow(
        [Cell(thumbnail(image), f"{name}: {sample.image.name} ({width}x{height})")], facts
    )


def _add_crops(
    shown: SampleRow, image: Pixels, number: int, crop: ResizedCrop, choice: SampleSelection
) -> None:
    shown.facts["crops"] = []
    for epoch in choice.epochs:
        window = crop.draw(choice.seed, epoch, number, *image.shape[:2])
        shown.tiles.append(
            Cell(thumbnail(crop.apply(image, window)), f"epoch {epoch}: {_in_words(window)}")
        )
        shown.facts["crops"].append({"epoch": epoch, **asdict(window)})


def _in_words(window: CropParams) -> str:
    mirrored = ", mirrored" if window.mirrored else ""
    return f"from {window.width}x{window.height}{mirrored}"

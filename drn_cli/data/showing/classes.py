"""Contact sheets of class folders: images and the crops that a classifier is given.

Training samples are shown with the same crops as in training, a function of (seed, epoch, sample),
validation samples with their evaluation crop.
"""

from dataclasses import asdict

from drn_cli.data.class_folders import FolderDataset, Split
from drn_cli.data.images import read_image
from drn_cli.data.parallel import Progress
from drn_cli.data.resized_crop import ResizedCrop, center_crop
from drn_cli.data.showing.contact_sheet import Cell, thumbnail
from drn_cli.data.showing.samples import (
    ContactSheet,
    SampleRow,
    SampleSelection,
    image_row,
    make_sheet,
    render_each,
)

RESIZE = 256 / 224  # shorter side of an image, relative to its evaluation crop


def class_folder_sheet(
    folder: FolderDataset,
    split: Split,
    choice: SampleSelection,
    crop: ResizedCrop,
    progress: Progress | None = None,
) -> ContactSheet:
    """Make the contact sheet of a split.

    Args:
        folder: Data folder.
        split: Split to show.
        choice: Samples to show.
        crop: Crops of training; their size is also that of evaluation crops.
        progress: Called with samples done and total.

    Raises:
        DrnError: The split is missing, or an image is broken.
    """
    samples = folder.samples(split)

    def show(number: int) -> SampleRow:
        sample = samples[number]
        image = read_image(sample.image)
        name = folder.names[sample.target]
        row = image_row(number, sample.image, image, {"class": name}, f"{name}: ")
        if split == "train":
            row.facts["crops"] = []
            for epoch in choice.epochs:
                params = crop.draw(choice.seed, epoch, number, *image.shape[:2])
                flipped = ", flipped" if params.mirrored else ""
                caption = f"epoch {epoch}: from {params.width}x{params.height}{flipped}"
                row.cells.append(Cell(thumbnail(crop.apply(image, params)), caption))
                row.facts["crops"].append({"epoch": epoch, **asdict(params)})
        else:
            center = center_crop(image, crop.crop, round(RESIZE * crop.crop))
            row.cells.append(Cell(thumbnail(center), f"evaluation crop: center {crop.crop}"))
        return row

    shown = render_each(choice.of(len(samples)), show, progress)
    settings = asdict(crop) if split == "train" else None
    where = f"{folder.root}, {split}"
    return make_sheet(where, len(samples), shown, classes=folder.names, settings=settings)

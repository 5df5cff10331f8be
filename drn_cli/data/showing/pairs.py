"""Contact sheets of list folders: images, label maps and augmented crops.

Training samples are shown with the same crops as in training, a function of (seed, epoch, sample).
Images of the other splits are not augmented.
"""

from collections.abc import Sequence
from dataclasses import asdict

import numpy as np

from drn_cli.data.augment import Augmentation
from drn_cli.data.classes import IGNORED, ClassSet, generic
from drn_cli.data.decoding import read_pair
from drn_cli.data.folders import ListDataset, Sample, Split
from drn_cli.data.images import read_image, read_label
from drn_cli.data.parallel import Progress
from drn_cli.data.showing.contact_sheet import SWATCH, Cell, LegendEntry, label_thumbnail, thumbnail
from drn_cli.data.showing.label_paint import colorize, outline, overlay
from drn_cli.data.showing.samples import (
    ContactSheet,
    SampleRow,
    SampleSelection,
    image_row,
    make_sheet,
    render_each,
)
from drn_cli.files import read_json

MANY = 40  # classes; with more, the legend contains only those on the sheet


def list_folder_sheet(
    folder: ListDataset,
    split: Split,
    choice: SampleSelection,
    augmentation: Augmentation | None = None,
    classes: int | None = None,
    progress: Progress | None = None,
) -> ContactSheet:
    """Make the contact sheet of a split; without a list of labels it shows images only.

    Args:
        folder: Data folder.
        split: Split to show.
        choice: Samples to show.
        augmentation: Augmentation of training; by default chosen by the size of the first image.
        classes: Number of classes; by default that of info.json, or of the labels shown.
        progress: Called with samples done and total.

    Raises:
        DrnError: A list or a file is missing or broken, or a label value is not a class.
    """
    where = f"{folder.root}, {split}"
    labelled = (folder.lists / f"{split}_labels.txt").is_file()
    samples = folder.samples(split, labels=labelled)
    numbers = choice.of(len(samples))
    if not labelled:

        def show_image(number: int) -> SampleRow:
            path = samples[number].image
            return image_row(number, path, read_image(path), {"label": None})

        shown = render_each(numbers, show_image, progress)
        return make_sheet(where, len(samples), shown)
    class_set = _class_set(folder, [samples[n] for n in numbers], classes)
    if split != "train":
        augmentation = None
    elif augmentation is None:
        augmentation = default_augmentation(*read_image(samples[numbers[0]].image).shape[:2])
    shown = render_each(
        numbers, lambda n: _show_pair(samples[n], n, class_set, augmentation, choice), progress
    )
    present = {name for row in shown for name in row.facts["class_names"]}
    many = len(class_set) > MANY
    legend = [(n, name) for n, name in enumerate(class_set.names) if not many or name in present]
    keys = [
        LegendEntry(name, colorize(np.full((SWATCH, SWATCH), n, np.uint8), class_set))
        for n, name in (*legend, (IGNORED, "ignored"))
    ]
    settings = asdict(augmentation) if augmentation else None
    return make_sheet(
        where, len(samples), shown, classes=class_set.names, settings=settings, keys=keys
    )


def default_augmentation(height: int, width: int) -> Augmentation:
    """Return an augmentation for images of this size, with crops of 3/4 of the shorter side."""
    return Augmentation(crop=max(8, min(height, width) * 3 // 4 // 8 * 8), scale=1.5, rotate=5)


def _class_set(folder: ListDataset, samples: Sequence[Sample], count: int | None) -> ClassSet:
    """Return names and colors for `count` classes, those of info.json, or those in the labels."""
    path = folder.lists / "info.json"
    if count is None and path.is_file():
        info = read_json(path)
        names = info.get("classes") if isinstance(info, dict) else None
        count = len(names) if isinstance(names, list) else None
    if count is None:
        labels = [read_label(sample.label) for sample in samples if sample.label is not None]
        return generic(1 + max(int(label[label != IGNORED].max(initial=0)) for label in labels))
    return folder.class_set(count)


def _show_pair(
    sample: Sample,
    number: int,
    classes: ClassSet,
    augmentation: Augmentation | None,
    choice: SampleSelection,
) -> SampleRow:
    """Render an image, its label map, their overlay, and augmented crops."""
    image, label = read_pair(sample, len(classes))
    small, small_label = thumbnail(image), label_thumbnail(label)
    counts = np.bincount(label.ravel(), minlength=256)
    present = [name for name, count in zip(classes.names, counts, strict=False) if count]
    ignored = float(counts[IGNORED] / label.size)
    row = image_row(number, sample.image, image, {"label": str(sample.label)})
    row.facts.update(class_names=present, ignored=ignored)
    caption = f"{len(present)} classes, {ignored:.1%} ignored"
    row.cells.append(Cell(colorize(small_label, classes), caption))
    row.cells.append(Cell(overlay(small, small_label, classes), "label over image"))
    if augmentation is not None:
        row.facts["crops"] = []
        for epoch in choice.epochs:
            params = augmentation.draw(choice.seed, epoch, number)
            crop, crop_label = augmentation.apply(image, label, params)
            pixels = outline(thumbnail(crop), label_thumbnail(crop_label), classes)
            flipped = ", flipped" if params.mirrored else ""
            caption = f"epoch {epoch}: {params.angle}°, {params.ratio:.2f}x{flipped}"
            row.cells.append(Cell(pixels, caption))
            row.facts["crops"].append({"epoch": epoch, **asdict(params)})
    return row

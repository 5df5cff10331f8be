"""A list folder on a contact sheet: images, label maps, and what training makes of them.

Training samples come with the very crops that training takes, the same function of (seed, epoch,
sample). Images of the other splits are not augmented, so they come without.
"""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from drn_cli.data.augment import Augmentation, AugmentParams
from drn_cli.data.classes import IGNORED, ClassSet, generic
from drn_cli.data.decoding import read_pair
from drn_cli.data.folders import ListDataset, Sample, Split
from drn_cli.data.images import Pixels, read_image, read_label
from drn_cli.data.parallel import Progress
from drn_cli.data.showing.contact_sheet import (
    SWATCH,
    Cell,
    LegendEntry,
    label_thumbnail,
    thumbnail,
)
from drn_cli.data.showing.label_paint import colorize, outline, overlay
from drn_cli.data.showing.samples import (
    ContactSheet,
    SampleRow,
    SampleSelection,
    make_sheet,
    render_each,
)
from drn_cli.files import read_json

MANY = 40  # classes; of more, only those on the sheet are in the legend


def list_folder_sheet(
    folder: ListDataset,
    split: Split,
    choice: SampleSelection,
    augmentation: Augmentation | None = None,
    classes: int | None = None,
    progress: Progress | None = None,
) -> ContactSheet:
    """Show samples of a split; one without a list of labels has images only.

    Args:
        folder: Where they are.
        split: Which of its splits.
        choice: Which samples.
        augmentation: That of training. By default one that suits the images' size.
        classes: How many. By default as many as info.json names, or as the labels shown have.
        progress: Told how many samples are done.

    Raises:
        DrnError: A list or a file is missing or broken, or a label is of no class.
    """
    where = f"{folder.root}, {split}"
    labelled = (folder.lists / f"{split}_labels.txt").is_file()
    samples = folder.samples(split, labels=labelled)
    numbers = choice.of(len(samples))
    if not labelled:
        shown = render_each(numbers, lambda n: _show_image(samples[n], n), progress)
        return make_sheet(where, len(samples), shown)
    class_set = _class_set(folder, [samples[n] for n in numbers], classes)
    if split != "train":
        augmentation = None
    elif augmentation is None:
        augmentation = default_augmentation(*read_image(samples[numbers[0]].image).shape[:2])
    shown = render_each(
        numbers, lambda n: _show_pair(samples[n], n, class_set, augmentation, choice), progress
    )
    return make_sheet(
        where,
        len(samples),
        shown,
        classes=class_set.names,
        settings=asdict(augmentation) if augmentation else None,
        keys=_legend(class_set, {name for one in shown for name in one.facts["class_names"]}),
    )


def default_augmentation(height: int, width: int) -> Augmentation:
    """Choose an augmentation for images of this size: crops of 3/4 of the shorter side."""
    return Augmentation(crop=max(8, min(height, width) * 3 // 4 // 8 * 8), scale=1.5, rotate=5)


def _class_set(folder: ListDataset, samples: Sequence[Sample], count: int | None) -> ClassSet:
    """Find names and colours of the classes, as many as somebody says or the labels have."""
    info = folder.lists / "info.json"
    if count is None and info.is_file():
        found = read_json(info)
        names = found.get("classes") if isinstance(found, dict) else None
        count = len(names) if isinstance(names, list) else None
    if count is None:
        labels = [read_label(sample.label) for sample in samples if sample.label is not None]
        return generic(1 + max(int(label[label != IGNORED].max(initial=0)) for label in labels))
    return folder.class_set(count)


def _show_image(sample: Sample, number: int) -> SampleRow:
    image = read_image(sample.image)
    return SampleRow([_as_it_is(sample, image)], _facts(sample, number, image))


def _show_pair(
    sample: Sample,
    number: int,
    classes: ClassSet,
    augmentation: Augmentation | None,
    choice: SampleSelection,
) -> SampleRow:
    """Show an image, its label map, both in one, and the crops of some epochs."""
    image, label = read_pair(sample, len(classes))
    little, little_label = thumbnail(image), label_thumbnail(label)
    counts = np.bincount(label.ravel(), minlength=256)
    present = [name for name, count in zip(classes.names, counts, strict=False) if count]
    ignored = float(counts[IGNORED] / label.size)
    tiles = [
        _as_it_is(sample, image),
        Cell(colorize(little_label, classes), f"{len(present)} classes, {ignored:.1%} ignored"),
        Cell(overlay(little, little_label, classes), "label over image"),
    ]
    facts = _facts(sample, number, image) | {"class_names": present, "ignored": ignored}
    if augmentation is not None:
        facts["crops"] = []
        for epoch in choice.epochs:
            draw = augmentation.draw(choice.seed, epoch, number)
            crop, crop_label = augmentation.apply(image, label, draw)
            seen = outline(thumbnail(crop), label_thumbnail(crop_label), classes)
            tiles.append(Cell(seen, f"epoch {epoch}: {_in_words(draw)}"))
            facts["crops"].append({"epoch": epoch, **asdict(draw)})
    return SampleRow(tiles, facts)


def _as_it_is(sample: Sample, image: Pixels) -> Cell:
    height, width = image.shape[:2]
    return Cell(thumbnail(image), f"{sample.image.name} ({width}x{height})")


def _facts(sample: Sample, number: int, image: Pixels) -> dict[str, Any]:
    height, width = image.shape[:2]
    label = None if sample.label is None else str(sample.label)
    return {
        "sample": number,
        "image": str(sample.image),
        "label": label,
        "width": width,
        "height": height,
    }


def _in_words(draw: AugmentParams) -> str:
    mirrored = ", mirrored" if draw.mirrored else ""
    return f"{draw.angle}°, {draw.ratio:.2f}x{mirrored}"


def _legend(classes: ClassSet, shown: set[str]) -> list[LegendEntry]:
    """Name the classes and their colours, and show what ignored pixels look like."""
    flat = np.zeros((SWATCH, SWATCH), np.uint8)
    numbers = [n for n, name in enumerate(classes.names) if len(classes) <= MANY or name in shown]
    keys = [LegendEntry(classes.names[n], colorize(flat + np.uint8(n), classes)) for n in numbers]
    return [*keys, LegendEntry("ignored", colorize(flat + np.uint8(IGNORED), classes))]

"""Print scores as tables, and write a CSV row for each image."""

import os.path
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from drn_cli.cli import console

if TYPE_CHECKING:
    from drn_cli.data.classes import ClassSet
    from drn_cli.evaluation.classification import ImageRanking, TopKScores
    from drn_cli.evaluation.confusion import ImageScores, SegmentationScores


def print_segmentation(scores: "SegmentationScores", class_set: "ClassSet", worst: int) -> None:
    """Print the IoU of each class, the means, and the images with the lowest mIoU."""
    from drn_cli.evaluation.confusion import worst_first

    numbers = ("IoU %", "labeled pixels")
    table = console.table("class", *numbers, right=numbers)
    for name, iou, labeled in zip(
        class_set.names, scores.iou, scores.matrix.sum(axis=1).tolist(), strict=True
    ):
        table.add_row(name, _percent(iou), f"{labeled:,}")
    categories = scores.categories(class_set)
    if categories:
        table.add_section()
    for name, iou in categories.items():
        table.add_row(f"category {name}", _percent(iou), "")
    table.add_section()
    table.add_row("mIoU", f"{100 * scores.miou:.2f}", "", style="bold")
    for name, value in (
        ("pixel accuracy", scores.pixel_accuracy),
        ("mean accuracy", scores.mean_accuracy),
        ("frequency-weighted IoU", scores.frequency_weighted_iou),
    ):
        table.add_row(name, _percent(value), "")
    console.out.print(table)
    absent = sum(iou is None for iou in scores.iou)
    if absent:
        classes = "1 class is" if absent == 1 else f"{absent} classes are"
        console.note(f"{classes} absent from labels and predictions, and not in the means")
    lowest = [one for one in worst_first(scores.per_image) if one.miou is not None][:worst]
    if lowest:
        numbers = ("mIoU %", "accuracy %")
        table = console.table("image", *numbers, right=numbers, fold=True)
        for name, one in zip(_name_worst([one.image for one in lowest]), lowest, strict=True):
            table.add_row(name, _percent(one.miou), _percent(one.pixel_accuracy))
        console.out.print(table)


def _name_worst(paths: Sequence[str]) -> list[str]:
    """Print the common folder of the worst images, and return their paths relative to it."""
    folder = os.path.commonpath([Path(path).parent for path in paths])
    where = f" in {folder}" if folder != "." else ""
    console.out.print(f"\nworst images{where}:", soft_wrap=True)
    return [os.path.relpath(path, folder) for path in paths]


def _percent(value: float | None) -> str:
    return "absent" if value is None else f"{100 * value:.2f}"


def write_segmentation(path: Path, images: Sequence["ImageScores"], class_set: "ClassSet") -> None:
    """Write a CSV row for each image, worst first; scores are fractions of 1.

    Raises:
        DrnError: The file cannot be written.
    """
    from drn_cli.evaluation.confusion import worst_first
    from drn_cli.files import write_csv

    def cell(value: float | None) -> str:
        return "" if value is None else f"{value:.6f}"

    write_csv(
        path,
        ("image", "label", "miou", "pixel_accuracy", *class_set.names),
        (
            (one.image, one.label, cell(one.miou), cell(one.pixel_accuracy), *map(cell, one.iou))
            for one in worst_first(images)
        ),
    )


def print_classification(scores: "TopKScores", names: Sequence[str], worst: int) -> None:
    """Print top-1 and top-5 accuracy and error, and the misclassified images of lowest rank."""
    from drn_cli.evaluation.classification import worst_images

    numbers = ("accuracy %", "error %")
    table = console.table("", *numbers, right=numbers)
    for name, accuracy in (("top-1", scores.top1), ("top-5", scores.top5)):
        table.add_row(name, f"{100 * accuracy:.2f}", f"{100 * (1 - accuracy):.2f}")
    console.out.print(table)
    wrong = [one for one in worst_images(scores.per_image) if one.rank != 1][:worst]
    if wrong:
        table = console.table("image", "class", "predicted", "rank", right=("rank",), fold=True)
        for name, one in zip(_name_worst([one.image for one in wrong]), wrong, strict=True):
            table.add_row(name, names[one.target], names[one.best[0]], str(one.rank))
        console.out.print(table)


def write_classification(
    path: Path, images: Sequence["ImageRanking"], names: Sequence[str]
) -> None:
    """Write a CSV row for each image, worst first: class, its rank, the five best classes.

    Raises:
        DrnError: The file cannot be written.
    """
    from drn_cli.evaluation.classification import SHOWN, worst_images
    from drn_cli.files import write_csv

    shown = min(SHOWN, len(names))
    best = [name for n in range(1, shown + 1) for name in (f"class_{n}", f"probability_{n}")]
    write_csv(
        path,
        ("image", "class", "rank", *best),
        (
            (
                one.image,
                names[one.target],
                one.rank,
                *(
                    cell
                    for k, probability in zip(one.best, one.probabilities, strict=True)
                    for cell in (names[k], f"{probability:.6f}")
                ),
            )
            for one in worst_images(images)
        ),
    )

"""An evaluation as one HTML page: scores, confusion, and the worst and the best pictures."""

import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any, TypeVar

from drn_cli.data.classes import ClassSet
from drn_cli.data.images import read_image
from drn_cli.evaluation.classification import TopScores, worst_ranked
from drn_cli.evaluation.confusion import Scores, worst_first
from drn_cli.files import write_text
from drn_cli.inference.classifier import Classifier
from drn_cli.report.class_scores import class_scores
from drn_cli.report.facts import definitions
from drn_cli.report.frame import page
from drn_cli.report.gallery import Gallery
from drn_cli.report.gallery_page import gallery_section, no_gallery
from drn_cli.report.history import number
from drn_cli.report.pictures import SegmentedPicture, classified_picture
from drn_cli.report.words import percent

# What an evaluation tells, under the names that people use.
SCORES = (
    ("miou", "mIoU"),
    ("category_miou", "mIoU of categories"),
    ("pixel_accuracy", "Pixel accuracy"),
    ("mean_accuracy", "Mean accuracy"),
    ("frequency_weighted_iou", "Frequency-weighted IoU"),
    ("top1", "Top-1 accuracy"),
    ("top5", "Top-5 accuracy"),
)

One = TypeVar("One")


def write_segmentation_page(
    path: Path,
    told: Mapping[str, Any],
    scores: Scores,
    class_set: ClassSet,
    show: Callable[[int], SegmentedPicture],
    count: int,
) -> None:
    """Write the page of a segmenter's scores, whole or not at all.

    Args:
        path: The file.
        told: What `drn eval --json` tells.
        scores: With the scores of each picture.
        class_set: Names and colours of the classes.
        show: Gives a picture by its number.
        count: How many pictures to show, at most.

    Raises:
        DrnError: A picture cannot be read any more, or the file not be written.
    """
    scored = [one for one in worst_first(scores.pictures) if one.miou is not None]
    chosen = worst_and_best(scored, count)
    which = intro(len(chosen), len(scored), "mIoU")
    if void := len(scores.pictures) - len(scored):
        which += f" {void} more, all void, have no score."
    gallery = Gallery(
        which,
        class_set,
        [show(one.number) for one in chosen],
        best_from(len(chosen), len(scored)),
        has_pictures="prediction_ids" not in told.get("protocol", {}),
    )
    colours = dict(zip(class_set.names, class_set.colours, strict=True))
    sections = [
        _header(told),
        class_scores(dict(told), colours, f"over {scores.images} pictures"),
        gallery_or_none(gallery),
    ]
    write_text(path, page(_title(told), sections))


def write_classification_page(
    path: Path, told: Mapping[str, Any], scores: TopScores, classifier: Classifier, count: int
) -> None:
    """Write the page of a classifier's scores; as `write_segmentation_page`."""
    ranked = worst_ranked(scores.pictures)
    chosen = worst_and_best(ranked, count)
    pictures = [
        classified_picture(one.image, read_image(Path(one.image)), one.target, classifier)
        for one in chosen
    ]
    which = intro(len(chosen), len(ranked), "the place of the true class")
    gallery = Gallery(which, None, pictures, best_from(len(chosen), len(ranked)))
    write_text(path, page(_title(told), [_header(told), gallery_or_none(gallery)]))


def worst_and_best(ordered: Sequence[One], count: int) -> list[One]:
    """Choose the first and the last of what is in order, half of each; all if there are few."""
    if len(ordered) <= count:
        return list(ordered)
    best = count // 2
    return [*ordered[: count - best], *ordered[len(ordered) - best :]]


def intro(shown: int, total: int, score: str) -> str:
    """Say which pictures are shown."""
    best = best_from(shown, total)
    if best is None:
        which = f"All {total} pictures" if shown == total else f"Of {total} pictures the worst"
        return f"{which} by {score}, the worst first."
    return (
        f"Of {total} pictures the {best} worst and the {shown - best} best by {score}, "
        "the worst first."
    )


def best_from(shown: int, total: int) -> int | None:
    """Say at which of the pictures that are shown the best begin; None if all are shown, or one."""
    return shown - shown // 2 if 1 < shown < total else None


def gallery_or_none(gallery: Gallery) -> str:
    """Show pictures, if there are any."""
    return gallery_section(gallery) if gallery.pictures else no_gallery("none were asked for.")


def counted(document: Mapping[str, Any]) -> str:
    """Return how many images were scored, and of how many if that was a part."""
    if not document.get("partial"):
        return f"{document['images']:,}"
    return f"{document['scored']:,} of {document['expected']:,} (partial)"


def command_line() -> str:
    """Give the command that this is, as one may type it again."""
    return shlex.join(["drn", *sys.argv[1:]])


def _title(told: Mapping[str, Any]) -> str:
    protocol = told.get("protocol")
    if isinstance(protocol, dict):
        return f"{protocol['images']} against {protocol['labels']}"
    return f"{told['checkpoint']}, {told['split']}"


def _header(told: Mapping[str, Any]) -> str:
    facts = [
        (name, percent(value, 2))
        for key, name in SCORES
        if (value := number(dict(told), key)) is not None
    ]
    facts.append(("Pictures", counted(told)))
    if "view" in told:
        facts.append(("View", told["view"]))
    if "scales" in told:
        sizes = ", ".join(f"{scale:g}" for scale in told["scales"])
        facts.append(("Sizes", f"{sizes}{', mirrored too' if told['flip'] else ''}"))
    absent = told.get("absent_classes") or []
    if absent:
        facts.append(("Absent classes, not in the mean", ", ".join(absent)))
    protocol = told.get("protocol")
    text = protocol["text"] if isinstance(protocol, dict) else ""
    return (
        f"<header><h1>{escape(_title(told)).replace('/', '/<wbr>')}</h1>"
        f'<p class="name">{escape(command_line())}</p>{definitions(facts, "tiles")}'
        + (f"<h2>Protocol</h2><p>{escape(text)}</p>" if text else "")
        + "</header>"
    )

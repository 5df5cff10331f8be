"""The results of an evaluation, and where they go: terminal, JSON, CSV and a page."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from drn_cli.cli import console
from drn_cli.cli.evaluating.tables import (
    print_classification,
    print_segmentation,
    write_classification,
    write_segmentation,
)
from drn_cli.errors import few_of

if TYPE_CHECKING:
    from drn_cli.data.classes import ClassSet
    from drn_cli.evaluation.classification import TopKScores
    from drn_cli.evaluation.confusion import SegmentationScores
    from drn_cli.inference.classifier import ClassificationPredictor
    from drn_cli.report.gallery import Gallery, Tile

NAMED = 3  # files that a message names


@dataclass(frozen=True, slots=True)
class ScoreWriter:
    """What was asked for.

    Attributes:
        csv: File for the scores of each image.
        worst: How many of the worst images to list.
        report: File for the page.
        images: How many images it shows.
        as_json: Whether JSON is printed instead of tables.
    """

    csv: Path | None
    worst: int
    report: Path | None
    images: int
    as_json: bool

    @property
    def per_image(self) -> bool:
        """Whether the scores of each image are needed."""
        return bool(self.csv or self.report or (self.worst and not self.as_json))

    def segmentation(
        self,
        scores: "SegmentationScores",
        class_set: "ClassSet",
        about: dict[str, Any],
        show: "Callable[[int], Tile]",
    ) -> None:
        """Print and write the scores of a segmenter, or of predictions.

        Args:
            scores: The scores.
            class_set: Names and colours of the classes.
            about: What was scored, for JSON and the page.
            show: Gives what the page shows of an image, by its number.
        """
        document = _all_of(scores.images) | about | scores.to_json(class_set)
        # First of all: a file that cannot be written should not cost the scores.
        if self.as_json:
            console.emit_json(document)
        else:
            print_segmentation(scores, class_set, self.worst)
        if self.csv is not None:
            write_segmentation(self.csv, scores.per_image, class_set)
        if self.report is not None:
            from drn_cli.report.gallery import segmentation_gallery

            self._page(document, segmentation_gallery(scores, class_set, show, self.images))
        self._say_files()

    def classification(
        self, scores: "TopKScores", classifier: "ClassificationPredictor", about: dict[str, Any]
    ) -> None:
        """Print and write the scores of a classifier; as `segmentation`."""
        document = _all_of(scores.images) | about | scores.to_json()
        if self.as_json:
            console.emit_json(document)
        else:
            print_classification(scores, classifier.names, self.worst)
        if self.csv is not None:
            write_classification(self.csv, scores.per_image, classifier.names)
        if self.report is not None:
            from drn_cli.report.gallery import classification_gallery

            self._page(document, classification_gallery(scores, classifier, self.images))
        self._say_files()

    def _page(self, document: dict[str, Any], gallery: "Gallery") -> None:
        from drn_cli.report.page import write_evaluation

        assert self.report is not None
        write_evaluation(self.report, document, gallery)

    def _say_files(self) -> None:
        for path in (self.csv, self.report):
            if path is not None:
                console.note(f"written: {path}")


def _all_of(images: int) -> dict[str, Any]:
    return {"partial": False, "expected": images, "failed": []}


def lacking(expected: int, lone: Mapping[str, Sequence[Path]]) -> str:
    """Name what lacks a counterpart: `4 of 12 have no image in DIR: a.png, b.png and 2 more`.

    Args:
        expected: How many there should be.
        lone: The files without a counterpart, by what they lack.
    """
    parts = []
    for what, files in lone.items():
        if files:
            parts.append(f"{len(files)} of {expected} have no {what}: {few_of(files, NAMED)}")
    return "; ".join(parts)


def report_part(
    scored: int,
    expected: int,
    lone: Mapping[str, Sequence[Path]],
    failed: Sequence[Mapping[str, str]] = (),
    lost: int = 0,
) -> dict[str, Any]:
    """Warn of what scores leave out; return how much was scored, ready for JSON.

    Args:
        scored: Number of images that were scored.
        expected: How many there should be.
        lone: The files without a counterpart, by what they lack.
        failed: Each image that failed, with its error.
        lost: Number of files that a search left out.
    """
    for one in failed:
        console.warn(one["error"])
    parts = [text for text in (lacking(expected, lone),) if text]
    if lost:
        parts.append(f"{lost} of {expected} left out")
    if failed:
        parts.append(f"{len(failed)} of {expected} failed")
    if parts:
        console.warn(f"partial: {scored} of {expected} scored: {'; '.join(parts)}")
    return {
        "partial": scored < expected,
        "expected": expected,
        "failed": list(failed),
    }

"""Write scores to the terminal, as JSON, as CSV and as an HTML page."""

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
    """Print and write scores as the options of a command line ask."""

    csv: Path | None  # file for the scores of each image
    worst: int  # number of worst images to list
    report: Path | None  # file for the HTML page
    images: int  # number of images on the page
    as_json: bool  # whether to print JSON instead of tables

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
        """Print and write the scores of a segmenter or of saved predictions.

        Args:
            scores: The scores.
            class_set: Names and colors of the classes.
            about: Fields about the evaluation, for JSON and the page.
            show: Returns the tile of an image on the page, by its number.
        """

        def gallery() -> "Gallery":
            from drn_cli.report.gallery import segmentation_gallery

            return segmentation_gallery(scores, class_set, show, self.images)

        self.write(
            _complete(scores.images) | about | scores.to_json(class_set),
            lambda: print_segmentation(scores, class_set, self.worst),
            lambda path: write_segmentation(path, scores.per_image, class_set),
            gallery,
        )

    def classification(
        self, scores: "TopKScores", classifier: "ClassificationPredictor", about: dict[str, Any]
    ) -> None:
        """Print and write the scores of a classifier; `about` as in `segmentation`."""

        def gallery() -> "Gallery":
            from drn_cli.report.gallery import classification_gallery

            return classification_gallery(scores, classifier, self.images)

        self.write(
            _complete(scores.images) | about | scores.to_json(),
            lambda: print_classification(scores, classifier.names, self.worst),
            lambda path: write_classification(path, scores.per_image, classifier.names),
            gallery,
        )

    def write(
        self,
        document: dict[str, Any],
        print_table: Callable[[], None],
        write_rows: Callable[[Path], None],
        make_gallery: "Callable[[], Gallery]",
    ) -> None:
        """Print a JSON document or a table, and write the CSV file and the page if requested."""
        # Printed first: a file that cannot be written does not lose the scores.
        if self.as_json:
            console.emit_json(document)
        else:
            print_table()
        if self.csv is not None:
            write_rows(self.csv)
        if self.report is not None:
            from drn_cli.report.page import write_evaluation

            write_evaluation(self.report, document, make_gallery())
        for path in (self.csv, self.report):
            if path is not None:
                console.note(f"written: {path}")


def _complete(images: int) -> dict[str, Any]:
    return {"partial": False, "expected": images, "failed": []}


def describe_unpaired(expected: int, unpaired: Mapping[str, Sequence[Path]]) -> str:
    """Describe unpaired files: `4 of 12 have no image in DIR: a.png, b.png and 2 more`.

    Args:
        expected: Number of images if every file had a counterpart.
        unpaired: The unpaired files by the counterpart that they lack.
    """
    return "; ".join(
        f"{len(files)} of {expected} have no {what}: {few_of(files, NAMED)}"
        for what, files in unpaired.items()
        if files
    )


def report_partial(
    scored: int,
    expected: int,
    unpaired: Mapping[str, Sequence[Path]],
    failed: Sequence[Mapping[str, str]] = (),
    lost: int = 0,
) -> dict[str, Any]:
    """Warn about images that were left out, and return the counts as fields for JSON.

    Args:
        scored: Number of images scored.
        expected: Number of images if none was left out.
        unpaired: The unpaired files by the counterpart that they lack.
        failed: Images that failed, with their errors.
        lost: Number of files that cannot be used.
    """
    for one in failed:
        console.warn(one["error"])
    parts = [text for text in (describe_unpaired(expected, unpaired),) if text]
    if lost:
        parts.append(f"{lost} of {expected} left out")
    if failed:
        parts.append(f"{len(failed)} of {expected} failed")
    if parts:
        console.warn(f"partial: {scored} of {expected} scored: {'; '.join(parts)}")
    return {"partial": scored < expected, "expected": expected, "failed": list(failed)}

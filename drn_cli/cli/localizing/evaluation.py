"""Evaluate boxes of a classifier against true boxes, for many thresholds in one pass."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import isnan
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from drn_cli.cli import console
from drn_cli.cli.evaluating.output import ScoreWriter, describe_unpaired, report_partial
from drn_cli.cli.source import InferenceOptions, describe
from drn_cli.errors import DrnError

if TYPE_CHECKING:
    from drn_cli.evaluation.localization import Localization, LocalizationScores
    from drn_cli.inference.classifier import ClassificationPredictor
    from drn_cli.inference.source import Source
    from drn_cli.report.gallery import Gallery


@dataclass(frozen=True, slots=True)
class LocalizeOptions:
    """Options of `drn localize`."""

    thresholds: tuple[float, ...]  # thresholds of boxes; minus infinity is none
    of: Literal["score", "probability"]  # kind of scores that thresholds apply to
    see: Literal["whole", "centre"]  # region of an image that the classifier sees
    side: int | None  # pixels that the shorter side is resized to, if given
    csv: Path | None  # CSV file with a row per box, or per image when evaluating
    report: Path | None  # file for the HTML page
    images: int  # number of images on the page
    as_json: bool  # whether to print JSON
    # Whether to leave out images without boxes, boxes without an image, and failures
    partial: bool = False

    def crops(self, source: "Source") -> dict[str, Any]:
        """Return `crop` and `resize` of the classifier as keyword arguments."""
        return source.crop_settings() | ({} if self.side is None else {"resize": self.side})


def evaluate_boxes(
    inputs: Sequence[str],
    truth: Path,
    source: "Source",
    inference: InferenceOptions,
    options: LocalizeOptions,
) -> None:
    """Print and write the localization errors of a classifier.

    Args:
        inputs: Images, folders or globs.
        truth: File or folder of the true boxes.
        source: The classifier.
        inference: Options of inference.
        options: Options of the command.

    Raises:
        DrnError: A file cannot be used, no image has a box of a known class, or some have none and
            `options.partial` is not set.
    """
    from drn_cli.data.boxes import read_boxes
    from drn_cli.distributed.group import join
    from drn_cli.evaluation.localization import localize, match_boxes
    from drn_cli.inference.inputs import find_images

    paths = [Path(image.path) for image in find_images(inputs)]
    boxes = read_boxes(truth)
    with join() as group:
        network = inference.open(source, "classification")
        classifier = inference.classifier(network, group.device, **options.crops(source))
        images, without, missing = match_boxes(paths, boxes, class_numbers(classifier))
        if not images:
            raise DrnError(
                f"{truth}: no boxes of the network's classes for any of {len(paths)} images",
                "boxes are matched by the names of images and of class folders",
            )
        unpaired = {f"box of a known class in {truth}": without, "image": missing}
        expected = len(paths) + len(missing)
        if (problem := describe_unpaired(expected, unpaired)) and not options.partial:
            raise DrnError(
                f"{', '.join(inputs)}: {problem}", f"--partial scores {len(images)} of them"
            )
        with console.bar(len(group.shard(images)), shown=group.is_main) as bar:
            scores = localize(
                classifier,
                images,
                group,
                options.thresholds,
                see=options.see,
                kind=options.of,
                partial=options.partial,
                per_image=bool(options.csv or options.report),
                step=bar.update,
            )
        if group.is_main:
            part = report_partial(scores.images, expected, unpaired, scores.failed)
            settings = {"of": options.of, "view": options.see}

            def gallery() -> "Gallery":
                from drn_cli.report.gallery import localization_gallery

                return localization_gallery(
                    scores, images, classifier, options.see, options.of, options.images
                )

            ScoreWriter(options.csv, 0, options.report, options.images, options.as_json).write(
                describe(source, network, classifier) | part | settings | scores.to_json(),
                lambda: _print(scores, options),
                lambda path: _write_rows(path, scores, images, classifier),
                gallery,
            )
    console.exit_if_failed(scores.failed)


def class_numbers(classifier: "ClassificationPredictor") -> dict[str, int]:
    """Return the class indices by folder name, or else by class name if it is unique."""
    names = classifier.names
    numbers = {name: n for n, name in enumerate(names) if names.count(name) == 1}
    return numbers | {name: n for n, name in enumerate(classifier.folders or ())}


def _print(scores: "LocalizationScores", options: LocalizeOptions) -> None:
    columns = ("top-1 error %", "top-5 error %")
    table = console.table(f"threshold of {options.of}", *columns, right=columns)
    for place, (limit, one, five) in enumerate(
        zip(scores.thresholds, scores.top1, scores.top5, strict=True)
    ):
        style = "bold" if place == scores.best else ""
        cells = (format_threshold(limit), f"{100 * one:.2f}", f"{100 * five:.2f}")
        table.add_row(*cells, style=style)
    table.add_section()
    errors = (scores.top1_classification, scores.top5_classification)
    table.add_row("classification", *(f"{100 * error:.2f}" for error in errors))
    console.out.print(table)
    best = scores.best
    console.out.print(
        f"{scores.images} images; best threshold {format_threshold(scores.thresholds[best])}, "
        f"chosen on these images: top-1 error {100 * scores.top1[best]:.2f} %, "
        f"top-5 error {100 * scores.top5[best]:.2f} %",
        soft_wrap=True,
    )


def format_threshold(threshold: float | None) -> str:
    return "none" if threshold in (None, float("-inf")) else f"{threshold:g}"


def _write_rows(
    path: Path,
    scores: "LocalizationScores",
    images: "Sequence[Localization]",
    classifier: "ClassificationPredictor",
) -> None:
    """Write a CSV row for each image, worst first, with the box of its most probable class."""
    from drn_cli.evaluation.localization import is_correct, worst_boxes
    from drn_cli.files import write_csv

    best = scores.best

    def rows() -> Iterator[tuple[object, ...]]:
        for found in worst_boxes(scores):
            truth, correct = images[found.number], is_correct(found)[:, best]
            box = found.boxes[0, best]
            yield (
                truth.image,
                " ".join(dict.fromkeys(classifier.names[kind] for kind in truth.classes)),
                classifier.names[found.classes[0]],
                f"{found.probabilities[0]:.6f}",
                f"{found.iou[0, best]:.6f}",
                int(correct[0]),
                int(correct[1]),
                *("" if isnan(number) else f"{number:.1f}" for number in box.tolist()),
            )

    write_csv(
        path,
        (
            *("image", "class", "predicted", "probability", "iou", "top1_right", "top5_right"),
            *("xmin", "ymin", "xmax", "ymax"),
        ),
        rows(),
    )

"""Boxes of a classifier scored against true ones, for many thresholds in one pass."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import isnan
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from drn_cli.cli import console
from drn_cli.cli.evaluating.output import lacking, report_part
from drn_cli.cli.source import InferenceOptions, describe
from drn_cli.errors import DrnError

if TYPE_CHECKING:
    from drn_cli.evaluation.localization import Localization, LocalizationScores
    from drn_cli.inference.classifier import ClassificationPredictor
    from drn_cli.inference.source import Source


@dataclass(frozen=True, slots=True)
class LocalizeOptions:
    """What was asked for.

    Attributes:
        thresholds: That are tried; minus infinity is none.
        of: What they are compared with.
        see: What is seen of an image.
        side: What its shorter side is brought to, in pixels, if that was said.
        csv: File with a line for each box.
        report: File for the page.
        images: How many images it shows.
        as_json: Whether JSON is printed.
        partial: Whether images without boxes, and boxes without an image, may be left out.
    """

    thresholds: tuple[float, ...]
    of: Literal["score", "probability"]
    see: Literal["whole", "centre"]
    side: int | None
    csv: Path | None
    report: Path | None
    images: int
    as_json: bool
    partial: bool = False

    def crops(self, source: "Source") -> dict[str, Any]:
        """Say how the classifier sees images."""
        return source.crop_settings() | ({} if self.side is None else {"resize": self.side})


def evaluate_boxes(
    inputs: Sequence[str],
    truth: Path,
    source: "Source",
    inference: InferenceOptions,
    options: LocalizeOptions,
) -> None:
    """Score the boxes that a classifier finds.

    Args:
        inputs: The images.
        truth: Their true boxes.
        source: The classifier.
        inference: What is computed in.
        options: What is tried and told.

    Raises:
        DrnError: A file cannot be used, no image has a box of a class that is known, or some have
            none and `options.partial` is not set.
    """
    from drn_cli.data.boxes import read_boxes
    from drn_cli.distributed.group import join
    from drn_cli.evaluation.localization import localize, match_boxes
    from drn_cli.inference.inputs import find_images
    from drn_cli.inference.loading import load_classifier
    from drn_cli.inference.opening import open_network

    paths = [Path(image.path) for image in find_images(inputs)]
    boxes = read_boxes(truth)
    with join() as group:
        network = open_network(source.checkpoint, "classification")
        inference.check(network)
        classifier = load_classifier(
            network,
            group.device,
            **options.crops(source),
            **inference.computing(group.device),
        )
        images, without, missing = match_boxes(paths, boxes, class_numbers(classifier))
        if not images:
            raise DrnError(
                f"{truth}: has no box of the network's classes for any of {len(paths)} images",
                "boxes go by the names of images, and their classes by those of class folders",
            )
        lone = {f"box of a known class in {truth}": without, "image": missing}
        expected = len(paths) + len(missing)
        if (problem := lacking(expected, lone)) and not options.partial:
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
            part = report_part(scores.images, expected, lone, scores.failed)
            about = describe(source, network, classifier) | part
            _tell(scores, images, classifier, about, options)
    console.exit_if_failed(scores.failed)


def class_numbers(classifier: "ClassificationPredictor") -> dict[str, int]:
    """Give the number of each class, by its folder, and by its name where no folder is called so.

    Names that two classes share are left out.
    """
    names = classifier.names
    numbers = {name: n for n, name in enumerate(names) if names.count(name) == 1}
    return numbers | {name: n for n, name in enumerate(classifier.folders or ())}


def _tell(
    scores: "LocalizationScores",
    images: "Sequence[Localization]",
    classifier: "ClassificationPredictor",
    about: dict[str, Any],
    options: LocalizeOptions,
) -> None:
    told = {
        **about,
        "of": options.of,
        "view": options.see,
        **scores.to_json(),
    }
    if options.as_json:
        console.emit_json(told)
    else:
        _print(scores, options)
    if options.csv is not None:
        _write(options.csv, scores, images, classifier)
    if options.report is not None:
        from drn_cli.report.gallery import localization_gallery
        from drn_cli.report.page import write_evaluation

        gallery = localization_gallery(
            scores, images, classifier, options.see, options.of, options.images
        )
        write_evaluation(options.report, told, gallery)
    for path in (options.csv, options.report):
        if path is not None:
            console.note(f"written: {path}")


def _print(scores: "LocalizationScores", options: LocalizeOptions) -> None:
    columns = ("top-1 error %", "top-5 error %")
    table = console.table(f"threshold of {options.of}", *columns, right=columns)
    for place, (limit, one, five) in enumerate(
        zip(scores.thresholds, scores.top1, scores.top5, strict=True)
    ):
        style = "bold" if place == scores.best else ""
        cells = (in_words(limit), f"{100 * one:.2f}", f"{100 * five:.2f}")
        table.add_row(*cells, style=style)
    table.add_section()
    errors = (scores.top1_classification, scores.top5_classification)
    table.add_row("classification", *(f"{100 * error:.2f}" for error in errors))
    console.out.print(table)
    best = scores.best
    console.out.print(
        f"{scores.images} images; best threshold {in_words(scores.thresholds[best])}, chosen on "
        f"these: top-1 error {100 * scores.top1[best]:.2f} %, "
        f"top-5 error {100 * scores.top5[best]:.2f} %",
        soft_wrap=True,
    )


def in_words(threshold: float) -> str:
    """Say a threshold."""
    return "none" if threshold == float("-inf") else f"{threshold:g}"


def _write(
    path: Path,
    scores: "LocalizationScores",
    images: "Sequence[Localization]",
    classifier: "ClassificationPredictor",
) -> None:
    """Write a line for each image, the worst first, with the box of its likeliest class."""
    from drn_cli.evaluation.localization import is_correct, worst_boxes
    from drn_cli.files import write_csv

    best = scores.best

    def rows() -> Iterator[tuple[object, ...]]:
        for found in worst_boxes(scores):
            located, right = images[found.number], is_correct(found)[:, best]
            box = found.boxes[0, best]
            yield (
                located.image,
                " ".join(dict.fromkeys(classifier.names[kind] for kind in located.classes)),
                classifier.names[found.classes[0]],
                f"{found.probabilities[0]:.6f}",
                f"{found.iou[0, best]:.6f}",
                int(right[0]),
                int(right[1]),
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

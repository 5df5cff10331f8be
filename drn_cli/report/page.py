"""Pages about a run, several runs or an evaluation: one HTML file that loads nothing."""

import hashlib
from base64 import b64encode
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from drn_cli.data.classes import ClassSet
from drn_cli.data.images import read_image
from drn_cli.errors import DrnError
from drn_cli.evaluation.classification import TopScores, worst_ranked
from drn_cli.evaluation.confusion import Scores, worst_first
from drn_cli.evaluation.localization import LocalizationScores, Located, worst_located
from drn_cli.files import write_text
from drn_cli.formatting import percent
from drn_cli.inference.activation import Kind, See
from drn_cli.inference.classifier import Classifier
from drn_cli.report import sections
from drn_cli.report.charts import page_charts, write_figures
from drn_cli.report.gallery import (
    Gallery,
    SegmentationTile,
    Step,
    best_from,
    classification_tile,
    describe_choice,
    localization_tile,
    run_gallery,
    shares,
    training_crops,
    worst_and_best,
)
from drn_cli.report.run_history import Record, RunSummary, read_scores, run_summary
from drn_cli.runs import Run
from drn_cli.version import __version__

IMAGES = 8


@dataclass(frozen=True, slots=True)
class Written:
    """What was written.

    Attributes:
        page: The page.
        images: Number of validation images on it.
        figures: Files for papers.
        missing: What the page lacks and why, a line each.
    """

    page: Path
    images: int
    figures: tuple[Path, ...]
    missing: tuple[str, ...]


def write_report(
    run: Run,
    out: Path,
    *,
    images: int = IMAGES,
    data: Path | None = None,
    figures: Path | None = None,
    step: Step = lambda done, total: None,
) -> Written:
    """Write the page of a run, whole or not at all; the run may still be training.

    Args:
        run: The run directory.
        out: The file.
        images: Number of validation images to show, at most; 0 also leaves out training crops.
        data: Data folder to take images from, if not that of the recipe.
        figures: Folder for figures as PDF and SVG, if they are wanted.
        step: Called after each predicted image.

    Raises:
        DrnError: This is no run directory, a file of it cannot be read, or one not be written.
    """
    summary, missing = run_summary(run), []
    scores, problem = _scores(summary)
    gallery, crops, no_gallery = None, [], "none were asked for"
    if images:
        try:
            gallery = run_gallery(run, images, data, step)
        except DrnError as error:
            no_gallery = error.message
            missing.append(f"no predictions: {error.message}")
        try:
            crops = training_crops(run, data)
        except DrnError as error:
            missing.append(f"no training crops: {error.message}")
    missing += [line for line in (problem, summary.damage) if line]
    name = _name(run)
    class_set = gallery.class_set if gallery else None
    colors = dict(zip(class_set.names, class_set.colours, strict=True)) if class_set else {}
    _write(
        out,
        "run.html.j2",
        title=name,
        run=summary,
        folder=str(run.folder.resolve()),
        state=sections.STATES[summary.state],
        facts=sections.run_facts(summary, scores),
        missing=missing,
        gallery=gallery,
        no_gallery=no_gallery,
        crops=crops,
        charts=page_charts({name: summary}),
        validations=sections.validation_table(summary),
        classes=sections.class_scores(scores or {}, colors),
        throughput=sections.throughput(summary),
        commands=sections.reproduction(summary),
        recipe=run.recipe.read_text(encoding="utf-8"),
        environment=sections.environment(summary.environment),
    )
    drawn = [] if figures is None else write_figures(figures, {name: summary}, {name: scores or {}})
    return Written(out, len(gallery.tiles) if gallery else 0, tuple(drawn), tuple(missing))


def write_comparison(runs: Sequence[Run], out: Path, *, figures: Path | None = None) -> Written:
    """Write one page about several runs: curves over each other, and what differs.

    Raises:
        DrnError: A directory is no run or is named twice, the tasks differ, a file cannot be read,
            or one not be written.
    """
    names = sections.run_names([run.folder for run in runs])
    summaries = {name: run_summary(run) for name, run in zip(names, runs, strict=True)}
    if len(summaries) < len(runs):
        raise DrnError(f"{runs[-1].folder}: a run is named twice", "name each run once")
    first = next(iter(summaries.values()))
    for run in summaries.values():
        if run.task != first.task:
            raise DrnError(
                f"{run.run.folder}: trains {run.task}, {first.run.folder} {first.task}",
                "compare runs of one task",
            )
    scores: dict[str, Record] = {}
    missing = []
    for name, run in summaries.items():
        found, problem = _scores(run)
        scores |= {name: found} if found else {}
        missing += [line for line in (problem, run.damage) if line]
    _write(
        out,
        "comparison.html.j2",
        title=f"Comparison of {len(runs)} runs",
        names=names,
        folders=[str(run.folder.resolve()) for run in runs],
        score_name=first.score_name,
        missing=missing,
        charts=page_charts(summaries),
        **sections.comparison(summaries, scores),
    )
    drawn = [] if figures is None else write_figures(figures, summaries, scores)
    return Written(out, 0, tuple(drawn), tuple(missing))


def write_segmentation_page(
    path: Path,
    document: Mapping[str, Any],
    scores: Scores,
    class_set: ClassSet,
    show: Callable[[int], SegmentationTile],
    count: int,
) -> None:
    """Write the page of a segmenter's scores, whole or not at all.

    Args:
        path: The file.
        document: What `drn eval --json` prints.
        scores: With the scores of each image.
        class_set: Names and colors of the classes.
        show: Makes the tile of an image, by its number.
        count: Number of images to show, at most.

    Raises:
        DrnError: An image cannot be read any more, or the file not be written.
    """
    scored = [one for one in worst_first(scores.pictures) if one.miou is not None]
    chosen = worst_and_best(scored, count)
    intro = describe_choice(len(chosen), len(scored), "mIoU")
    if void := len(scores.pictures) - len(scored):
        intro += f" {void} more, all void, have no score."
    best = best_from(len(chosen), len(scored))
    gallery = Gallery("segmentation", intro, [show(one.number) for one in chosen], best, class_set)
    protocol = document.get("protocol")
    title = f"{document.get('checkpoint')}, {document.get('split')}"
    text = None
    if isinstance(protocol, dict):
        title, text = f"{protocol['images']} against {protocol['labels']}", protocol["text"]
    colors = dict(zip(class_set.names, class_set.colours, strict=True))
    classes = sections.class_scores(dict(document), colors, f"over {scores.images} images")
    facts = sections.evaluation_facts(document)
    _write_evaluation(path, title, facts, gallery, protocol=text, classes=classes)


def write_classification_page(
    path: Path, document: Mapping[str, Any], scores: TopScores, classifier: Classifier, count: int
) -> None:
    """Write the page of a classifier's scores; as `write_segmentation_page`."""
    ranked = worst_ranked(scores.pictures)
    chosen = worst_and_best(ranked, count)
    tiles = [
        classification_tile(one.image, read_image(Path(one.image)), one.target, classifier)
        for one in chosen
    ]
    intro = describe_choice(len(chosen), len(ranked), "the place of the true class")
    best = best_from(len(chosen), len(ranked))
    gallery = Gallery("classification", intro, tiles, best)
    title = f"{document['checkpoint']}, {document['split']}"
    _write_evaluation(path, title, sections.evaluation_facts(document), gallery)


def write_localization_page(
    path: Path,
    document: Mapping[str, Any],
    scores: LocalizationScores,
    located: Sequence[Located],
    classifier: Classifier,
    see: See,
    kind: Kind,
    count: int,
) -> None:
    """Write the page of a classifier's boxes, whole or not at all.

    Args:
        path: The file.
        document: What `drn localize --eval --json` prints.
        scores: With what was found in each image.
        located: All images that were scored.
        classifier: The network.
        see: Which part of an image was seen.
        kind: What thresholds are compared with.
        count: Number of images to show, at most.

    Raises:
        DrnError: An image cannot be read any more, or the file not be written.
    """
    ordered = worst_located(scores)
    chosen = worst_and_best(ordered, count)
    tiles = [
        localization_tile(one, located[one.number], classifier, see, kind, scores) for one in chosen
    ]
    intro = describe_choice(len(chosen), len(ordered), "the overlap of the likeliest class's box")
    best = best_from(len(chosen), len(ordered))
    _write_evaluation(
        path,
        f"Localization: {document['checkpoint']}",
        sections.localization_facts(document, scores),
        Gallery("localization", intro, tiles, best),
        thresholds=sections.threshold_table(scores),
    )


def _write_evaluation(
    path: Path,
    title: str,
    facts: sections.Facts,
    gallery: Gallery,
    *,
    protocol: str | None = None,
    classes: dict[str, Any] | None = None,
    thresholds: Sequence[tuple[str, str, str]] = (),
) -> None:
    _write(
        path,
        "evaluation.html.j2",
        title=title,
        command=sections.command_line(),
        facts=facts,
        protocol=protocol,
        classes=classes,
        thresholds=thresholds,
        gallery=gallery if gallery.tiles else None,
        no_gallery="none were asked for",
    )


def _scores(summary: RunSummary) -> tuple[Record | None, str | None]:
    """Return all scores of the best validation, and what is wrong with their file."""
    try:
        return read_scores(summary.run.scores, summary.best), None
    except DrnError as error:
        return summary.best, error.message


def _name(run: Run) -> str:
    folder = run.folder.resolve()
    return f"{folder.parent.name}/{folder.name}"


@cache
def _templates() -> Environment:
    templates = Environment(
        loader=PackageLoader("drn_cli.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    templates.filters["percent"] = percent
    templates.filters["shares"] = shares
    templates.filters["base64"] = lambda content: b64encode(content).decode()
    return templates


def _write(path: Path, template: str, **content: Any) -> None:
    """Render a page, whose policy lets a browser run its one script and load nothing."""
    templates = _templates()
    script = templates.get_template("script.js").render()
    page = templates.get_template(template).render(
        **content,
        version=__version__,
        made=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        digest=b64encode(hashlib.sha256(script.encode()).digest()).decode(),
    )
    write_text(path, page)

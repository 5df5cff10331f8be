"""Pages about a run, several runs or an evaluation: one HTML file that loads nothing."""

import hashlib
import shlex
import sys
from base64 import b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from drn_cli.errors import DrnError
from drn_cli.files import write_text
from drn_cli.report import sections
from drn_cli.report.charts import page_charts, write_figures
from drn_cli.report.gallery import Gallery, Step, run_gallery, training_crops
from drn_cli.report.run_history import Record, RunSummary, read_scores, run_summary
from drn_cli.report.sections import Block, Section
from drn_cli.runs import Run
from drn_cli.version import __version__

IMAGES = 8
HEAT = (
    "An image is right if a box of its class overlaps a true one by more than half. The threshold "
    "was chosen on these images. The heat is the activation of the likeliest class, from its "
    "lowest value in the image to its highest; its box surrounds the positions where it is the "
    "highest of all classes, which need not be the hottest."
)


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
    gallery, crops, why = None, None, "none were asked for"
    if images:
        try:
            gallery = run_gallery(run, scores or {}, images, data, step)
        except DrnError as error:
            why = error.message
            missing.append(f"no predictions: {why}")
        try:
            crops = training_crops(run, data)
        except DrnError as error:
            missing.append(f"no training crops: {error.message}")
    missing += [line for line in (problem, summary.damage) if line]
    folder = run.folder.resolve()
    name = f"{folder.parent.name}/{folder.name}"
    runs = {name: summary}
    curves: list[Block] = [("charts", page_charts(runs)), *sections.validations(summary)]
    _write(
        out,
        name,
        [*sections.run_head(summary, scores), ("missing", missing)],
        [
            _images("Predictions", gallery, why),
            *([Section("crops", "Training crops", [("gallery", crops)])] if crops else ()),
            Section("curves", "Curves", curves),
            *sections.class_sections(scores or {}, _colors(gallery)),
            Section("throughput", "Throughput", [("facts", sections.throughput(summary))]),
            sections.reproduction(summary, run.recipe.read_text(encoding="utf-8")),
            sections.environment(summary.environment),
        ],
    )
    drawn = [] if figures is None else write_figures(figures, runs, {name: scores or {}})
    return Written(out, len(gallery.tiles) if gallery else 0, tuple(drawn), tuple(missing))


def write_comparison(runs: Sequence[Run], out: Path, *, figures: Path | None = None) -> Written:
    """Write one page about several runs: curves over each other, and what differs.

    Raises:
        DrnError: A directory is no run or is named twice, the tasks differ, a file cannot be read,
            or one not be written.
    """
    folders = [run.folder.resolve() for run in runs]
    if len(set(folders)) < len(runs):
        raise DrnError(f"{runs[-1].folder}: a run is named twice", "name each run once")
    length = 1  # of the shortest ends of the paths that tell the runs apart
    while len({folder.parts[-length:] for folder in folders}) < len(runs):
        length += 1
    summaries = {
        "/".join(folder.parts[-length:]): run_summary(run)
        for folder, run in zip(folders, runs, strict=True)
    }
    first = next(iter(summaries.values()))
    scores: dict[str, Record] = {}
    missing = []
    for name, run in summaries.items():
        if run.task != first.task:
            raise DrnError(
                f"{run.run.folder}: trains {run.task}, {first.run.folder} {first.task}",
                "compare runs of one task",
            )
        found, problem = _scores(run)
        scores |= {name: found} if found else {}
        missing += [line for line in (problem, run.damage) if line]
    paths: list[Block] = [("name", str(folder)) for folder in folders]
    _write(
        out,
        f"Comparison of {len(runs)} runs",
        [("missing", missing), sections.runs_table(summaries), *paths],
        [
            Section("curves", "Curves", [("charts", page_charts(summaries))]),
            *sections.differences(summaries, scores),
        ],
    )
    drawn = [] if figures is None else write_figures(figures, summaries, scores)
    return Written(out, 0, tuple(drawn), tuple(missing))


def write_evaluation(path: Path, document: Mapping[str, Any], gallery: Gallery) -> None:
    """Write the page of scores, whole or not at all.

    Args:
        path: The file.
        document: What `drn eval` or `drn localize --eval` prints as JSON.
        gallery: The images to show.

    Raises:
        DrnError: The file cannot be written.
    """
    head: list[Block] = [
        ("name", shlex.join(["drn", *sys.argv[1:]])),
        ("tiles", sections.evaluation_facts(document)),
    ]
    over = f"over {sections.counted(document['images'], 'image')}"
    parts = [
        _images("Images", gallery if gallery.tiles else None, "none were asked for"),
        *sections.class_sections(dict(document), _colors(gallery), over),
    ]
    title = f"{document.get('checkpoint')}, {document.get('split')}"
    protocol = document.get("protocol")
    if "sweep" in document:
        title = f"Localization: {document['checkpoint']}"
        head.append(("text", HEAT))
        parts.append(sections.thresholds(document["sweep"], document["threshold"]))
    elif isinstance(protocol, dict):
        title = f"{protocol['images']} against {protocol['labels']}"
        head += [("heading", "Protocol"), ("text", protocol["text"])]
    _write(path, title, head, parts)


def _images(title: str, gallery: Gallery | None, why: str) -> Section:
    block: Block = ("gallery", gallery) if gallery else ("text", f"No images: {why}.")
    return Section("predictions", title, [block])


def _colors(gallery: Gallery | None) -> sections.Colors:
    if gallery is None or gallery.class_set is None:
        return {}
    return dict(zip(gallery.class_set.names, gallery.class_set.colours, strict=True))


def _scores(summary: RunSummary) -> tuple[Record | None, str | None]:
    """Return all scores of the best validation, and what is wrong with their file."""
    try:
        return read_scores(summary.run.scores, summary.best), None
    except DrnError as error:
        return summary.best, error.message


def _write(path: Path, title: str, head: Sequence[Block], parts: Sequence[Section]) -> None:
    """Render a page, whose policy lets a browser run its one script and load nothing."""
    templates = Environment(
        loader=PackageLoader("drn_cli.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    script = templates.get_template("script.js").render()
    page = templates.get_template("page.html.j2").render(
        title=title,
        head=head,
        sections=parts,
        version=__version__,
        made=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        digest=b64encode(hashlib.sha256(script.encode()).digest()).decode(),
    )
    write_text(path, page)

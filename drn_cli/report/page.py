"""Pages about a run, several runs or an evaluation: one HTML file that loads nothing."""

import hashlib
import shlex
import sys
from base64 import b64encode
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined

from drn_cli.errors import DrnError
from drn_cli.files import write_text
from drn_cli.formatting import percent
from drn_cli.report import sections
from drn_cli.report.charts import page_charts, write_figures
from drn_cli.report.gallery import Gallery, Step, run_gallery, training_crops
from drn_cli.report.run_history import Record, read_scores, run_summary
from drn_cli.report.sections import Block, Section
from drn_cli.runs import Run
from drn_cli.version import __version__


@dataclass(frozen=True, slots=True)
class Report:
    """Files of a report."""

    page: Path
    images: int  # validation images on the page
    figures: Sequence[Path]  # PDF and SVG
    missing: Sequence[str]  # what the page lacks and why, one line each


def write_report(
    runs: Sequence[Run],
    out: Path,
    *,
    images: int = 8,
    data: Path | None = None,
    figures: Path | None = None,
    step: Step = lambda: None,
) -> Report:
    """Write the page of a run, which may still be training, or the comparison of several runs.

    Args:
        runs: Run directories, of one task.
        out: The HTML file, written atomically.
        images: Maximum number of validation images; 0 leaves out training crops too. A comparison
            has none.
        data: Data folder, if not that of the recipe.
        figures: Folder for figures as PDF and SVG.
        step: Called after each predicted image.

    Raises:
        DrnError: A directory is no run or is given twice, the tasks differ, or a file cannot be
            read or written.
    """
    folders = [run.folder.resolve() for run in runs]
    if len(set(folders)) < len(runs):
        raise DrnError(f"{runs[-1].folder}: a run is named twice", "name each run once")
    length = 1 if len(runs) > 1 else 2  # of the shortest path ends that are unique
    while len({folder.parts[-length:] for folder in folders}) < len(runs):
        length += 1
    names = ["/".join(folder.parts[-length:]) for folder in folders]
    summaries = dict(zip(names, map(run_summary, runs), strict=True))
    first, *others = summaries.values()
    for other in others:
        if other.task != first.task:
            tasks = f"trains {other.task}, {first.run.folder} {first.task}"
            raise DrnError(f"{other.run.folder}: {tasks}", "compare runs of one task")
    found = {name: read_scores(run) for name, run in summaries.items()}
    scores = {name: best for name, (best, _) in found.items()}
    missing = [line for _, lines in found.values() for line in lines]
    curves: list[Block] = [("charts", page_charts(summaries))]
    gallery = None
    if others:
        title = f"Comparison of {len(runs)} runs"
        head = [sections.runs_table(summaries), *(("name", str(folder)) for folder in folders)]
        parts = [Section("curves", "Curves", curves), *sections.differences(summaries, scores)]
    else:
        [title], [run] = names, runs
        crops, why = None, "none were asked for"
        if images:
            try:
                gallery = run_gallery(run, scores[title], images, data, step)
            except DrnError as error:
                why = error.message
                missing.append(f"no predictions: {why}")
            try:
                crops = training_crops(run, data)
            except DrnError as error:
                missing.append(f"no training crops: {error.message}")
        head = sections.run_head(first, scores[title])
        parts = [
            _images("Predictions", gallery, why),
            *([Section("crops", "Training crops", [("gallery", crops)])] if crops else []),
            Section("curves", "Curves", [*curves, *sections.validations(first)]),
            *sections.class_sections(scores[title], _colors(gallery)),
            Section("throughput", "Throughput", [("facts", sections.throughput(first))]),
            sections.reproduction(first, run.recipe.read_text(encoding="utf-8")),
            sections.environment(first.environment),
        ]
    _write(out, title, [*head, ("missing", missing)], parts)
    drawn = write_figures(figures, summaries, scores) if figures else []
    return Report(out, len(gallery.tiles) if gallery else 0, drawn, missing)


def write_evaluation(path: Path, document: Record, gallery: Gallery) -> None:
    """Write the page of an evaluation from the JSON of `drn eval` or `drn localize --eval`."""
    command = shlex.join(["drn", *sys.argv[1:]])
    head: list[Block] = [("name", command), ("tiles", sections.evaluation_facts(document))]
    parts = [
        _images("Images", gallery if gallery.tiles else None, "none were asked for"),
        *sections.class_sections(document, _colors(gallery)),
    ]
    title = f"{document.get('checkpoint')}, {document.get('split')}"
    protocol = document.get("protocol")
    if "sweep" in document:
        title = f"Localization: {document['checkpoint']}"
        parts.append(sections.thresholds(document["sweep"], document["threshold"]))
    elif isinstance(protocol, dict):
        title = f"{protocol['images']} against {protocol['labels']}"
        head.append(("facts", {"Protocol": protocol["text"]}))
    _write(path, title, head, parts)


def _images(title: str, gallery: Gallery | None, why: str) -> Section:
    block: Block = ("gallery", gallery) if gallery else ("text", f"No images: {why}.")
    return Section("predictions", title, [block])


def _colors(gallery: Gallery | None) -> sections.Colors:
    if gallery is None or gallery.class_set is None:
        return {}
    return dict(zip(gallery.class_set.names, gallery.class_set.colours, strict=True))


def _write(path: Path, title: str, head: Sequence[Block], parts: Sequence[Section]) -> None:
    """Render a page, whose policy lets a browser run its one script and load nothing."""
    templates = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    templates.loader = PackageLoader("drn_cli.report")
    templates.filters["percent"] = percent
    script = templates.get_template("script.js").render()
    page = templates.get_template("page.html.j2")
    digest = b64encode(hashlib.sha256(script.encode()).digest()).decode()
    now = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    facts = {"version": __version__, "made": now, "digest": digest}
    write_text(path, page.render(title=title, head=head, sections=parts, **facts))

"""A run as one HTML page that needs nothing else: no network, no other file."""

from dataclasses import dataclass
from html import escape
from pathlib import Path

from drn_cli.errors import DrnError
from drn_cli.files import write_text
from drn_cli.report.chart import draw
from drn_cli.report.class_scores import class_scores
from drn_cli.report.curves import charts
from drn_cli.report.facts import (
    definitions,
    environment_section,
    recipe_section,
    throughput_section,
)
from drn_cli.report.frame import page
from drn_cli.report.gallery import Gallery, Step, make_gallery
from drn_cli.report.gallery_page import gallery_section, no_gallery
from drn_cli.report.history import Record, number, read_scores
from drn_cli.report.summary import Summary, summarise
from drn_cli.report.words import duration, percent, short
from drn_cli.runs import Run

PICTURES = 12

STATES = {
    "finished": "✓ finished",
    "interrupted": "❚❚ interrupted",
    "running": "▶ running",
    "unfinished": "… unfinished",
}
# What a validation tells, under the names that people use.
SCORES = (
    ("miou", "mIoU"),
    ("pixel_accuracy", "Pixel accuracy"),
    ("mean_accuracy", "Mean accuracy"),
    ("top1", "Top-1 accuracy"),
    ("top5", "Top-5 accuracy"),
)


@dataclass(frozen=True, slots=True)
class Report:
    """What was written.

    Attributes:
        path: The page.
        pictures: How many pictures it shows.
        missing: Why it lacks something, in a line each.
    """

    path: Path
    pictures: int
    missing: tuple[str, ...]


def write_report(
    run: Run,
    out: Path,
    *,
    pictures: int = PICTURES,
    data: Path | None = None,
    step: Step = lambda done, total: None,
) -> Report:
    """Write the page of a run, whole or not at all; the run may still be going on.

    Args:
        run: The run folder.
        out: The file.
        pictures: How many validation pictures to predict and show, at most.
        data: Data folder to take them from, if it is not the recipe's.
        step: Called after each picture.

    Raises:
        DrnError: This is no run folder, a file of it cannot be read, or `out` not be written.
    """
    summary = summarise(run)
    missing = []
    try:
        scores = read_scores(run.scores, summary.best)
    except DrnError as error:
        scores, why = summary.best, str(error)
        missing.append(why)
    gallery: Gallery | None = None
    shown = no_gallery("none were asked for.")
    if pictures:
        try:
            gallery = make_gallery(run, pictures, data, step)
            shown = gallery_section(gallery)
        except DrnError as error:
            shown = no_gallery(f"{error.message}.")
            missing.append(f"no pictures: {error.message}")
    if summary.damage:
        missing.append(summary.damage)
    sections = [
        _header(summary, scores, missing),
        _curves(summary),
        class_scores(scores or {}, _colours(gallery)),
        shown,
        throughput_section(summary),
        recipe_section(run.recipe.read_text(encoding="utf-8")),
        environment_section(summary.environment),
    ]
    write_text(out, page(_title(summary), sections))
    return Report(out, len(gallery.pictures) if gallery else 0, tuple(missing))


def _title(summary: Summary) -> str:
    folder = summary.run.folder.resolve()
    return f"{folder.parent.name}/{folder.name}"


def _header(summary: Summary, scores: Record | None, missing: list[str]) -> str:
    history = summary.history
    facts = [("Network", summary.label), ("Task", summary.task)]
    facts += [
        (name, percent(value, 2))
        for key, name in SCORES
        if scores and (value := number(scores, key)) is not None
    ]
    if scores is None:
        facts.append((summary.score_name, "not validated yet"))
    elif (epoch := number(scores, "epoch")) is not None:
        facts.append(("Best at epoch", short(epoch)))
    facts.append(("Epochs", f"{short(history.epoch)} of {short(summary.epochs)}"))
    if history.loss is not None:
        facts.append(("Last loss", short(history.loss)))
    if history.seconds is not None:
        facts.append(("Wall time", duration(history.seconds)))
    state = f'<span class="state {summary.state}">{STATES[summary.state]}</span>'
    going = ""
    if summary.state == "unfinished":
        going = "<p>Broken off without a word, or running on another machine.</p>"
    lacks = "".join(f"<li>{escape(line)}</li>" for line in missing)
    return (
        f"<header><h1>{escape(_title(summary)).replace('/', '/<wbr>')}</h1><p>{state} "
        f'<span class="name">{escape(str(summary.run.folder.resolve()))}</span></p>{going}'
        f"{definitions(facts, 'tiles')}"
        + (f'<ul class="missing">{lacks}</ul>' if lacks else "")
        + "</header>"
    )


def _curves(summary: Summary) -> str:
    drawn = "".join(draw(chart) for chart in charts(summary.history, summary.task))
    inside = f'<div class="charts">{drawn}</div>' if drawn else "<p>Nothing was measured yet.</p>"
    return f'<section id="curves"><h2>Curves</h2>{inside}{_validations(summary)}</section>'


def _validations(summary: Summary) -> str:
    """List the validations in numbers, for those who cannot use the curves."""
    records = summary.history.val
    columns = [(key, name) for key, name in SCORES if any(key in record for record in records)]
    if not columns:
        return ""
    head = "".join(f'<th scope="col" class="number">{name}</th>' for _, name in columns)
    rows = []
    for record in records:
        cells = (number(record, key) for key, _ in columns)
        said = ("" if value is None else percent(value, 2) for value in cells)
        epoch = number(record, "epoch")
        rows.append(
            f'<tr><th scope="row">{"" if epoch is None else short(epoch)}</th>'
            + "".join(f'<td class="number">{cell}</td>' for cell in said)
            + "</tr>"
        )
    return (
        f"<details><summary>Validations in numbers ({len(records)})</summary>"
        '<div class="scroll" tabindex="0" role="region" aria-label="Validations">'
        f'<table class="list"><thead><tr><th scope="col">epoch</th>{head}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div></details>"
    )


def _colours(gallery: Gallery | None) -> dict[str, tuple[int, int, int]]:
    if gallery is None or gallery.class_set is None:
        return {}
    return dict(zip(gallery.class_set.names, gallery.class_set.colours, strict=True))

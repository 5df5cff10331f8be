"""The sections of a page, each a list of blocks.

A block is the name of a macro of `blocks.html.j2` and what that macro shows. Cells of tables are
text, or markup where a cell is drawn.
"""

import json
import shlex
from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from markupsafe import Markup

from drn_cli.formatting import duration, four_digits, percent, size
from drn_cli.report.run_history import Record, RunSummary, number, recipe_differences, values

Block = tuple[str, Any]
Facts = list[tuple[str, str]]
Colors = Mapping[str, tuple[int, int, int]]
Matrix = npt.NDArray[np.int64]  # in pixels; rows are labels, columns predictions, the last is void

MOST_ROWS = 40  # of the confusion matrix; of more classes, those with the lowest IoU are shown
WITH_NUMBERS = 20  # classes, up to which there is room for numbers in the cells
CONFUSIONS = 10

SCORES = {
    "miou": "mIoU",
    "category_miou": "mIoU of categories",
    "pixel_accuracy": "Pixel accuracy",
    "mean_accuracy": "Mean accuracy",
    "frequency_weighted_iou": "Frequency-weighted IoU",
    "top1": "Top-1 accuracy",
    "top5": "Top-5 accuracy",
    "top1_error": "Top-1 error",
    "top5_error": "Top-5 error",
    "top1_classification_error": "Top-1 classification error",
    "top5_classification_error": "Top-5 classification error",
}
STATES = {
    "finished": "✓ finished",
    "interrupted": "❚❚ interrupted",
    "running": "▶ running",
    "unfinished": "… unfinished",
}
# Names of keys of environment.json that are not just their words.
NAMES = {
    "drn": "drn",
    "revision": "Git commit of drn",
    "torch": "PyTorch",
    "gpu_memory": "GPU memory",
    "weights": "Initial weights",
    "data": "SHA-256 of the data lists",
    "train_pictures": "Training images",
    "val_pictures": "Validation images",
}


class Section(NamedTuple):
    """A part of a page; `name` is its anchor."""

    name: str
    title: str
    blocks: list[Block]


def table(
    caption: str,
    columns: Sequence[str],
    rows: Sequence[Sequence[str]],
    text: int = 1,
    *,
    kind: str = "list",
    titled: bool = True,
) -> Block:
    """Lay out a table, whose first columns hold text and the others numbers."""
    shown = {"caption": caption, "columns": columns, "rows": rows, "text": text}
    return "table", {**shown, "kind": kind, "titled": titled}


def swatch(color: tuple[int, int, int] | None) -> Markup:
    html = '<span class="swatch" style="background: rgb({}, {}, {})"></span>'
    return Markup() if color is None else Markup(html).format(*color)


def counted(count: float, noun: str) -> str:
    return f"{count:,g} {noun}{'' if count == 1 else 's'}"


def score_facts(scores: Mapping[str, Any]) -> Facts:
    """Return the scores that a document has, named and in percent."""
    found = ((name, number(dict(scores), key)) for key, name in SCORES.items())
    return [(name, percent(value, 2)) for name, value in found if value is not None]


def run_head(run: RunSummary, scores: Record | None) -> list[Block]:
    """Return the head of a run's page; `scores` are those of its best validation."""
    history = run.history
    facts = [("Network", run.label), ("Task", run.task), *score_facts(scores or {})]
    if scores is None:
        facts.append((run.score_name, "not validated yet"))
    elif (epoch := number(scores, "epoch")) is not None:
        facts.append(("Best at epoch", four_digits(epoch)))
    facts.append(("Epochs", f"{four_digits(history.epoch)} of {four_digits(run.epochs)}"))
    if history.loss is not None:
        facts.append(("Last training loss", four_digits(history.loss)))
    if history.seconds is not None:
        facts.append(("Wall time", duration(history.seconds)))
    state = Markup('<span class="state">{}</span> <span class="name">{}</span>')
    blocks: list[Block] = [("text", state.format(STATES[run.state], run.run.folder.resolve()))]
    if run.state == "unfinished":
        blocks.append(("text", "No end marker: the run was killed, or is running on another host."))
    return [*blocks, ("tiles", facts)]


def validations(run: RunSummary) -> list[Block]:
    """Return the validations in numbers, if any were recorded."""
    records = run.history.val
    keys = [key for key in ("loss", *SCORES) if any(key in record for record in records)]
    if not keys:
        return []
    rows = []
    for record in records:
        found = [number(record, key) for key in ("epoch", *keys)]
        rows.append(
            [
                "" if value is None else percent(value, 2) if key in SCORES else four_digits(value)
                for key, value in zip(("epoch", *keys), found, strict=True)
            ]
        )
    columns = ["epoch", *(SCORES.get(key, key) for key in keys)]
    _, shown = table("Validations", columns, rows, titled=False)
    return [("details", {"summary": f"Validations in numbers ({len(rows)})", "table": shown})]


def throughput(run: RunSummary) -> Facts:
    """Return how fast the run was; medians, because a line may cover a validation or a pause."""
    train, val, facts = run.history.train, run.history.val, []
    for name, records, key, statistic, text in (
        ("Images per second, median", train, "images_per_second", median, four_digits),
        ("Time waiting for data, median", train, "waiting", median, percent),
        ("GPU memory, peak", train, "memory", max, size),
        ("One validation, median", val, "seconds", median, duration),
        ("Steps", (*train, *val), "step", max, "{:,.0f}".format),
        ("Steps skipped, loss or gradient not finite", train, "skipped", max, "{:,.0f}".format),
    ):
        if any(found := values(records, key)):
            facts.append((name, text(statistic(found))))
    if run.history.seconds is not None:
        facts.append(("Wall time", duration(run.history.seconds)))
    return facts


def environment(found: Record) -> Section:
    """Return versions, device and command; data hashes and resumptions are tables."""
    facts, tables = [], []
    for key, value in found.items():
        name = NAMES.get(key, key.replace("_", " ").capitalize())
        if isinstance(value, dict) and value and key != "weights":
            rows = [[inner, _text(text)] for inner, text in value.items()]
            tables.append(table(name, ["name", "value"], rows, 2))
        elif isinstance(value, list) and value and all(isinstance(one, dict) for one in value):
            keys = list(dict.fromkeys(inner for one in value for inner in one))
            rows = [[_text(one.get(inner)) for inner in keys] for one in value]
            tables.append(table(name, keys, rows, len(keys)))
        elif isinstance(value, bool):
            facts.append((name, "yes" if value else "no"))
        elif isinstance(value, int) and key != "seed":
            facts.append((name, size(value) if key == "gpu_memory" else f"{value:,}"))
        elif value not in (None, [], {}):
            facts.append((name, _text(value)))
    head: Block = ("facts", facts) if facts else ("text", "The run folder has no environment.json.")
    return Section("environment", "Environment", [head, *tables])


def _text(value: Any) -> str:
    """Return a value of a JSON or YAML file in words; a list of words as a command line."""
    if isinstance(value, list) and all(isinstance(word, str) for word in value):
        return shlex.join(value)
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def reproduction(run: RunSummary, recipe: str) -> Section:
    """Return the shell commands that repeat a run, as far as its files say how."""
    found, lines = run.environment, []
    versions = [f"{name}=={found[name]}" for name in ("torch", "torchvision") if found.get(name)]
    if versions:
        lines.append(f"pip install {' '.join(versions)}    # drn {found.get('drn', '?')}")
    if found.get("revision"):
        lines.append(f"git checkout {found['revision']}    # of drn")
    hashes = found.get("data")
    if isinstance(hashes, dict) and any(name.endswith(".txt") for name in hashes):
        folder = run.settings.get("data.lists") or run.settings.get("data.root")
        lines.append(f"sha256sum {shlex.quote(str(folder))}/*_*.txt    # as under Environment")
    processes = found.get("processes")
    gpus = f" --gpus {processes}" if isinstance(processes, int) and processes > 1 else ""
    lines.append(f"drn train {shlex.quote(str(run.run.recipe))}{gpus}")
    text = (
        "The recipe below holds every setting, the random seed included. The same number of "
        "processes on CPUs gives the same weights bit for bit; GPUs add in varying order."
    )
    details = {"summary": "recipe.yaml, with every setting", "pre": recipe}
    blocks: list[Block] = [("text", text), ("pre", "\n".join(lines)), ("details", details)]
    return Section("reproduce", "Reproduce", blocks)


def class_sections(scores: Record, colors: Colors, when: str | None = None) -> list[Section]:
    """Return a segmentation's scores by class; none for scores without IoU of classes.

    Args:
        scores: As in JSON.
        colors: Of the classes, where they are known.
        when: What was scored, in words; by default the best validation of a run.
    """
    found = scores.get("iou")
    if not isinstance(found, dict) or not found:
        return []
    if when is None:
        facts = [f"{key} {scores[key]:g}" for key in ("epoch", "step") if number(scores, key)]
        if images := number(scores, "images"):
            facts.append(counted(images, "image"))
        when = f"in the best validation, {', '.join(facts)}"
    iou = {name: number(found, name) for name in found}
    matrix = _matrix(scores, len(iou))
    shares: dict[str, str] = {}
    if matrix is not None:
        labeled = matrix.sum(axis=1) / max(1, matrix.sum())
        shares = dict(zip(iou, map(percent, labeled.tolist()), strict=True))

    def bars(caption: str, values: Mapping[str, float | None], shares: Mapping[str, str]) -> Block:
        rows = []
        for name, value in values.items():
            bar = Markup('<div class="bar"><span style="width: {:.1f}%"></span></div>')
            row = [swatch(colors.get(name)) + name, "", "absent"]
            if value is not None:
                row[1:] = [bar.format(100 * value), percent(value)]
            rows.append([*row, shares[name]] if name in shares else row)
        columns = ["class", "", "IoU", "of labels"]
        return table(caption, columns[: len(rows[0])], rows, 2, kind="bars")

    blocks = [("text", f"Intersection over union {when}."), bars("IoU of each class", iou, shares)]
    if isinstance(categories := scores.get("category_iou"), dict) and categories:
        by_category = {name: number(categories, name) for name in categories}
        blocks.append(bars("IoU of each category", by_category, {}))
    lost = Markup(
        "This run kept no confusion matrix. <code>drn eval RUN --json</code> computes it."
    )
    confusion: list[Block] = [("text", lost)] if matrix is None else _confusion(iou, matrix)
    return [
        Section("classes", "Classes", blocks),
        Section("confusion", "Confusion matrix", confusion),
    ]


def _matrix(scores: Record, classes: int) -> Matrix | None:
    """Return the confusion matrix, if there is one for this number of classes."""
    try:
        matrix = np.asarray(scores.get("confusion_matrix"), np.int64)
        void = np.asarray(scores.get("predicted_void", 0), np.int64)
        if matrix.shape == (classes, classes):
            return np.column_stack((matrix, np.broadcast_to(void, classes)))
    except (TypeError, ValueError, OverflowError):
        pass
    return None


def _confusion(iou: Mapping[str, float | None], matrix: Matrix) -> list[Block]:
    """Return the confusion matrix as shares of the labels, and the most frequent confusions."""
    names, shown = list(iou), list(range(len(iou)))
    text = "Each row shows how the pixels of one label were predicted, in percent of them."
    if len(names) > MOST_ROWS:
        present = [place for place in shown if iou[names[place]] is not None]
        shown = sorted(sorted(present, key=lambda place: iou[names[place]] or 0)[:MOST_ROWS])
        text += f" Of {len(names)} classes, the {len(shown)} with the lowest IoU are shown."
    shares = matrix / np.maximum(1, matrix.sum(axis=1))[:, None]
    numbers = len(shown) <= WITH_NUMBERS

    def cell(row: int, column: int) -> Markup:
        share, kind = shares[row, column], " right" if row == column else ""
        written = f"{100 * share:.0f}" if share >= 0.005 else "·"
        return Markup(
            '<div class="{}" style="--share:{:.3f}" '
            'title="{} predicted as {}: {}, {:,} pixels">{}</div>'
        ).format(
            ("deep" if share >= 0.64 else "") + kind,
            share,
            names[row],
            names[column],
            percent(share, 2),
            matrix[row, column],
            written if numbers else "",
        )

    rows = [[names[row], *(cell(row, column) for column in shown)] for row in shown]
    columns = ["label ↓ prediction →", *(names[place] for place in shown)]
    kind = "heat" if numbers else "heat small"
    wrong = matrix[:, : len(names)].copy()
    np.fill_diagonal(wrong, 0)
    order = np.argsort(wrong, axis=None, kind="stable")[::-1][:CONFUSIONS]
    pairs = [divmod(int(place), len(names)) for place in order]
    confused = [
        (names[row], names[column], percent(shares[row, column]), f"{wrong[row, column]:,}")
        for row, column in pairs
        if wrong[row, column]
    ]
    head = ["label", "predicted as", "of the label", "pixels"]
    return [
        ("text", text),
        table("Confusion matrix", columns, rows, 1, kind=kind, titled=False),
        table("Most frequent confusions", head, confused, 2)
        if confused
        else ("text", "No pixel was predicted as another class."),
    ]


def evaluation_facts(document: Mapping[str, Any]) -> Facts:
    """Return the head of a page from what `drn eval` or `drn localize --eval` prints as JSON."""
    images = f"{document['images']:,}"
    if document.get("partial"):
        images = f"{document['images']:,} of {document['expected']:,} (partial)"
    facts = [*score_facts(document), ("Images", images)]
    if "threshold" in document:
        facts.append(("Best threshold", _threshold(document["threshold"])))
    for key, name in (("of", "Threshold of"), ("view", "View")):
        if key in document:
            facts.append((name, str(document[key])))
    if "scales" in document:
        scales = ", ".join(f"{scale:g}" for scale in document["scales"])
        facts.append(("Scales", f"{scales}{', flipped too' if document['flip'] else ''}"))
    if absent := document.get("absent_classes"):
        facts.append(("Absent classes, not in the mean", ", ".join(absent)))
    return facts


def thresholds(sweep: Sequence[Mapping[str, Any]], best: float | None) -> Section:
    """Return the errors of localization at each threshold."""
    rows = []
    for one in sweep:
        marked = " (best)" if one["threshold"] == best else ""
        errors = (percent(one[key], 2) for key in ("top1_error", "top5_error"))
        rows.append((_threshold(one["threshold"]) + marked, *errors))
    columns = ["threshold", "top-1 error", "top-5 error"]
    shown = table("Errors at each threshold", columns, rows, titled=False)
    return Section("thresholds", "Thresholds", [shown])


def _threshold(threshold: float | None) -> str:
    return "none" if threshold is None else f"{threshold:g}"


def runs_table(runs: Mapping[str, RunSummary]) -> Block:
    """Return one row for each run."""
    rows = []
    for name, run in runs.items():
        history = run.history
        rows.append(
            [
                *(name, run.label, STATES[run.state]),
                f"{four_digits(history.epoch)} of {four_digits(run.epochs)}",
                "" if run.score is None else percent(run.score, 2),
                four_digits(number(run.best, "epoch") or 0) if run.best else "",
                "" if history.loss is None else four_digits(history.loss),
                dict(throughput(run)).get("Images per second, median", ""),
                "" if history.seconds is None else duration(history.seconds),
            ]
        )
    score = next(iter(runs.values())).score_name
    columns = ["run", "network", "state", "epochs", f"best {score}", "at epoch"]
    columns += ["last loss", "images/s", "wall time"]
    return table("Runs", columns, rows, 3, titled=False)


def differences(runs: Mapping[str, RunSummary], scores: Mapping[str, Record]) -> list[Section]:
    """Return what differs between runs: keys of their recipes, and the IoU of each class.

    Args:
        runs: By name; differences are relative to the first.
        scores: Of the best validation of each run that has one.
    """
    changed = Markup('<span class="changed">{}</span>')
    rows = [
        [Markup("<code>{}</code>").format(key)]
        + [_text(v) if v == row[0] else changed.format(_text(v)) for v in row]
        for key, row in recipe_differences([*runs.values()]).items()
    ]
    recipe: Block = ("text", "The recipes are equal.")
    if rows:
        recipe = table("Recipe differences", ["key", *runs], rows, 1 + len(runs), titled=False)
    sections = [Section("recipe", "Recipe differences", [recipe])]
    found = [scores.get(name, {}).get("iou") for name in runs]
    scored = [iou if isinstance(iou, dict) else {} for iou in found]
    by_class = []
    for kind in dict.fromkeys(kind for iou in scored for kind in iou):
        numbers = [number(iou, kind) for iou in scored]
        cells = ["" if iou is None else percent(iou) for iou in numbers]
        for place, iou in enumerate(numbers[1:], start=1):
            if iou is not None and numbers[0] is not None:
                change = 100 * (iou - numbers[0])
                kinds = "change" + (" better" if change >= 0.05 else "")
                kinds += " worse" if change <= -0.05 else ""
                html = Markup('{} <span class="{}">{:+.1f}</span>')
                cells[place] = html.format(cells[place], kinds, change)
        by_class.append([kind, *cells])
    if by_class:
        text = "IoU in the best validation of each run; changes in points, relative to "
        blocks = [
            ("text", f"{text}{next(iter(runs))}."),
            table("IoU of each class", ["class", *runs], by_class, titled=False),
        ]
        sections.append(Section("classes", "Classes", blocks))
    return sections

"""The sections of a page, each a list of blocks.

A block is the name of a macro of `blocks.html.j2` and its content. Cells of tables are text, or
markup.
"""

import json
import shlex
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from statistics import median
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import yaml
from markupsafe import Markup

from drn_cli.formatting import duration, four_digits, percent, size
from drn_cli.networks.catalog import label
from drn_cli.report.run_history import SCORE, Record, RunSummary, number, recipe_differences, values

Block = tuple[str, Any]
Rows = Sequence[Sequence[Any]]
Facts = dict[str, str]
Colors = Mapping[str, tuple[int, int, int]]
ClassScores = dict[str, float | None]  # None for a class in neither labels nor predictions
Matrix = npt.NDArray[np.int64]

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
FORMATS: dict[str, Callable[[float], str]] = {
    **dict.fromkeys(SCORES, partial(percent, digits=2)),
    **dict.fromkeys(("step", "skipped"), "{:,.0f}".format),
    "memory": size,
    "seconds": duration,
    "waiting": percent,
    "threshold": "{:g}".format,
}
# Throughput is the median, because a record may include a validation or a pause.
THROUGHPUT = (
    ("Images per second, median", "images_per_second", median),
    ("Time waiting for data, median", "waiting", median),
    ("GPU memory, peak", "memory", max),
    ("Steps", "step", max),
    ("Steps skipped, loss or gradient not finite", "skipped", max),
    ("One validation, median", "seconds", median),
)
STATES = {
    "finished": "✓ finished",
    "interrupted": "❚❚ interrupted",
    "running": "▶ running",
    "unfinished": "… unfinished",
}


class Section(NamedTuple):
    """A part of a page; `name` is its anchor."""

    name: str
    title: str
    blocks: Sequence[Block]


def table(
    caption: str, columns: Sequence[str], rows: Rows, text: int = 1, kind: str = "list"
) -> Block:
    """Lay out a table, whose first `text` columns hold text and the others numbers."""
    content = {"caption": caption, "columns": columns, "rows": rows, "text": text, "kind": kind}
    return "table", content


def shown(record: Record | None, key: str) -> str:
    """Return a measured number as text; empty if the record has none."""
    value = number(record or {}, key)
    return "" if value is None else FORMATS.get(key, four_digits)(value)


def score_facts(scores: Record) -> Facts:
    return {name: text for key, name in SCORES.items() if (text := shown(scores, key))}


def run_facts(run: RunSummary) -> Facts:
    """Return the facts that runs are compared by; unknown ones are empty texts."""
    score = SCORE[run.task][0]
    return {
        "Network": label(run.network, run.width),
        SCORES[score]: shown(run.best, score) or "not validated yet",
        "Best at epoch": shown(run.best, "epoch"),
        "Epochs": f"{four_digits(run.epoch)} of {four_digits(run.epochs)}",
        "Training loss": shown({"loss": run.loss}, "loss"),
        "Images per second": throughput(run).get(THROUGHPUT[0][0], ""),
        "Wall time": shown({"seconds": run.seconds}, "seconds"),
    }


def run_head(run: RunSummary, scores: Record) -> list[Block]:
    """Return the head of a run's page; `scores` are those of its best validation."""
    facts = {"Task": run.task} | run_facts(run) | score_facts(scores)
    state = Markup('<span class="state">{}</span> <span class="name">{}</span>')
    blocks: list[Block] = [("text", state.format(STATES[run.state], run.run.folder.resolve()))]
    if run.state == "unfinished":
        blocks.append(("text", "No end marker: the run was killed, or is running on another host."))
    return [*blocks, ("tiles", {name: text for name, text in facts.items() if text})]


def runs_table(runs: Mapping[str, RunSummary]) -> Block:
    rows = [[name, STATES[run.state], *run_facts(run).values()] for name, run in runs.items()]
    columns = ["Run", "State", *run_facts(next(iter(runs.values())))]
    return table("Runs", columns, rows, 3)


def validations(run: RunSummary) -> list[Block]:
    """Return the validations in numbers, if any were recorded."""
    scores = [key for key in ("loss", *SCORES) if any(key in record for record in run.val)]
    if not scores:
        return []
    rows = [[shown(record, key) for key in ("epoch", *scores)] for record in run.val]
    columns = ["epoch", *(SCORES.get(key, key) for key in scores)]
    _, content = table("Validations", columns, rows)
    return [("details", {"summary": f"Validations in numbers ({len(rows)})", "table": content})]


def throughput(run: RunSummary) -> Facts:
    return {
        name: shown({key: statistic(found)}, key)
        for name, key, statistic in THROUGHPUT
        if any(found := values([*run.train, *run.val], key))
    }


def environment(found: Record) -> Section:
    """Return what is known of environment.json as YAML, the command as one line."""
    if isinstance(command := found.get("command"), list):
        found = found | {"command": shlex.join(map(str, command))}
    known = {key: value for key, value in found.items() if value not in (None, [], {})}
    text = yaml.safe_dump(known, sort_keys=False, allow_unicode=True, width=10_000)
    block: Block = ("pre", text) if known else ("text", "environment.json is missing or empty.")
    return Section("environment", "Environment", [block])


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def reproduction(run: RunSummary, recipe: str) -> Section:
    """Return the shell commands that repeat a run, from what its files record."""
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
        "The recipe below holds every setting, the random seed included. On CPUs, the same number "
        "of processes gives the same weights bit for bit; GPUs add in varying order."
    )
    details = {"summary": "recipe.yaml, with every setting", "pre": recipe}
    blocks: list[Block] = [("text", text), ("pre", "\n".join(lines)), ("details", details)]
    return Section("reproduce", "Reproduce", blocks)


def class_sections(scores: Record, colors: Colors) -> list[Section]:
    """Return a segmentation's scores by class; none for scores without IoU of classes."""
    iou, categories = class_scores(scores), class_scores(scores, "category_iou")
    if not iou:
        return []
    matrix, shares = confusion_matrix(scores), []
    if matrix is not None:
        shares = [percent(share) for share in matrix.sum(axis=1) / max(1, matrix.sum())]

    def bars(caption: str, by_name: ClassScores, shares: Sequence[str] = ()) -> Block:
        rows: list[list[Any]] = []
        for n, (name, value) in enumerate(by_name.items()):
            cells = ["", "absent"] if value is None else [{"bar": value}, percent(value)]
            rows.append([{"name": name, "color": colors.get(name)}, *cells, *shares[n : n + 1]])
        columns = ["class", "", "IoU", *(["of labels"] if shares else [])]
        return table(caption, columns, rows, 2, "bars")

    blocks = [bars("Intersection over union of each class", iou, shares)]
    if categories:
        blocks.append(bars("IoU of each category", categories))
    lost = Markup("No confusion matrix was saved. <code>drn eval RUN --json</code> computes it.")
    confusion = [("text", lost)] if matrix is None else _confusion(iou, matrix)
    last = Section("confusion", "Confusion matrix", confusion)
    return [Section("classes", "Classes", blocks), last]


def class_scores(scores: Record, key: str = "iou") -> ClassScores:
    """Return the IoU of each class; empty if there is none."""
    found = scores.get(key)
    return {name: number(found, name) for name in found} if isinstance(found, dict) else {}


def confusion_matrix(scores: Record) -> Matrix | None:
    """Return pixels by label (rows) and prediction; the last column are predictions of void."""
    classes = len(class_scores(scores))
    try:
        matrix = np.asarray(scores.get("confusion_matrix"), np.int64)
        void = np.asarray(scores.get("predicted_void", 0), np.int64)
        if matrix.shape == (classes, classes):
            return np.column_stack((matrix, np.broadcast_to(void, classes)))
    except (TypeError, ValueError, OverflowError):
        pass
    return None


def _confusion(iou: ClassScores, matrix: Matrix) -> list[Block]:
    """Return the confusion matrix as shares of the labels, and the most frequent confusions."""
    names, places = list(iou), list(range(len(iou)))
    caption = "Share of each label, in percent"
    if len(names) > MOST_ROWS:
        known = [place for place in places if iou[names[place]] is not None]
        places = sorted(sorted(known, key=lambda place: iou[names[place]] or 0)[:MOST_ROWS])
        caption += f" ({len(places)} of {len(names)} classes, those with the lowest IoU)"
    shares = matrix / np.maximum(1, matrix.sum(axis=1))[:, None]
    rows = [
        [names[row], *({"share": shares[row, at], "pixels": matrix[row, at]} for at in places)]
        for row in places
    ]
    columns = ["label ↓ prediction →", *(names[place] for place in places)]
    kind = "heat" if len(places) <= WITH_NUMBERS else "heat small"
    wrong = matrix[:, :-1] * (1 - np.eye(len(names), dtype=np.int64))
    order = np.argsort(wrong, axis=None, kind="stable")[::-1][:CONFUSIONS]
    confused = [
        (names[row], names[column], percent(shares[row, column]), f"{wrong[row, column]:,}")
        for row, column in zip(*np.unravel_index(order, wrong.shape), strict=True)
        if wrong[row, column]
    ]
    frequent: Block = ("text", "No pixel was predicted as another class.")
    if confused:
        head = ["label", "predicted as", "of the label", "pixels"]
        frequent = table("Most frequent confusions", head, confused, 2)
    return [table(caption, columns, rows, kind=kind), frequent]


def evaluation_facts(document: Record) -> Facts:
    """Return the head of a page from the JSON of `drn eval` or `drn localize --eval`."""
    facts = score_facts(document) | {"Images": f"{document['images']:,}"}
    if document.get("partial"):
        facts["Images"] = f"{document['images']:,} of {document['expected']:,} (partial)"
    if "threshold" in document:
        facts["Best threshold"] = shown(document, "threshold") or "none"
    named = (("of", "Threshold of"), ("view", "View"))
    facts |= {name: str(document[key]) for key, name in named if key in document}
    if "scales" in document:
        scales = ", ".join(f"{scale:g}" for scale in document["scales"])
        facts["Scales"] = f"{scales}{', flipped too' if document['flip'] else ''}"
    if absent := document.get("absent_classes"):
        facts["Absent classes, not in the mean"] = ", ".join(absent)
    return facts


def thresholds(sweep: Sequence[Record], best: float | None) -> Section:
    """Return the localization errors at each threshold."""
    rows = []
    for one in sweep:
        cells = [shown(one, key) for key in ("threshold", "top1_error", "top5_error")]
        rows.append([cells[0] + (" (best)" if one["threshold"] == best else ""), *cells[1:]])
    columns = ["threshold", "top-1 error", "top-5 error"]
    return Section("thresholds", "Thresholds", [table("Errors at each threshold", columns, rows)])


def differences(runs: Mapping[str, RunSummary], scores: Mapping[str, Record]) -> list[Section]:
    """Return what differs from the first run: recipe keys, and the IoU of each class."""
    changed, code = Markup("<strong>{}</strong>"), Markup("<code>{}</code>")
    rows = [
        [code.format(key)] + [_text(v) if v == row[0] else changed.format(_text(v)) for v in row]
        for key, row in recipe_differences([*runs.values()]).items()
    ]
    recipe: Block = ("text", "The recipes are equal.")
    if rows:
        recipe = table("Recipe keys that differ", ["key", *runs], rows, 1 + len(runs))
    sections = [Section("recipe", "Recipe differences", [recipe])]
    by_run = [class_scores(scores[name]) for name in runs]
    by_class = []
    for name in dict.fromkeys(name for iou in by_run for name in iou):
        first, *others = (iou.get(name) for iou in by_run)
        cells: list[Any] = [name, "" if first is None else percent(first)]
        for iou in others:
            cells.append("" if iou is None else percent(iou))
            if iou is not None and first is not None:
                points = round(100 * (iou - first), 1) + 0.0  # -0.0 is 0.0
                cells[-1] = {"name": cells[-1], "points": points}
        by_class.append(cells)
    if by_class:
        caption = f"IoU, and its difference to {next(iter(runs))} in points"
        blocks = [table(caption, ["class", *runs], by_class)]
        sections.append(Section("classes", "Classes", blocks))
    return sections

"""The content of a page's sections, as plain values that the templates lay out."""

import json
import shlex
import statistics
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from drn_cli.evaluation.localization import LocalizationScores
from drn_cli.formatting import duration, four_digits, percent, size
from drn_cli.report.run_history import (
    Record,
    RunSummary,
    number,
    recipe_differences,
    values,
)

Facts = list[tuple[str, str]]
Colors = Mapping[str, tuple[int, int, int]]
Matrix = npt.NDArray[np.int64]  # rows are labels, columns predictions; in pixels

MOST_BARS = 60  # of more classes, the best and the worst are shown
ENDS = 30
MOST_ROWS = 40  # of the confusion matrix; of more classes, those with the lowest IoU are shown
WITH_NUMBERS = 20  # classes, up to which there is room for numbers in the cells
CONFUSIONS = 10

SCORES = (
    ("miou", "mIoU"),
    ("category_miou", "mIoU of categories"),
    ("pixel_accuracy", "Pixel accuracy"),
    ("mean_accuracy", "Mean accuracy"),
    ("frequency_weighted_iou", "Frequency-weighted IoU"),
    ("top1", "Top-1 accuracy"),
    ("top5", "Top-5 accuracy"),
)
STATES = {
    "finished": "✓ finished",
    "interrupted": "❚❚ interrupted",
    "running": "▶ running",
    "unfinished": "… unfinished",
}
# Keys of environment.json and how the page names them; other keys are shown as they are.
ENVIRONMENT = {
    "drn": "drn",
    "revision": "Git commit of drn",
    "torch": "PyTorch",
    "torchvision": "torchvision",
    "python": "Python",
    "platform": "Platform",
    "device": "Device",
    "gpu_memory": "GPU memory",
    "cores": "CPU cores",
    "processes": "Processes",
    "precision": "Precision",
    "compiled": "Compiled",
    "command": "Command",
    "job": "Job",
    "seed": "Random seed",
    "weights": "Initial weights",
    "started": "Started",
    "train_pictures": "Training images",
    "val_pictures": "Validation images",
    "parameters": "Parameters",
}
TABLES = ("data", "resumed")  # keys of environment.json that have tables of their own


def score_facts(scores: Mapping[str, Any]) -> Facts:
    """Return the scores that a document has, named and in percent."""
    found = ((name, number(dict(scores), key)) for key, name in SCORES)
    return [(name, percent(value, 2)) for name, value in found if value is not None]


def run_facts(run: RunSummary, scores: Record | None) -> Facts:
    """Return the head of a run's page."""
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
    return facts


def validation_table(run: RunSummary) -> dict[str, Any]:
    """Return the validations in numbers: `columns` and `rows`."""
    records = run.history.val
    columns = [(key, name) for key, name in SCORES if any(key in record for record in records)]
    losses = any("loss" in record for record in records)
    rows = []
    for record in records:
        epoch, loss = number(record, "epoch"), number(record, "loss")
        cells = ["" if epoch is None else four_digits(epoch)]
        cells += ["" if loss is None else four_digits(loss)] if losses else []
        scores = (number(record, key) for key, _ in columns)
        rows.append(cells + ["" if score is None else percent(score, 2) for score in scores])
    head = ["epoch", *(["loss"] if losses else []), *(name for _, name in columns)]
    return {"columns": head, "rows": rows if len(head) > 1 else []}


def throughput(run: RunSummary) -> Facts:
    """Return how fast the run was; medians, because a line may cover a validation or a pause."""
    history, facts = run.history, []
    if speeds := values(history.train, "images_per_second"):
        facts.append(("Images per second, median", four_digits(statistics.median(speeds))))
    if waiting := values(history.train, "waiting"):
        facts.append(("Time waiting for data, median", percent(statistics.median(waiting))))
    if any(memory := values(history.train, "memory")):
        facts.append(("GPU memory, peak", size(max(memory))))
    if seconds := values(history.val, "seconds"):
        facts.append(("One validation, median", duration(statistics.median(seconds))))
    facts.append(("Steps", f"{history.step:,}"))
    if skipped := max(values(history.train, "skipped"), default=0):
        facts.append(("Steps skipped, loss or gradient not finite", f"{skipped:,.0f}"))
    if history.seconds is not None:
        facts.append(("Wall time", duration(history.seconds)))
    return facts


def environment(found: Mapping[str, Any]) -> dict[str, Any]:
    """Return versions, device and command, hashes of the data lists, and resumptions."""
    others = [key for key in found if key not in ENVIRONMENT and key not in TABLES]
    keys = [key for key in (*ENVIRONMENT, *others) if found.get(key) is not None]
    hashes, resumed = found.get("data"), found.get("resumed")
    return {
        "facts": [(ENVIRONMENT.get(key, key), _in_words(key, found[key])) for key in keys],
        "hashes": [*hashes.items()] if isinstance(hashes, dict) else [],
        "resumed": [
            [
                *(_in_words(key, entry.get(key)) for key in ("at", "step", "processes")),
                _changes(entry.get("changes")),
                _in_words("command", entry.get("command")),
            ]
            for entry in (resumed if isinstance(resumed, list) else [])
            if isinstance(entry, dict)
        ],
    }


def _in_words(key: str, value: Any) -> str:
    if value is None or isinstance(value, bool):
        return {None: "not known", True: "yes", False: "no"}[value]
    if key == "command" and isinstance(value, list):
        return shlex.join(map(str, value))
    if key == "gpu_memory" and isinstance(value, int):
        return size(value)
    if key == "weights" and isinstance(value, dict) and "file" in value:
        return f"{value['file']} (checksum {'' if value.get('verified') else 'not '}verified)"
    if isinstance(value, int) and key != "seed":
        return f"{value:,}"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _changes(changes: Any) -> str:
    if not isinstance(changes, dict) or not changes:
        return "none"
    return ", ".join(f"{key}: {_change(change)}" for key, change in changes.items())


def _change(change: Any) -> str:
    pair = change if isinstance(change, list) and len(change) == 2 else [change]
    return " → ".join(json.dumps(value, ensure_ascii=False) for value in pair)


def reproduction(run: RunSummary) -> list[str]:
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
    return lines


def class_scores(scores: Record, colors: Colors, when: str | None = None) -> dict[str, Any] | None:
    """Return a segmentation's scores by class; None for scores without IoU of classes.

    Args:
        scores: As in JSON.
        colors: Of the classes, where they are known.
        when: What was scored, in words; by default the best validation of a run.
    """
    iou = scores.get("iou")
    if not isinstance(iou, dict) or not iou:
        return None
    if when is None:
        facts = [f"{key} {scores[key]:g}" for key in ("epoch", "step") if number(scores, key)]
        if images := number(scores, "images"):
            facts.append(f"{images:g} images")
        when = f"in the best validation, {', '.join(facts)}"
    by_class = {name: number(iou, name) for name in iou}
    matrix = confusion_matrix(scores, len(by_class))
    labeled = None if matrix is None else _labeled_pixels(scores, matrix)
    shares = None if labeled is None else labeled / max(1, labeled.sum())

    def bar(name: str, value: float | None, share: float | None = None) -> dict[str, Any]:
        return {
            "name": name,
            "color": colors.get(name),
            "iou": value,
            "text": "absent" if value is None else percent(value),
            "share": None if share is None else percent(share),
        }

    rows = {
        name: bar(name, value, None if shares is None else float(shares[place]))
        for place, (name, value) in enumerate(by_class.items())
    }
    tables = [("IoU of each class", list(rows.values()))]
    if len(rows) > MOST_BARS:
        known = {name: value for name, value in by_class.items() if value is not None}
        ordered = sorted(known, key=lambda name: -known[name])
        tables = [
            (f"The {len(names)} {kind} of {len(iou)} classes", [rows[name] for name in names])
            for kind, names in (("best", ordered[:ENDS]), ("worst", ordered[-ENDS:]))
        ]
    categories = scores.get("category_iou")
    if isinstance(categories, dict) and categories:
        bars = [bar(name, number(categories, name)) for name in categories]
        tables.append(("IoU of each category", bars))
    confusion = None
    if matrix is not None and labeled is not None:
        confusion = _confusion(by_class, matrix, labeled)
    return {"when": when, "tables": tables, "confusion": confusion}


def confusion_matrix(scores: Record, classes: int) -> Matrix | None:
    """Return the confusion matrix, if there is one for this number of classes."""
    try:
        matrix = np.asarray(scores.get("confusion_matrix"), np.int64)
    except (TypeError, ValueError, OverflowError):
        return None
    return matrix if matrix.shape == (classes, classes) else None


def _labeled_pixels(scores: Record, matrix: Matrix) -> Matrix:
    """Count the pixels of each label, including those that were predicted as void."""
    pixels: Matrix = matrix.sum(axis=1)
    try:
        void = np.asarray(scores.get("predicted_void", 0), np.int64)
    except (TypeError, ValueError, OverflowError):
        return pixels
    return np.add(pixels, void) if void.shape in ((), pixels.shape) else pixels


def _confusion(iou: Mapping[str, float | None], matrix: Matrix, labeled: Matrix) -> dict[str, Any]:
    """Return the confusion matrix as shares of the labels, and the most frequent confusions."""
    names, shown = list(iou), range(len(iou))
    if len(names) > MOST_ROWS:
        present = [place for place in shown if iou[names[place]] is not None]
        worst = sorted(present, key=lambda place: iou[names[place]] or 0.0)[:MOST_ROWS]
        shown = sorted(worst)  # type: ignore[assignment]
    shares = matrix / np.maximum(1, labeled)[:, None]
    wrong = matrix.copy()
    np.fill_diagonal(wrong, 0)
    order = np.argsort(wrong, axis=None, kind="stable")[::-1][:CONFUSIONS]
    pairs = [divmod(int(cell), len(names)) for cell in order]
    return {
        "of": len(names),
        "numbers": len(shown) <= WITH_NUMBERS,
        "names": [names[place] for place in shown],
        "rows": [
            (
                names[row],
                [
                    {
                        "share": float(shares[row, column]),
                        "right": row == column,
                        "title": f"{names[row]} predicted as {names[column]}: "
                        f"{percent(float(shares[row, column]), 2)}, "
                        f"{matrix[row, column]:,} pixels",
                    }
                    for column in shown
                ],
            )
            for row in shown
        ],
        "pairs": [
            (
                names[row],
                names[column],
                percent(float(wrong[row, column] / labeled[row])),
                f"{wrong[row, column]:,}",
            )
            for row, column in pairs
            if wrong[row, column]
        ],
    }


def evaluation_facts(document: Mapping[str, Any]) -> Facts:
    """Return the head of an evaluation's page, from what `drn eval --json` prints."""
    facts = [*score_facts(document), ("Images", _counted(document))]
    if "view" in document:
        facts.append(("View", str(document["view"])))
    if "scales" in document:
        scales = ", ".join(f"{scale:g}" for scale in document["scales"])
        facts.append(("Scales", f"{scales}{', flipped too' if document['flip'] else ''}"))
    if absent := document.get("absent_classes"):
        facts.append(("Absent classes, not in the mean", ", ".join(absent)))
    return facts


def localization_facts(document: Mapping[str, Any], scores: LocalizationScores) -> Facts:
    """Return the head of a localization's page, from what `drn localize --eval --json` prints."""
    best = scores.best
    return [
        ("Top-1 error", percent(scores.top1[best], 2)),
        ("Top-5 error", percent(scores.top5[best], 2)),
        ("Top-1 classification error", percent(scores.top1_classification, 2)),
        ("Top-5 classification error", percent(scores.top5_classification, 2)),
        ("Best threshold", _threshold(scores.thresholds[best])),
        ("Threshold of", str(document["of"])),
        ("Part of the image", str(document["see"])),
        ("Images", _counted(document)),
    ]


def threshold_table(scores: LocalizationScores) -> list[tuple[str, str, str]]:
    """Return the errors at each threshold."""
    rows = enumerate(zip(scores.thresholds, scores.top1, scores.top5, strict=True))
    return [
        (
            f"{_threshold(threshold)}{' (best)' if place == scores.best else ''}",
            percent(top1, 2),
            percent(top5, 2),
        )
        for place, (threshold, top1, top5) in rows
    ]


def command_line() -> str:
    """Return the command that is running, as it can be typed again."""
    return shlex.join(["drn", *sys.argv[1:]])


def _threshold(threshold: float) -> str:
    return "none" if np.isneginf(threshold) else f"{threshold:g}"


def _counted(document: Mapping[str, Any]) -> str:
    """Return the number of scored images, and of how many if that was a part."""
    if not document.get("partial"):
        return f"{document['images']:,}"
    return f"{document['scored']:,} of {document['expected']:,} (partial)"


def comparison(runs: Mapping[str, RunSummary], scores: Mapping[str, Record]) -> dict[str, Any]:
    """Return the runs side by side: one row a run, recipe differences, IoU of each class.

    Args:
        runs: By name; differences are relative to the first.
        scores: Of each run that was validated.
    """
    found = {name: scores.get(name, {}).get("iou") for name in runs}
    scored = {name: iou if isinstance(iou, dict) else {} for name, iou in found.items()}
    by_class = []
    for kind in dict.fromkeys(kind for iou in scored.values() for kind in iou):
        row = [number(iou, kind) for iou in scored.values()]
        first = row[0]
        by_class.append(
            (
                kind,
                [
                    {
                        "text": "" if iou is None else percent(iou),
                        "change": None if None in (first, iou) or not n else 100 * (iou - first),  # type: ignore[operator]
                    }
                    for n, iou in enumerate(row)
                ],
            )
        )
    return {
        "rows": [
            [
                name,
                run.label,
                STATES[run.state],
                f"{four_digits(run.history.epoch)} of {four_digits(run.epochs)}",
                "" if run.score is None else percent(run.score, 2),
                four_digits(number(run.best, "epoch") or 0) if run.best else "",
                "" if run.history.loss is None else four_digits(run.history.loss),
                dict(throughput(run)).get("Images per second, median", ""),
                "" if run.history.seconds is None else duration(run.history.seconds),
            ]
            for name, run in runs.items()
        ],
        "recipe": {
            key: [_recipe_value(value) for value in row]
            for key, row in recipe_differences([*runs.values()]).items()
        },
        "classes": by_class,
    }


def _recipe_value(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def run_names(folders: Sequence[Any]) -> list[str]:
    """Return the shortest names, from the last parts of their paths, that tell runs apart."""
    paths = [folder.resolve().parts[1:] for folder in folders]
    longest = max(map(len, paths))
    for length in range(1, longest + 1):
        names = ["/".join(parts[-length:]) for parts in paths]
        if len(set(names)) == len(names):
            break
    return names

"""A run read back from its directory, finished or not: recipe, state, measurements and scores."""

import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from drn_cli.errors import DrnError
from drn_cli.files import parse_json, read_bytes, read_json, read_text
from drn_cli.networks.catalog import label
from drn_cli.recipe.loading import MAX_BYTES, parse_recipe
from drn_cli.runs import Run

Record = dict[str, Any]
State = Literal["finished", "interrupted", "running", "unfinished"]

# The score by which a task's best network is chosen, and its name in text.
SCORE = {"segmentation": ("miou", "mIoU"), "classification": ("top1", "top-1")}


@dataclass(frozen=True, slots=True)
class RunHistory:
    """The lines of metrics.jsonl by kind, in the order of the file.

    Attributes:
        train: Losses and speeds.
        val: Validations.
        end: How the run ended; None unless it is the last line, because a resumed run has earlier
            ones.
        unreadable: Number of damaged lines; a last line that is half written is not counted.
    """

    train: tuple[Record, ...] = ()
    val: tuple[Record, ...] = ()
    end: Record | None = None
    unreadable: int = 0

    @property
    def step(self) -> int:
        """Optimizer steps taken, as far as recorded."""
        return max((record["step"] for record in (*self.train, *self.val)), default=0)

    @property
    def epoch(self) -> float:
        """Epochs done, as far as recorded."""
        return max(values([*self.train, *self.val], "epoch"), default=0.0)

    @property
    def loss(self) -> float | None:
        """The last finite training loss."""
        return next(iter(values(self.train[::-1], "loss")), None)

    @property
    def seconds(self) -> float | None:
        """Wall time of the training, known once it has ended."""
        return number(self.end, "seconds") if self.end else None

    def best(self, score: str) -> Record | None:
        """Return the validation with the highest score, the first of equals."""
        scored = [record for record in self.val if number(record, score) is not None]
        return max(scored, key=lambda record: float(record[score]), default=None)


@dataclass(frozen=True, slots=True)
class RunSummary:
    """One run for a list of runs, and for the head of its report.

    Attributes:
        network: Its architecture.
        task: `segmentation` or `classification`.
        state: `running` if a process on this node, or one that shares its locks, trains in the
            directory; `unfinished` if there is no end marker.
        epochs: Length of the training.
        best: The validation with the best score, if there was one.
        started: When it first started, if recorded.
        history: All measurements.
        environment: The content of environment.json.
        settings: The recipe as flat keys: `train.lr`.
    """

    run: Run
    network: str
    task: str
    state: State
    epochs: float
    best: Record | None
    started: datetime | None
    history: RunHistory
    environment: dict[str, Any]
    settings: dict[str, Any]

    @property
    def width(self) -> float:
        """Channel multiplier of the network; runs of older versions name none."""
        width = number(self.settings, "model.width")
        return 1.0 if width is None else width

    @property
    def label(self) -> str:
        """Name of the architecture, with the width where it is not the paper's."""
        return label(self.network, self.width)

    @property
    def score(self) -> float | None:
        """The best score, a fraction of 1: mIoU, or top-1 accuracy."""
        return number(self.best, SCORE[self.task][0]) if self.best else None

    @property
    def score_name(self) -> str:
        return SCORE[self.task][1]

    @property
    def damage(self) -> str | None:
        """What is lost of the measurements, in one line; None if all lines could be read."""
        count = self.history.unreadable
        if not count:
            return None
        lines, they = ("line", "it is") if count == 1 else ("lines", "they are")
        return (
            f"{self.run.metrics}: {count:,} {lines} cannot be read ({they} left out; the file is "
            "damaged: restore it, if there is a copy)"
        )

    def to_json(self) -> dict[str, Any]:
        """Return the summary for JSON: times in seconds, scores as fractions of 1."""
        return {
            "run": str(self.run.folder),
            "arch": self.network,
            "width": self.width,
            "task": self.task,
            "state": self.state,
            "step": self.history.step,
            "epoch": self.history.epoch,
            "epochs": self.epochs,
            "metric": SCORE[self.task][0],
            "best": self.score,
            "best_epoch": number(self.best, "epoch") if self.best else None,
            "loss": self.history.loss,
            "val_loss": next(iter(values(self.history.val[::-1], "loss")), None),
            "seconds": self.history.seconds,
            "started": self.started.isoformat() if self.started else None,
        }


def number(record: Record, name: str) -> float | None:
    """Return a measured number; None if it is missing, null, not finite or not a number."""
    value = record.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        return float(value) if math.isfinite(value) else None
    except OverflowError:  # an integer of hundreds of digits
        return None


def values(records: Sequence[Record], name: str) -> list[float]:
    """Return the numbers that some records have under a name, in their order."""
    return [value for record in records if (value := number(record, name)) is not None]


def run_summary(run: Run) -> RunSummary:
    """Read a run directory, also one that an older version wrote.

    Raises:
        DrnError: recipe.yaml is missing, or a file cannot be read.
    """
    if not os.path.lexists(run.recipe):
        raise DrnError(f"{run.folder}: no run folder, it has no {run.recipe.name}")
    recipe, _ = parse_recipe(read_text(run.recipe, MAX_BYTES), str(run.recipe))
    # Only what is needed here is checked: the rest of an older recipe may differ from today's.
    try:
        network, task = recipe["model"]["arch"], recipe["task"]
        epochs = number(recipe["train"], "epochs")
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise DrnError(f"{run.recipe}: not a recipe: lacks task, model or train") from error
    if not isinstance(task, str) or task not in SCORE:
        shown = repr(task) if isinstance(task, str) else f"a {type(task).__name__}"
        raise DrnError(f"{run.recipe}: task: {shown} is none of {', '.join(SCORE)}")
    if not isinstance(network, str):
        raise DrnError(f"{run.recipe}: model.arch: a {type(network).__name__}, not a name")
    if epochs is None:
        raise DrnError(f"{run.recipe}: train.epochs: is no number")
    environment = read_json(run.environment) if os.path.lexists(run.environment) else {}
    if not isinstance(environment, dict):
        raise DrnError(f"{run.environment}: should hold an object")
    history = read_history(run.metrics)
    return RunSummary(
        run,
        network,
        task,
        "running" if run.in_use() else _state(history, epochs),
        epochs,
        history.best(SCORE[task][0]),
        _time(environment.get("started")),
        history,
        environment,
        dict(_flat(recipe)),
    )


def recipe_differences(runs: Sequence[RunSummary]) -> dict[str, list[Any]]:
    """Return the value in each run of every recipe key that is not the same in all of them.

    A key that a run's recipe lacks counts as None.
    """
    keys = dict.fromkeys(key for run in runs for key in run.settings)
    columns = {key: [run.settings.get(key) for run in runs] for key in keys}
    return {key: row for key, row in columns.items() if any(value != row[0] for value in row)}


def read_history(path: Path) -> RunHistory:
    """Read metrics.jsonl; a run that has measured nothing yet has no such file.

    Raises:
        DrnError: The file exists and cannot be read.
    """
    if not os.path.lexists(path):
        return RunHistory()
    text = read_bytes(path).decode(errors="replace")
    whole, _, _ = text.rpartition("\n")  # what follows is being written, or was when it crashed
    records = [_record(line) for line in whole.splitlines() if line.strip()]
    read = [record for record in records if record is not None]
    last = read[-1] if read else None
    return RunHistory(
        tuple(record for record in read if record["kind"] == "train"),
        tuple(record for record in read if record["kind"] == "val"),
        last if last and last["kind"] == "end" else None,
        len(records) - len(read),
    )


def read_scores(path: Path, fallback: Record | None) -> Record | None:
    """Read the scores of the best validation.

    Args:
        path: best.json.
        fallback: Returned for a run without the file: the line of that validation, which lacks
            the confusion matrix.

    Raises:
        DrnError: The file exists and cannot be read.
    """
    if not os.path.lexists(path):
        return fallback
    scores = read_json(path)
    if not isinstance(scores, dict):
        raise DrnError(f"{path}: should hold an object with the scores of a validation")
    return scores


def _record(line: str) -> Record | None:
    try:
        record = parse_json(line, "")
    except DrnError:
        return None
    known = isinstance(record, dict) and "kind" in record and isinstance(record.get("step"), int)
    return record if known else None


def _flat(tree: Record, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _time(written: object) -> datetime | None:
    try:
        time = datetime.fromisoformat(str(written))
        return time.astimezone(UTC) if time.tzinfo else time.replace(tzinfo=UTC)
    except (ValueError, OverflowError):
        return None


def _state(history: RunHistory, epochs: float) -> State:
    if history.end is not None:
        return "interrupted" if history.end.get("ending") == "interrupted" else "finished"
    # Older versions wrote no end marker: the validation of the last epoch stands for it.
    validated = max(values(history.val, "epoch"), default=0.0)
    return "finished" if validated >= epochs else "unfinished"

"""A run read back from its directory, finished or not: recipe, state, measurements and scores."""

import math
import os
import reprlib
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

from drn_cli.errors import DrnError
from drn_cli.files import parse_json, read_bytes, read_json, read_text
from drn_cli.recipe.loading import MAX_BYTES, parse_recipe
from drn_cli.runs import Run

Record = dict[str, Any]
State = Literal["finished", "interrupted", "running", "unfinished"]

# Score that selects the best checkpoint of a task: its key in metrics.jsonl, and its name in text.
SCORE = {"segmentation": ("miou", "mIoU"), "classification": ("top1", "top-1")}


@dataclass(frozen=True, slots=True)
class RunSummary:
    """Content of a run directory.

    A run is `running` if a process on this host, or on one that shares its file locks, trains in
    the directory, and `unfinished` if there is no end marker.
    """

    run: Run
    network: str
    width: float  # channel multiplier
    task: str
    state: State
    step: int  # last recorded optimizer step
    epoch: float  # last recorded epoch, with a fraction
    epochs: float  # length of the training
    loss: float | None  # last finite training loss
    val_loss: float | None
    seconds: float | None  # wall time; None until the training has ended
    started: datetime | None
    train: Sequence[Record]  # training records of metrics.jsonl, in the order of the file
    val: Sequence[Record]  # validation records
    best: Record  # validation with the highest score, the first of equals; may be empty
    damage: str | None  # warning about lines of metrics.jsonl that cannot be read
    environment: Record  # content of environment.json
    settings: Record  # recipe as flat keys: `train.lr`

    @property
    def score(self) -> float | None:
        """Best mIoU or top-1 accuracy, a fraction of 1."""
        return number(self.best, SCORE[self.task][0])

    def to_json(self) -> Record:
        """Return the summary for JSON: times in seconds, scores as fractions of 1."""
        same = ("width", "task", "state", "step", "epoch", "epochs")
        return {
            "run": str(self.run.folder),
            "arch": self.network,
            **{key: getattr(self, key) for key in same},
            "metric": SCORE[self.task][0],
            "best": self.score,
            "best_epoch": number(self.best, "epoch"),
            "loss": self.loss,
            "val_loss": self.val_loss,
            "seconds": self.seconds,
            "started": self.started.isoformat() if self.started else None,
        }


def number(record: Record, name: str) -> float | None:
    """Return a measured number; None if it is missing, not a number or not finite."""
    value = record.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        return float(value) if math.isfinite(value) else None
    except OverflowError:  # an integer of hundreds of digits
        return None


def values(records: Sequence[Record], name: str) -> list[float]:
    """Return the finite numbers that some records have under a name, in their order."""
    return [value for record in records if (value := number(record, name)) is not None]


def run_summary(run: Run) -> RunSummary:
    """Read a run directory, also one that an older version wrote.

    Only what is shown is validated: the rest of an older recipe may differ from today's.

    Raises:
        DrnError: recipe.yaml is missing, or a file cannot be read.
    """
    if not os.path.lexists(run.recipe):
        raise DrnError(f"{run.folder}: not a run directory: {run.recipe.name} is missing")
    recipe, _ = parse_recipe(read_text(run.recipe, MAX_BYTES), str(run.recipe))
    settings = dict(_flat(recipe))
    task: Any = settings.get("task")
    arch: Any = settings.get("model.arch")
    epochs: Any = number(settings, "train.epochs")
    for key, valid, expected in (
        ("task", task in [*SCORE], " or ".join(SCORE)),
        ("model.arch", isinstance(arch, str), "a name"),
        ("train.epochs", epochs is not None, "a number"),
    ):
        if not valid:
            found = reprlib.repr(settings[key]) if key in settings else "nothing"
            raise DrnError(f"{run.recipe}: {key}: expected {expected}, found {found}")
    environment = read_json(run.environment) if os.path.lexists(run.environment) else {}
    if not isinstance(environment, dict):
        raise DrnError(f"{run.environment}: expected an object")
    try:
        started = datetime.fromisoformat(str(environment.get("started")))
        started = started.astimezone(UTC) if started.tzinfo else started.replace(tzinfo=UTC)
    except (ValueError, OverflowError):
        started = None
    text = read_bytes(run.metrics).decode(errors="replace") if os.path.lexists(run.metrics) else ""
    whole, _, _ = text.rpartition("\n")  # the rest is still being written, or ends in a crash
    lines = [line for line in whole.splitlines() if line.strip()]
    records: list[Record] = []
    for line in lines:
        with suppress(DrnError):
            match record := parse_json(line, ""):
                case {"kind": _, "step": int()}:
                    records.append(record)
    train, val = ([one for one in records if one["kind"] == kind] for kind in ("train", "val"))
    damage = None
    if count := len(lines) - len(records):
        damage = (
            f"{run.metrics}: {count:,} of {len(lines):,} lines cannot be read (left out; the "
            "file is damaged: restore it, if there is a copy)"
        )
    # A resumed run has earlier end markers; only one that is the last line counts.
    end = records[-1] if records and records[-1]["kind"] == "end" else {}
    state: State = "unfinished"
    if run.in_use():
        state = "running"
    elif end:
        state = "interrupted" if end.get("ending") == "interrupted" else "finished"
    elif max(values(val, "epoch"), default=0.0) >= epochs:  # the first version wrote no end marker
        state = "finished"
    score, width = SCORE[task][0], number(settings, "model.width")
    scored = [record for record in val if number(record, score) is not None]
    return RunSummary(
        run=run,
        network=arch,
        width=1.0 if width is None else width,  # recipes before version 0.2 have none
        task=task,
        state=state,
        step=max((record["step"] for record in (*train, *val)), default=0),
        epoch=max(values([*train, *val], "epoch"), default=0.0),
        epochs=epochs,
        loss=next(iter(values(train[::-1], "loss")), None),
        val_loss=next(iter(values(val[::-1], "loss")), None),
        seconds=number(end, "seconds"),
        started=started,
        train=train,
        val=val,
        best=max(scored, key=lambda record: float(record[score]), default={}),
        damage=damage,
        environment=environment,
        settings=settings,
    )


def read_scores(run: RunSummary) -> tuple[Record, list[str]]:
    """Return all scores of the best validation, and warnings about damaged files.

    Without a readable best.json they are those of its record, which has no confusion matrix.
    """
    path, damage = run.run.scores, [run.damage] if run.damage else []
    try:
        scores = read_json(path) if os.path.lexists(path) else run.best
        if not isinstance(scores, dict):
            raise DrnError(f"{path}: expected an object with the scores of a validation")
    except DrnError as error:
        return run.best, [error.message, *damage]
    return scores, damage


def recipe_differences(runs: Sequence[RunSummary]) -> dict[str, list[Any]]:
    """Return the value in each run of every recipe key that is not the same in all of them.

    A key that a run's recipe lacks counts as None.
    """
    keys = dict.fromkeys(key for run in runs for key in run.settings)
    columns = {key: [run.settings.get(key) for run in runs] for key in keys}
    return {key: row for key, row in columns.items() if any(value != row[0] for value in row)}


def _flat(tree: Record, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value

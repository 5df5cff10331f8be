"""What a run measured, read back from metrics.jsonl and best.json while it may still be written."""

import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from drn_cli.errors import DrnError
from drn_cli.files import parse_json, read_bytes, read_json

Record = dict[str, Any]

# The score by which a task's best network is chosen, and what it is called.
SCORE = {"segmentation": ("miou", "mIoU"), "classification": ("top1", "top-1")}


@dataclass(frozen=True, slots=True)
class History:
    """The lines of metrics.jsonl by their kind, in the order of the file.

    Attributes:
        train: Losses and speeds.
        val: Validations.
        end: The line that says how the run ended; None unless it is the last line, because a run
            that was resumed has earlier ones.
        unreadable: Lines that say nothing; the last, half written, is not counted.
    """

    train: tuple[Record, ...] = ()
    val: tuple[Record, ...] = ()
    end: Record | None = None
    unreadable: int = 0

    @property
    def step(self) -> int:
        """Steps taken, as far as they were written down."""
        return max((record["step"] for record in (*self.train, *self.val)), default=0)

    @property
    def epoch(self) -> float:
        """Epochs done, as far as they were written down."""
        epochs = (number(record, "epoch") or 0.0 for record in (*self.train, *self.val))
        return max(epochs, default=0.0)

    @property
    def loss(self) -> float | None:
        """The last loss that was finite."""
        losses = (number(record, "loss") for record in reversed(self.train))
        return next((loss for loss in losses if loss is not None), None)

    @property
    def seconds(self) -> float | None:
        """Wall time of the training, which only a run that has ended knows."""
        return number(self.end, "seconds") if self.end else None

    def best(self, score: str) -> Record | None:
        """Find the validation with the highest score, the first of equals."""
        scored = [record for record in self.val if number(record, score) is not None]
        return max(scored, key=lambda record: float(record[score]), default=None)


def number(record: Record, name: str) -> float | None:
    """Give a measured number; None if it is missing, null, not finite or no number."""
    value = record.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        return float(value) if math.isfinite(value) else None
    except OverflowError:  # a whole number of hundreds of digits
        return None


def read_history(path: Path) -> History:
    """Read metrics.jsonl; a run that has measured nothing yet has no such file.

    Raises:
        DrnError: The file is there and cannot be read.
    """
    if not os.path.lexists(path):
        return History()
    text = read_bytes(path).decode(errors="replace")
    whole, _, _ = text.rpartition("\n")  # what follows is being written, or was when it crashed
    records = [_record(line) for line in whole.splitlines() if line.strip()]
    read = [record for record in records if record is not None]
    last = read[-1] if read else None
    return History(
        tuple(record for record in read if record["kind"] == "train"),
        tuple(record for record in read if record["kind"] == "val"),
        last if last and last["kind"] == "end" else None,
        len(records) - len(read),
    )


def _record(line: str) -> Record | None:
    try:
        record = parse_json(line, "")
    except DrnError:
        return None
    known = isinstance(record, dict) and "kind" in record and isinstance(record.get("step"), int)
    return record if known else None


def read_scores(path: Path, fallback: Record | None) -> Record | None:
    """Read the scores of the best validation.

    Args:
        path: best.json.
        fallback: What to give for a run that did not write it: the line of that validation, which
            lacks the confusion matrix.

    Raises:
        DrnError: The file is there and cannot be read.
    """
    if not os.path.lexists(path):
        return fallback
    scores = read_json(path)
    if not isinstance(scores, dict):
        raise DrnError(f"{path}: should hold an object with the scores of a validation")
    return scores

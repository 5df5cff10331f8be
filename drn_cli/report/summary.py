"""A run in a line: which network, how far, how good."""

import os
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

from drn_cli.errors import DrnError
from drn_cli.files import read_json, read_text
from drn_cli.networks.catalog import label
from drn_cli.recipe.yaml_source import LARGEST, plain, read_mapping
from drn_cli.report.history import SCORE, History, Record, number, read_history
from drn_cli.runs import Run

State = Literal["finished", "interrupted", "running", "unfinished"]


@dataclass(frozen=True, slots=True)
class Summary:
    """What is told of a run in a list, and at the top of its page.

    Attributes:
        network: Name of the architecture.
        task: `segmentation` or `classification`.
        state: `running` if a process on this machine, or one that shares its locks, trains in the
            folder; `unfinished` is a run that ended without a word, or goes on elsewhere.
        epochs: How many it was to take.
        best: The validation that scored best, if there was one.
        started: When it first started, if it says.
        history: All that it measured.
        environment: What it ran on.
        width: Channel multiplier of the network.
    """

    run: Run
    network: str
    task: str
    state: State
    epochs: float
    best: Record | None
    started: datetime | None
    history: History
    environment: dict[str, Any]
    width: float = 1.0

    @property
    def label(self) -> str:
        """Name of the architecture, with the width where it is not the paper's."""
        return label(self.network, self.width)

    @property
    def score(self) -> float | None:
        """The best score, as a fraction of 1: mIoU, or top-1 accuracy."""
        return number(self.best, SCORE[self.task][0]) if self.best else None

    @property
    def score_name(self) -> str:
        return SCORE[self.task][1]

    @property
    def damage(self) -> str | None:
        """What is lost of the measurements, in a line; None if all could be read."""
        count = self.history.unreadable
        if not count:
            return None
        lines, they = ("line", "it is") if count == 1 else ("lines", "they are")
        return (
            f"{self.run.metrics}: {count:,} {lines} cannot be read ({they} left out; the file is "
            "damaged: restore it, if there is a copy)"
        )

    def to_json(self) -> dict[str, Any]:
        """Give it ready for JSON; times are in seconds, scores are fractions of 1."""
        return {
            "run": str(self.run.folder),
            "network": self.network,
            "width": self.width,
            "task": self.task,
            "state": self.state,
            "step": self.history.step,
            "epoch": self.history.epoch,
            "epochs": self.epochs,
            "score": SCORE[self.task][0],
            "best": self.score,
            "best_epoch": number(self.best, "epoch") if self.best else None,
            "loss": self.history.loss,
            "seconds": self.history.seconds,
            "started": self.started.isoformat() if self.started else None,
        }


def summarise(run: Run) -> Summary:
    """Read what a run folder tells, of an older version's run too.

    Raises:
        DrnError: recipe.yaml is missing, or a file cannot be read.
    """
    network, width, task, epochs = _recipe(run)
    environment = read_json(run.environment) if os.path.lexists(run.environment) else {}
    if not isinstance(environment, dict):
        raise DrnError(f"{run.environment}: should hold an object")
    history = read_history(run.metrics)
    best = history.best(SCORE[task][0])
    started = _time(environment.get("started"))
    state: State = "running" if run.in_use() else _state(history, epochs)
    return Summary(run, network, task, state, epochs, best, started, history, environment, width)


def _recipe(run: Run) -> tuple[str, float, str, float]:
    """Read network, width, task and epochs, without asking for the rest to be what it is today."""
    if not os.path.lexists(run.recipe):
        raise DrnError(f"{run.folder}: no run folder, it has no {run.recipe.name}")
    recipe = plain(read_mapping(read_text(run.recipe, LARGEST), str(run.recipe)))
    try:
        network, task = recipe["model"]["arch"], recipe["task"]
        width = number(recipe["model"], "width")  # older runs have none
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
    return network, 1.0 if width is None else width, task, epochs


def _time(written: object) -> datetime | None:
    try:
        time = datetime.fromisoformat(str(written))
        return time.astimezone(UTC) if time.tzinfo else time.replace(tzinfo=UTC)
    except (ValueError, OverflowError):
        return None


def _state(history: History, epochs: float) -> State:
    if history.end is not None:
        return "interrupted" if history.end.get("ending") == "interrupted" else "finished"
    # Older versions wrote no end; a run that has validated its last epoch has nothing left to do.
    validated = max((number(record, "epoch") or 0.0 for record in history.val), default=0.0)
    return "finished" if validated >= epochs else "unfinished"

"""What a run shows on the terminal: a line that moves, and a table for each epoch."""

import sys
import time
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Self

from rich.columns import Columns
from rich.table import Table
from rich.text import Text
from tqdm import tqdm

from drn_cli.formatting import Terminal
from drn_cli.training.checkpoint import Progress
from drn_cli.training.setup import Training
from drn_cli.training.tasks import Validation

BAR = "{desc} {percentage:3.0f}%|{bar}| {n}/{total} {elapsed}<{remaining}{postfix}"
MOST_CLASSES = 40  # whose IoU is shown


@dataclass(slots=True)
class Pace:
    """What a stretch of training did and how fast, as it was measured.

    Attributes:
        loss: Sum of the loss, and
        weight: of its weights.
        pictures: How many were trained on, by all processes.
        waiting: Seconds that were spent waiting for them, of
        seconds: in all.
        taken: Steps whose loss counts.
    """

    loss: float = 0.0
    weight: float = 0.0
    pictures: int = 0
    waiting: float = 0.0
    seconds: float = 0.0
    taken: int = 0
    since: float = field(default_factory=time.perf_counter)

    @property
    def mean_loss(self) -> float | None:
        """The mean loss; None if no step was taken."""
        if self.weight == 0:
            return 0.0 if self.taken else None  # nothing but void
        return self.loss / self.weight

    @property
    def speed(self) -> float:
        """Pictures a second."""
        return self.pictures / self.seconds if self.seconds else 0.0

    @property
    def share_waiting(self) -> float:
        """Share of the time that was spent waiting for data."""
        return self.waiting / self.seconds if self.seconds else 0.0

    def stop(self) -> None:
        """Take the time."""
        self.seconds = time.perf_counter() - self.since

    def add(self, other: "Pace") -> None:
        """Count another stretch in."""
        self.loss += other.loss
        self.weight += other.weight
        self.pictures += other.pictures
        self.waiting += other.waiting
        self.seconds += other.seconds
        self.taken += other.taken


class Display:
    """Shows the first process's progress; the others are silent."""

    def __init__(self, training: Training, progress: Progress) -> None:
        self._training, self._silent = training, not training.group.first
        self._epochs = training.recipe.train.epochs
        self._untitled = True  # the header of the table is printed once
        self._console = Terminal(stderr=True)
        self._bar: tqdm[Any] = tqdm(
            total=training.steps,
            initial=progress.steps,
            bar_format=BAR,
            disable=True if self._silent else None,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()

    def epoch(self, epoch: int) -> None:
        """Name the epoch that begins, from 0."""
        self._bar.set_description(f"epoch {epoch + 1}/{self._epochs}")

    def step(self) -> None:
        self._bar.update()

    def pace(self, pace: Pace, rate: float) -> None:
        """Show what the last steps did."""
        loss = pace.mean_loss
        self._bar.set_postfix_str(
            f"loss {'-' if loss is None else f'{loss:.3f}'}, lr {rate:.2g}, "
            f"{pace.speed:.1f} pictures/s, waiting {pace.share_waiting:.0%}"
        )

    def validating(self, pictures: int) -> "tqdm[Any]":
        """Show a second line while pictures are scored."""
        return tqdm(
            total=pictures, desc="validating", leave=False, disable=True if self._silent else None
        )

    def epoch_done(
        self, epoch: int, pace: Pace, rate: float, validation: Validation | None, best: bool
    ) -> None:
        """Print what an epoch, counted from 1, came to."""
        if self._silent:
            return
        loss, scores = pace.mean_loss, {} if validation is None else validation.scores
        cells = {
            "epoch": f"{epoch}/{self._epochs}",
            "loss": "-" if loss is None else f"{loss:.4f}",
            "lr": f"{rate:.3g}",
            "images/s": f"{pace.speed:.1f}",
            "waiting": f"{pace.share_waiting:.0%}",
        }
        for name, key in SCORES[self._training.recipe.task].items():
            cells[name] = f"{100 * scores[key]:.2f} %" if key in scores else ""
        cells[""] = "best so far" if validation is not None and best else ""
        table = Table(header_style="bold", box=None, pad_edge=False, show_header=self._untitled)
        self._untitled = False
        for name in cells:
            table.add_column(name, min_width=max(9, len(name)))  # the rows of epochs line up
        table.add_row(*cells.values())
        classes = {} if validation is None else validation.scores.get("iou", {})
        # The moving line steps aside. A terminal that was closed, or a log's full disk, is no
        # reason to stop.
        with suppress(OSError), tqdm.external_write_mode(file=sys.stderr):
            self._console.print(table)
            if 0 < len(classes) <= MOST_CLASSES:
                shown = [
                    Text.assemble((name, "dim"), f" {'-' if iou is None else f'{100 * iou:.1f}'}")
                    for name, iou in classes.items()
                ]
                self._console.print(Columns([Text("IoU %", "dim"), *shown], padding=(0, 2)))


# Names of scores in the table and in metrics.jsonl.
SCORES = {
    "segmentation": {"mIoU": "miou", "pixel accuracy": "pixel_accuracy"},
    "classification": {"top-1": "top1", "top-5": "top5"},
}

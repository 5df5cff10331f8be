"""Progress of a run: a bar on a terminal, lines elsewhere, and a table row per epoch."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, Self

from rich.columns import Columns
from rich.text import Text
from tqdm import tqdm

from drn_cli.formatting import Terminal, duration, four_digits
from drn_cli.training.checkpoint import TrainProgress
from drn_cli.training.setup import TrainState
from drn_cli.training.tasks import ValidationResult

BAR = "{desc} {percentage:3.0f}%|{bar}| {n}/{total} {elapsed}<{remaining}{postfix}"
MAX_CLASSES = 40  # whose IoU is shown
WIDTH = 80  # columns

# The scores of a task by their keys in metrics.jsonl, with the titles of their columns.
SCORES = {
    "segmentation": {"miou": "mIoU %", "pixel_accuracy": "pixel %"},
    "classification": {"top1": "top-1 %", "top5": "top-5 %"},
}

# Without a terminal a line is printed once a minute at most, and every 5 % of an epoch at most; in
# an epoch of more than three hours, every ten minutes.
LINE_SECONDS, LINE_SHARE, SILENCE_SECONDS = 60, 0.05, 600


@dataclass(slots=True)
class Throughput:
    """Loss and throughput of consecutive training steps."""

    loss: float = 0.0  # sum of the weighted losses
    weight: float = 0.0  # sum of the weights
    images: int = 0  # number of training images, over all ranks
    waiting: float = 0.0  # seconds spent waiting for data, of `seconds` in total
    seconds: float = 0.0
    taken: int = 0  # number of steps that were not skipped
    since: float = field(default_factory=time.perf_counter)

    @property
    def mean_loss(self) -> float | None:
        """Mean loss; None if all steps were skipped."""
        if self.weight == 0:
            return 0.0 if self.taken else None  # nothing but void
        return self.loss / self.weight

    @property
    def images_per_second(self) -> float:
        return self.images / self.seconds if self.seconds else 0.0

    @property
    def data_time_share(self) -> float:
        """Share of the time that was spent waiting for data."""
        return self.waiting / self.seconds if self.seconds else 0.0

    def stop(self) -> None:
        """Measure the time since the start."""
        self.seconds = time.perf_counter() - self.since

    def add(self, other: "Throughput") -> None:
        """Add other steps."""
        self.loss += other.loss
        self.weight += other.weight
        self.images += other.images
        self.waiting += other.waiting
        self.seconds += other.seconds
        self.taken += other.taken


class ProgressDisplay:
    """Progress of a run on stderr; rank 0 prints, the other ranks are silent.

    Args:
        training: What is trained.
        progress: Where it starts.
        clock: Returns seconds.
    """

    def __init__(
        self,
        training: TrainState,
        progress: TrainProgress,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._clock, self._silent = clock, not training.group.is_main
        self._epochs, self._steps_per_epoch = training.recipe.train.epochs, training.order.steps
        self._console = Terminal(stderr=True)
        self._scores = SCORES[training.recipe.task]
        self._header_printed, self._throughput, self._lr = False, Throughput(), 0.0
        self._bar: tqdm[Any] = tqdm(
            total=training.steps,
            initial=progress.steps,
            bar_format=BAR,
            disable=True if self._silent else None,
        )
        self._lines = self._bar.disable and not self._silent
        self._progress, self._first_step, self._started = progress, progress.steps, clock()
        self._printed_step, self._printed_at = progress.steps, self._started

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()

    def epoch(self, epoch: int) -> None:
        """Start an epoch, counted from 0."""
        self._bar.set_description(f"epoch {epoch + 1}/{self._epochs}")

    def step(self) -> None:
        """Count a step."""
        self._bar.update()
        progress, length = self._progress, self._steps_per_epoch
        done = progress.step_in_epoch
        if done < length and self._line_is_due((progress.steps - self._printed_step) / length):
            step_seconds = (self._clock() - self._started) / (progress.steps - self._first_step)
            left = (self._epochs - progress.epoch) * length - done
            self._print_line(
                f"epoch {progress.epoch + 1}/{self._epochs}  {done / length:4.0%}  "
                f"{self._numbers('  ')}  {duration(left * step_seconds)} left"
            )

    def measured(self, throughput: Throughput, lr: float) -> None:
        """Show loss, learning rate and throughput of the last steps."""
        self._throughput, self._lr = throughput, lr
        self._bar.set_postfix_str(self._numbers(", "))

    @contextmanager
    def validating(self, images: int) -> Iterator[Callable[[], object]]:
        """Show the progress of a validation; yield a function to call per image."""
        off = True if self._silent else None
        done = 0
        with tqdm(total=images, desc="validating", leave=False, disable=off) as bar:

            def count() -> None:
                nonlocal done
                done += 1
                bar.update()
                if done < images and self._line_is_due(LINE_SHARE):
                    self._print_line(f"validating  {done / images:4.0%}")

            yield count

    def epoch_done(
        self,
        epoch: int,
        whole: Throughput,
        lr: float,
        validation: ValidationResult | None,
        best: bool,
    ) -> None:
        """Print the table row of an epoch, counted from 1; before the first, the header."""
        self._printed_at, self._printed_step = self._clock(), self._progress.steps
        if self._silent:
            return
        scores: dict[str, Any] = {} if validation is None else validation.scores
        cells: dict[str, tuple[int, str]] = {
            "epoch": (9, f"{epoch}/{self._epochs}"),
            "loss": (8, _number(whole.mean_loss)),
            "val loss": (8, _number(scores.get("loss"))),
        }
        for key, name in self._scores.items():
            cells[name] = 7, f"{100 * scores[key]:.2f}" if key in scores else "-"
        cells["lr"] = 8, f"{lr:.3g}"
        cells["images/s"] = 8, f"{whole.images_per_second:.1f}"
        cells["waiting"] = 7, f"{whole.data_time_share:.0%}"
        mark = "  best" if best else ""
        rows = [" ".join(f"{text:>{width}}" for width, text in cells.values()) + mark]
        if not self._header_printed:
            self._header_printed = True
            head = " ".join(f"{name:>{width}}" for name, (width, _) in cells.items())
            rows.insert(0, head)
        classes = scores.get("iou", {})
        # Clear the progress bar meanwhile. A closed terminal, or a full disk of a log, must not
        # end the run.
        with suppress(OSError), tqdm.external_write_mode(file=sys.stderr):
            for row in rows:
                self._console.print(Text(row, "bold" if row is not rows[-1] else ""))
            if 0 < len(classes) <= MAX_CLASSES:
                shown = [
                    Text.assemble((name, "dim"), f" {'-' if iou is None else f'{100 * iou:.1f}'}")
                    for name, iou in classes.items()
                ]
                columns = Columns([Text("IoU %", "dim"), *shown], padding=(0, 2))
                self._console.print(columns, width=min(WIDTH, self._console.width))

    def _numbers(self, separator: str) -> str:
        now = self._throughput
        return separator.join(
            (
                f"loss {_number(now.mean_loss)}",
                f"lr {self._lr:.2g}",
                f"{now.images_per_second:.1f} images/s",
                f"waiting {now.data_time_share:.0%}",
            )
        )

    def _line_is_due(self, share: float) -> bool:
        """Whether a line is due, `share` of an epoch after the last."""
        if not self._lines:
            return False
        silence = self._clock() - self._printed_at
        return silence >= LINE_SECONDS and (share >= LINE_SHARE or silence >= SILENCE_SECONDS)

    def _print_line(self, line: str) -> None:
        self._printed_at, self._printed_step = self._clock(), self._progress.steps
        with suppress(OSError):
            self._console.print(line, soft_wrap=True)


def _number(value: float | None) -> str:
    return "-" if value is None else four_digits(value)

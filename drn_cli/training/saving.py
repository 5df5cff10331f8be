"""When checkpoints are written, and which of them are kept."""

import os
import shutil
import time
from contextlib import suppress
from pathlib import Path

from drn_cli.errors import DrnError
from drn_cli.files import atomic
from drn_cli.runs import Run
from drn_cli.training.checkpoint import TrainProgress, save_checkpoint
from drn_cli.training.setup import TrainState


class CheckpointManager:
    """Writes the checkpoints of a run.

    `last.pt` is always the newest. A recipe that keeps several has each under a name with its step
    too, of which `last.pt` is then another name.

    Args:
        training: What is saved.
        run: Where to.
        seconds: How long the run had trained before.

    Attributes:
        saved_step: After how many steps the last one was written.
    """

    def __init__(self, training: TrainState, run: Run, seconds: float = 0) -> None:
        self._training, self._run = training, run
        self._start = time.monotonic() - seconds
        self._saved_at = time.monotonic()
        self.saved_step: int | None = None

    @property
    def seconds(self) -> float:
        """How long the run has trained in all."""
        return time.monotonic() - self._start

    def due(self, step: int) -> bool:
        """Tell whether it is time for a checkpoint, after this many steps."""
        train = self._training.recipe.train
        if train.save_every_steps is not None and step % train.save_every_steps == 0:
            return True
        minutes = (time.monotonic() - self._saved_at) / 60
        return train.save_every_minutes is not None and minutes >= train.save_every_minutes

    def save(self, progress: TrainProgress) -> None:
        """Write a checkpoint, in all processes together.

        Raises:
            DrnError: It cannot be written. The one before is whole.
        """
        run, keep = self._run, self._training.recipe.train.keep_last
        path = run.last if keep == 1 else run.checkpoint(progress.steps)
        try:
            save_checkpoint(path, self._training, progress, self.seconds)
            if self._training.group.is_main:
                if keep > 1:
                    _name_too(path, run.last)
                _clear_away(run, progress.steps, keep)
        except DrnError as error:
            raise self._explained(error) from error
        self._training.group.barrier()  # nobody leaves before the file is whole
        self._saved_at, self.saved_step = time.monotonic(), progress.steps

    def _explained(self, error: DrnError) -> DrnError:
        if not self._run.last.is_file():
            return error
        step = "" if self.saved_step is None else f" of step {self.saved_step}"
        return DrnError(
            f"{error.message}; the earlier checkpoint{step} is whole",
            f"when that is mended, go on with: drn train --resume {self._run.folder}",
        )


def clear_leftovers(run: Run) -> None:
    """Remove what a process that was killed while it wrote a checkpoint has left half done.

    Only for who holds the folder: another's would be under way.
    """
    for path in run.last.parent.glob(".*.tmp"):
        with suppress(OSError):
            path.unlink()


def _name_too(path: Path, name: Path) -> None:
    """Give a file a second name, at once and in place of what had it."""
    with atomic(name, durable=False) as temporary:
        temporary.unlink()
        try:
            os.link(path, temporary)
        except OSError:  # a file system without such links
            shutil.copyfile(path, temporary)


def _clear_away(run: Run, step: int, keep: int) -> None:
    """Remove checkpoints beyond the last few, and those of steps that a resumed run takes anew."""
    past = [path for path in run.earlier_checkpoints() if path <= run.checkpoint(step)]
    kept = past[-keep:] if keep > 1 else []
    for path in run.earlier_checkpoints():
        if path not in kept:
            with suppress(OSError):
                path.unlink()

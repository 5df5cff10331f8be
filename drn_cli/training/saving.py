"""When checkpoints are written, and which of them are kept."""

import os
import shutil
import time
from contextlib import suppress

from drn_cli.errors import DrnError
from drn_cli.files import atomic
from drn_cli.runs import Run
from drn_cli.training.checkpoint import TrainProgress, save_checkpoint
from drn_cli.training.setup import TrainState


class CheckpointManager:
    """Writes the checkpoints of a run.

    `last.pt` is always the newest. With train.keep_last > 1, each checkpoint has a name with its
    step, and `last.pt` is a hard link to the newest.

    Args:
        training: The state to save.
        run: The run directory.
        seconds: Training time before this process started.

    Attributes:
        saved_step: Step of the last checkpoint written here; None before the first.
    """

    def __init__(self, training: TrainState, run: Run, seconds: float = 0) -> None:
        self._training, self._run = training, run
        self._start = time.monotonic() - seconds
        self._saved_at = time.monotonic()
        self.saved_step: int | None = None

    @property
    def seconds(self) -> float:
        """Total training time of the run."""
        return time.monotonic() - self._start

    def due(self, step: int) -> bool:
        """Whether a checkpoint is due after this step, by steps or by minutes."""
        train = self._training.recipe.train
        if train.save_every_steps is not None and step % train.save_every_steps == 0:
            return True
        minutes = (time.monotonic() - self._saved_at) / 60
        return train.save_every_minutes is not None and minutes >= train.save_every_minutes

    def save(self, progress: TrainProgress) -> None:
        """Write a checkpoint; collective: every rank calls it.

        Raises:
            DrnError: It cannot be written. The previous checkpoint is intact.
        """
        run, keep = self._run, self._training.recipe.train.keep_last
        path = run.last if keep == 1 else run.checkpoint(progress.steps)
        try:
            save_checkpoint(path, self._training, progress, self.seconds)
            if self._training.group.is_main:
                if keep > 1:
                    with atomic(run.last, durable=False) as temporary:
                        temporary.unlink()
                        try:
                            os.link(path, temporary)
                        except OSError:  # the file system has no hard links
                            shutil.copyfile(path, temporary)
                _remove_old(run, progress.steps, keep)
        except DrnError as error:
            if not run.last.is_file():
                raise
            step = "" if self.saved_step is None else f" of step {self.saved_step}"
            raise DrnError(
                f"{error.message}; the earlier checkpoint{step} is intact",
                f"fix this, then resume: drn train --resume {run.folder}",
            ) from error
        self._training.group.barrier()  # no rank exits before the file is complete
        self._saved_at, self.saved_step = time.monotonic(), progress.steps


def clear_leftovers(run: Run) -> None:
    """Remove temporary files of a process that was killed while it wrote a checkpoint.

    Call it with the run directory locked: another process might be writing.
    """
    for path in run.last.parent.glob(".*.tmp"):
        with suppress(OSError):
            path.unlink()


def _remove_old(run: Run, step: int, keep: int) -> None:
    """Remove all but the latest checkpoints, and those of steps that a resumed run repeats."""
    past = [path for path in run.earlier_checkpoints() if path <= run.checkpoint(step)]
    kept = past[-keep:] if keep > 1 else []
    for path in run.earlier_checkpoints():
        if path not in kept:
            with suppress(OSError):
                path.unlink()

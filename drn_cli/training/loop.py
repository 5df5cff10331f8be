"""The training loop: steps, validations and checkpoints, from the first to the last."""

import logging
import math
import os
import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from drn_cli.data.batches import Batch, on_device
from drn_cli.data.readers import wrap_worker_errors
from drn_cli.device import is_out_of_memory
from drn_cli.distributed.heartbeat import CHECKPOINT, COMPILATION, READING, START, TRAINING
from drn_cli.errors import DrnError, few_of
from drn_cli.files import write_json, write_text
from drn_cli.inference.score_maps import NonFiniteScoresError
from drn_cli.networks.checkpoints import save_weights
from drn_cli.recipe.loading import resolved_yaml
from drn_cli.training.checkpoint import LoadedCheckpoint, TrainProgress, load_checkpoint
from drn_cli.training.display import ProgressDisplay, Throughput
from drn_cli.training.metrics import END, MetricsLogger
from drn_cli.training.resuming import RunPlan, record_resume, tell_what_changes
from drn_cli.training.sanity import check
from drn_cli.training.saving import CheckpointManager, clear_leftovers
from drn_cli.training.schedule import learning_rate
from drn_cli.training.setup import TrainState
from drn_cli.training.signals import StopRequest, interruptible
from drn_cli.training.step import StepStats, take_step
from drn_cli.training.tasks import ValidationResult
from drn_cli.training.tensorboard import TensorBoardLogger
from drn_cli.training.validation import validate

log = logging.getLogger(__name__)

NAMED = 16  # images of a batch that an error names

# Scores too long for a line of metrics; best.json has them.
LONG = frozenset({"confusion_matrix", "predicted_void", "absent_classes", "images_worst_first"})

# What processes exchange after a step: one of these, or the number of a signal (SIGHUP is 1).
CONTINUE, SAVE = -1, 0


def train(training: TrainState, beginning: RunPlan) -> signal.Signals | None:
    """Train from the start, or from a run's checkpoint, until the end or a signal.

    SIGINT, SIGTERM, SIGUSR1 and SIGHUP end the current step, write the checkpoint and return.

    Returns:
        The signal that ended training; None if it is finished.

    Raises:
        DrnError: An image cannot be used, the loss stays not finite, memory is short, a file
            cannot be written, or the checkpoint does not fit.
    """
    with ExitStack() as stack:
        # Nobody else may train in this folder, and signals may come from here on.
        if training.group.is_main:
            stack.enter_context(beginning.run.claimed())
            clear_leftovers(beginning.run)
        stack.enter_context(wrap_worker_errors())
        interrupt = stack.enter_context(interruptible(aloud=training.group.is_main))
        loop = Trainer(training, beginning, interrupt)
        with loop.display:
            loop.begin()
            return loop.run_to_the_end()


class Trainer:
    """A run under way."""

    def __init__(self, training: TrainState, beginning: RunPlan, interrupt: StopRequest) -> None:
        self.training, self.beginning, self.interrupt = training, beginning, interrupt
        self.run, self.settings = beginning.run, training.recipe.train
        self.group, self.order = training.group, training.order
        self.progress, seconds, self.verified = TrainProgress(), 0.0, True
        self.metrics = MetricsLogger(self.run.metrics, first=self.group.is_main)
        if beginning.start is not None:
            found = load_checkpoint(beginning.start, training)
            self.progress, seconds = found.progress, found.seconds
            self.verified = found.verified
            self._fit_position(found)
            tell_what_changes(found, training)
        self.saver = CheckpointManager(training, self.run, seconds)
        self.display = ProgressDisplay(training, self.progress)
        self.meter = StepStats(self.group.device, self.progress.meter)
        self.board = self._board()
        self.skipped, self.rate, self.pace = self.meter.skipped, 0.0, Throughput()
        self.compiles = training.compiled  # in the step that comes next

    def _board(self) -> TensorBoardLogger | None:
        wanted = self.settings.tensorboard and self.group.is_main
        return TensorBoardLogger(self.run, self.progress.steps) if wanted else None

    def _write(self, kind: str, **values: Any) -> None:
        """Write a line of metrics, here and for TensorBoard."""
        self.metrics.write(kind, step=self.progress.steps, **values)
        if self.board is not None:
            self.board.numbers(kind, self.progress.steps, values)

    def _fit_position(self, found: LoadedCheckpoint) -> None:
        """Go on at the same place of the epoch, also where steps have another size now.

        A few images may be seen twice, but none is left out.
        """
        if found.batch_size != self.settings.batch_size:
            seen = self.progress.step_in_epoch * found.batch_size
            self.progress.step_in_epoch = seen // self.settings.batch_size
        self.progress.step_in_epoch = min(self.progress.step_in_epoch, self.order.steps)

    def begin(self) -> None:
        """Try what can fail later, and write down what this run is, or that it goes on."""
        self.group.advance(START, self.progress.steps)
        check(self.training, self.run)
        if self.group.is_main:
            self._introduce()
        if self.beginning.start != self.run.last:
            # That it can be written is better known now; and who went back to an earlier checkpoint
            # should not find a later one after a crash.
            self._save()
        self.training.model.train()

    def _introduce(self) -> None:
        anew, changes = self.beginning.start is None, self.beginning.changes
        if anew or changes:
            write_text(self.run.recipe, resolved_yaml(self.training.recipe))
        if anew:
            write_json(self.run.environment, self.training.environment())
        else:
            progress = self.progress
            self.metrics.keep_until(progress.steps, validated=progress.step_in_epoch == 0)
            steps, verified = progress.steps, self.verified
            record_resume(self.run, self.training, steps, changes, verified=verified)

    def run_to_the_end(self) -> signal.Signals | None:
        """Train; give the signal that ended it, or None at the end."""
        for epoch in range(self.progress.epoch, self.settings.epochs):
            self.display.epoch(epoch)
            whole = Throughput()
            number = self._steps(whole) or self._end_epoch(whole)
            if number:
                self._save()
                return self._leave(signal.Signals(number))
        return self._leave(None)

    def _leave(self, ended_by: signal.Signals | None) -> signal.Signals | None:
        ending = "finished" if ended_by is None else "interrupted"
        self._write(END, ending=ending, seconds=self.saver.seconds)
        return ended_by

    def _steps(self, whole: Throughput) -> int:
        """Take the steps of an epoch that are left; give the number of the signal that came."""
        progress, settings = self.progress, self.settings
        self.pace = Throughput()
        for passes in self._batches():
            done = progress.step_in_epoch / self.order.steps
            self.rate = learning_rate(
                settings.schedule, settings.lr, settings.epochs, progress.epoch, done
            )
            self._take_step(passes)
            progress.step_in_epoch += 1
            progress.steps += 1
            self.pace.images += settings.batch_size
            self.pace.taken += 1
            self.display.step()
            if progress.steps % settings.log_every == 0 or self._epoch_is_over:
                self._log()
                whole.add(self.pace)
                self.pace = Throughput()
            wanted = self.group.all_reduce_max(
                self.interrupt.number or (SAVE if self.saver.due(progress.steps) else CONTINUE)
            )
            if wanted > SAVE:
                return wanted
            if wanted == SAVE:
                self._save()
        return 0

    def _take_step(self, passes: Sequence[Batch]) -> None:
        self.group.advance(COMPILATION if self.compiles else TRAINING, self.progress.steps)
        self.compiles = False
        try:
            take_step(self.training, passes, self.rate, self.progress.steps, self.meter)
            return
        except Exception as error:
            if not is_out_of_memory(error):
                raise
        # Only here, after the handler, has the error's traceback let go of the tensors, and the
        # advice takes some memory itself.
        raise self._short_of_memory()

    @property
    def _epoch_is_over(self) -> bool:
        return self.progress.step_in_epoch == self.order.steps

    def _batches(self) -> Iterator[Sequence[Batch]]:
        """Read an epoch's batches, each as its passes, and time the waiting for them."""
        progress = self.progress
        read = self.training.batches.epoch(progress.epoch, progress.step_in_epoch)
        batches = on_device(read, self.group.device)
        while True:
            start = time.perf_counter()
            self.group.advance(READING, progress.steps)
            passes = list(islice(batches, self.settings.accumulate))
            if not passes:
                return
            self.pace.waiting += time.perf_counter() - start
            yield passes

    def _log(self) -> None:
        """Write a line of metrics, which waits for the device."""
        pace = self.pace
        pace.loss, pace.weight, norm, skipped, in_a_row = self.meter.read()
        self.meter.start_again()
        self._heed(int(skipped), int(in_a_row))
        pace.taken -= int(skipped) - self.skipped
        self.skipped = int(skipped)
        pace.stop()
        self.display.measured(pace, self.rate)
        on_gpu = self.group.device.type == "cuda"
        memory = {"memory": torch.cuda.max_memory_allocated()} if on_gpu else {}
        self._write(
            "train",
            epoch=self.progress.epoch + self.progress.step_in_epoch / self.order.steps,
            loss=pace.mean_loss,
            lr=self.rate,
            grad_norm=norm if math.isfinite(norm) else None,
            skipped=int(skipped),
            images_per_second=pace.images_per_second,
            waiting=pace.data_time_share,
            **memory,
        )

    def _heed(self, skipped: int, in_a_row: int) -> None:
        """Say that steps were skipped; stop when there is no end of it.

        Raises:
            DrnError: Too many in a row.
        """
        step, lr = self.progress.steps, self.settings.lr
        if in_a_row >= self.settings.max_skipped:
            names = self._images()
            raise DrnError(
                f"the loss is not finite: {in_a_row} steps in a row were skipped, up to step "
                f"{step}, the last with {few_of(names, NAMED)}",
                f"a lower train.lr than {lr:g}, a warm-up, or train.clip_grad_norm may help; the "
                f"last checkpoint is from before: {self.run.last}",
            )
        if skipped > self.skipped and self.group.is_main:
            log.warning(
                "the loss was not finite: %d of the last steps skipped, %d in all, up to step %d",
                skipped - self.skipped,
                skipped,
                step,
            )

    def _images(self) -> list[str]:
        """Name the images of the step that was taken last."""
        material, progress = self.training.material, self.progress
        batch = self.order.batch(progress.epoch, progress.step_in_epoch - 1)
        images: list[Path] = [material.train[index].image for index in batch]
        return [os.path.relpath(image, material.root) for image in images]

    def _short_of_memory(self) -> DrnError:
        from drn_cli.training.memory import advice

        device = self.group.device
        on_gpu = device.type == "cuda"
        total = torch.cuda.get_device_properties(device).total_memory if on_gpu else None
        return advice(
            self.training.recipe,
            self.group.world,
            precision=self.training.precision,
            on_gpu=on_gpu,
            total_memory=total,
        )

    def _end_epoch(self, whole: Throughput) -> int:
        """Validate if it is time, and write the checkpoint; give a signal that came meanwhile."""
        progress, epoch = self.progress, self.progress.epoch + 1
        validation, best = None, False
        if epoch % self.settings.eval_every == 0 or epoch == self.settings.epochs:
            if self.saver.saved_step != progress.steps:
                self._save()  # a validation takes long, and may fail
            start = time.perf_counter()
            try:
                validation = validate(
                    self.training,
                    self.training.material.val,
                    stop=lambda: bool(self.interrupt.number),
                    progress=self.display.validating,
                )
            except NonFiniteScoresError as error:
                raise DrnError(
                    f"validation after step {progress.steps}: {error.message}",
                    f"a lower train.lr than {self.settings.lr:g}, a warm-up or "
                    f"train.precision=fp32 may help; the checkpoint of this step: {self.run.last}",
                ) from None
            if validation is None:
                return self.group.all_reduce_max(self.interrupt.number)
            best = self._record(validation, epoch, time.perf_counter() - start)
        self.display.epoch_done(epoch, whole, self.rate, validation, best)
        progress.epoch, progress.step_in_epoch = epoch, 0
        self._save()
        return 0

    def _record(self, validation: ValidationResult, epoch: int, seconds: float) -> bool:
        """Write down a validation; keep the network if it is the best so far, and tell so."""
        progress, scores = self.progress, validation.scores
        told = {name: value for name, value in scores.items() if name not in LONG}
        self._write("val", epoch=epoch, **told, seconds=seconds)
        if self.board is not None:
            self.board.images(self.training, progress.steps)
        best = progress.best is None or validation.value > progress.best
        if best:
            progress.best = validation.value
            if self.group.is_main:
                extra = {"score": f"{validation.value:.6f}", "epoch": str(epoch)}
                save_weights(self.run.best, self.training.judged, self.training.metadata() | extra)
                write_json(self.run.scores, {"step": progress.steps, "epoch": epoch, **scores})
        return best

    def _save(self) -> None:
        self.progress.meter = self.meter.read()
        self.group.advance(CHECKPOINT, self.progress.steps)
        self.metrics.sync()
        self.saver.save(self.progress)

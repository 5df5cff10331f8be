"""The training loop: steps, validations and checkpoints."""

import logging
import math
import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
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
from drn_cli.training.resuming import RunPlan, log_world_size_change, record_resume
from drn_cli.training.sanity import preflight
from drn_cli.training.saving import CheckpointManager, clear_leftovers
from drn_cli.training.schedule import learning_rate
from drn_cli.training.setup import TrainState
from drn_cli.training.signals import StopRequest, stop_on_signals
from drn_cli.training.step import StepStats, take_step
from drn_cli.training.tasks import ValidationResult
from drn_cli.training.tensorboard import TensorBoardLogger
from drn_cli.training.validation import validate

log = logging.getLogger(__name__)

MAX_NAMED = 16  # images of a batch in an error message

# Scores that are too long for metrics.jsonl; best.json has them.
LONG_SCORES = frozenset(
    {"confusion_matrix", "predicted_void", "absent_classes", "images_worst_first"}
)

# What ranks exchange after a step: one of these, or the number of a signal (SIGHUP is 1).
CONTINUE, SAVE = -1, 0


def train(
    training: TrainState, plan: RunPlan, on_start: Callable[[], object] = lambda: None
) -> signal.Signals | None:
    """Train from the start or from a checkpoint, until the last epoch or a signal.

    SIGINT, SIGTERM, SIGUSR1 and SIGHUP end the current step, write a checkpoint and return.

    Args:
        training: The state of the run.
        plan: The run, and the checkpoint to resume from.
        on_start: Called by rank 0 once the run directory is created and locked.

    Returns:
        The signal that ended training; None if it finished.

    Raises:
        DrnError: An image cannot be used, the loss stays non-finite, memory runs out, a file
            cannot be written, or the checkpoint does not fit.
    """
    with ExitStack() as stack:
        # Before anything is written, lock the run directory and handle signals.
        if training.group.is_main:
            stack.enter_context(plan.run.claimed())
            clear_leftovers(plan.run)
            on_start()
        stack.enter_context(wrap_worker_errors())
        stop = stack.enter_context(stop_on_signals(verbose=training.group.is_main))
        trainer = Trainer(training, plan, stop)
        with trainer.display:
            trainer.prepare()
            return trainer.run_epochs()


class Trainer:
    """Runs the training loop: steps, validations and checkpoints."""

    def __init__(self, training: TrainState, plan: RunPlan, stop: StopRequest) -> None:
        self.training, self.plan, self.stop = training, plan, stop
        self.run, self.settings = plan.run, training.recipe.train
        self.group, self.order = training.group, training.order
        self.progress, seconds, self.verified = TrainProgress(), 0.0, True
        self.metrics = MetricsLogger(self.run.metrics, enabled=self.group.is_main)
        if plan.start is not None:
            loaded = load_checkpoint(plan.start, training)
            self.progress, seconds = loaded.progress, loaded.seconds
            self.verified = loaded.verified
            self._adjust_position(loaded)
            log_world_size_change(loaded, training)
        self.saver = CheckpointManager(training, self.run, seconds)
        self.display = ProgressDisplay(training, self.progress)
        self.stats = StepStats(self.group.device, self.progress.meter)
        self.tensorboard: TensorBoardLogger | None = None
        if self.settings.tensorboard and self.group.is_main:
            self.tensorboard = TensorBoardLogger(self.run, self.progress.steps)
        self.skipped, self.lr, self.throughput = self.stats.skipped, 0.0, Throughput()
        self.compiles = training.compiled  # in the next step

    def _write(self, kind: str, **values: Any) -> None:
        """Log values to metrics.jsonl and TensorBoard."""
        self.metrics.write(kind, step=self.progress.steps, **values)
        if self.tensorboard is not None:
            self.tensorboard.numbers(kind, self.progress.steps, values)

    def _adjust_position(self, loaded: LoadedCheckpoint) -> None:
        """Convert the position in the epoch to the batch size of this run, rounded down.

        A few images may be repeated, but none is left out.
        """
        if loaded.batch_size != self.settings.batch_size:
            seen = self.progress.step_in_epoch * loaded.batch_size
            self.progress.step_in_epoch = seen // self.settings.batch_size
        self.progress.step_in_epoch = min(self.progress.step_in_epoch, self.order.steps)

    def prepare(self) -> None:
        """Run the pre-flight checks, write the run metadata and the first checkpoint."""
        self.group.advance(START, self.progress.steps)
        preflight(self.training, self.run)
        if self.group.is_main:
            new, changes = self.plan.start is None, self.plan.changes
            if new or changes:
                write_text(self.run.recipe, resolved_yaml(self.training.recipe))
            if new:
                write_json(self.run.environment, self.training.environment())
            else:
                steps, validated = self.progress.steps, self.progress.step_in_epoch == 0
                self.metrics.keep_until(steps, validated=validated)
                record_resume(self.run, self.training, steps, changes, verified=self.verified)
        if self.plan.start != self.run.last:
            # Fail now if checkpoints cannot be written. Also, a run that is resumed from an earlier
            # checkpoint must not find a later one after a crash.
            self._save()
        self.training.model.train()

    def run_epochs(self) -> signal.Signals | None:
        """Train; return the signal that ended it, None at the end."""
        for epoch in range(self.progress.epoch, self.settings.epochs):
            self.display.epoch(epoch)
            epoch_throughput = Throughput()
            signal_number = self._steps(epoch_throughput) or self._end_epoch(epoch_throughput)
            if signal_number:
                self._save()
                return self._log_end(signal.Signals(signal_number))
        return self._log_end(None)

    def _log_end(self, ended_by: signal.Signals | None) -> signal.Signals | None:
        ending = "finished" if ended_by is None else "interrupted"
        self._write(END, ending=ending, seconds=self.saver.seconds)
        return ended_by

    def _steps(self, epoch_throughput: Throughput) -> int:
        """Take the remaining steps of an epoch; return the number of a received signal, or 0."""
        progress, settings = self.progress, self.settings
        self.throughput = Throughput()
        for micro_batches in self._batches():
            done = progress.step_in_epoch / self.order.steps
            self.lr = learning_rate(
                settings.schedule, settings.lr, settings.epochs, progress.epoch, done
            )
            self._take_step(micro_batches)
            progress.step_in_epoch += 1
            progress.steps += 1
            self.throughput.images += settings.batch_size
            self.throughput.taken += 1
            self.display.step()
            epoch_is_over = progress.step_in_epoch == self.order.steps
            if progress.steps % settings.log_every == 0 or epoch_is_over:
                self._log()
                epoch_throughput.add(self.throughput)
                self.throughput = Throughput()
            request = self.group.all_reduce_max(
                self.stop.number or (SAVE if self.saver.due(progress.steps) else CONTINUE)
            )
            if request > SAVE:
                return request
            if request == SAVE:
                self._save()
        return 0

    def _take_step(self, micro_batches: Sequence[Batch]) -> None:
        self.group.advance(COMPILATION if self.compiles else TRAINING, self.progress.steps)
        self.compiles = False
        try:
            take_step(self.training, micro_batches, self.lr, self.progress.steps, self.stats)
            return
        except Exception as error:
            if not is_out_of_memory(error):
                raise
        # Outside of the handler, the traceback no longer holds the tensors.
        raise self._out_of_memory()

    def _batches(self) -> Iterator[Sequence[Batch]]:
        """Yield an epoch's batches as micro-batches, and measure the time spent waiting."""
        progress = self.progress
        read = self.training.batches.epoch(progress.epoch, progress.step_in_epoch)
        batches = on_device(read, self.group.device)
        while True:
            start = time.perf_counter()
            self.group.advance(READING, progress.steps)
            micro_batches = list(islice(batches, self.settings.accumulate))
            if not micro_batches:
                return
            self.throughput.waiting += time.perf_counter() - start
            yield micro_batches

    def _log(self) -> None:
        """Log the metrics since the last call; synchronizes with the device."""
        throughput = self.throughput
        throughput.loss, throughput.weight, norm, skipped, consecutive = self.stats.read()
        self.stats.reset()
        self._check_skipped(int(skipped), int(consecutive))
        throughput.taken -= int(skipped) - self.skipped
        self.skipped = int(skipped)
        throughput.stop()
        self.display.measured(throughput, self.lr)
        on_gpu = self.group.device.type == "cuda"
        memory = {"memory": torch.cuda.max_memory_allocated()} if on_gpu else {}
        self._write(
            "train",
            epoch=self.progress.epoch + self.progress.step_in_epoch / self.order.steps,
            loss=throughput.mean_loss,
            lr=self.lr,
            grad_norm=norm if math.isfinite(norm) else None,
            skipped=int(skipped),
            images_per_second=throughput.images_per_second,
            waiting=throughput.data_time_share,
            **memory,
        )

    def _check_skipped(self, skipped: int, consecutive: int) -> None:
        """Warn about skipped steps.

        Raises:
            DrnError: train.max_skipped consecutive steps were skipped.
        """
        step, lr = self.progress.steps, self.settings.lr
        if consecutive >= self.settings.max_skipped:
            data, progress = self.training.data, self.progress
            batch = self.order.batch(progress.epoch, progress.step_in_epoch - 1)
            images: list[Path] = [data.train[index].image for index in batch]
            names = few_of([os.path.relpath(image, data.root) for image in images], MAX_NAMED)
            raise DrnError(
                f"train: non-finite loss in {consecutive} consecutive steps up to step {step}; "
                f"images of the last step: {names}",
                f"try a train.lr below {lr:g}, a warm-up or train.clip_grad_norm; last checkpoint: "
                f"{self.run.last}",
            )
        if skipped > self.skipped and self.group.is_main:
            log.warning(
                "non-finite loss: %d steps skipped since the last log line, %d in total, "
                "up to step %d",
                skipped - self.skipped,
                skipped,
                step,
            )

    def _out_of_memory(self) -> DrnError:
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

    def _end_epoch(self, epoch_throughput: Throughput) -> int:
        """Validate if due, and write a checkpoint; return the number of a received signal, or 0."""
        progress, epoch = self.progress, self.progress.epoch + 1
        validation, best = None, False
        if epoch % self.settings.eval_every == 0 or epoch == self.settings.epochs:
            if self.saver.saved_step != progress.steps:
                self._save()  # validation takes long, and may fail
            start = time.perf_counter()
            try:
                validation = validate(
                    self.training,
                    self.training.data.val,
                    stop=lambda: bool(self.stop.number),
                    progress=self.display.validating,
                )
            except NonFiniteScoresError as error:
                raise DrnError(
                    f"validation after step {progress.steps}: {error.message}",
                    f"try a train.lr below {self.settings.lr:g}, a warm-up or "
                    f"train.precision=fp32; checkpoint of this step: {self.run.last}",
                ) from None
            if validation is None:
                return self.group.all_reduce_max(self.stop.number)
            best = self._record(validation, epoch, time.perf_counter() - start)
        self.display.epoch_done(epoch, epoch_throughput, self.lr, validation, best)
        progress.epoch, progress.step_in_epoch = epoch, 0
        self._save()
        return 0

    def _record(self, validation: ValidationResult, epoch: int, seconds: float) -> bool:
        """Log a validation and save the weights if they are the best; return whether they are."""
        progress, scores = self.progress, validation.scores
        logged = {name: value for name, value in scores.items() if name not in LONG_SCORES}
        self._write("val", epoch=epoch, **logged, seconds=seconds)
        if self.tensorboard is not None:
            self.tensorboard.images(self.training, progress.steps)
        best = progress.best is None or validation.value > progress.best
        if best:
            progress.best = validation.value
            if self.group.is_main:
                extra = {"score": f"{validation.value:.6f}", "epoch": str(epoch)}
                save_weights(
                    self.run.best, self.training.eval_model, self.training.metadata() | extra
                )
                write_json(self.run.scores, {"step": progress.steps, "epoch": epoch, **scores})
        return best

    def _save(self) -> None:
        self.progress.meter = self.stats.read()
        self.group.advance(CHECKPOINT, self.progress.steps)
        self.metrics.sync()
        self.saver.save(self.progress)

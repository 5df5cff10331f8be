"""The training loop: steps, validations and checkpoints, from the first to the last."""

import logging
import math
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional as F
from tqdm import tqdm

from drn_cli.data.batches import Batch, normalise, on_device
from drn_cli.data.classes import IGNORED
from drn_cli.data.readers import reading_failures
from drn_cli.errors import DrnError
from drn_cli.evaluation.confusion import Scores
from drn_cli.evaluation.segmentation import evaluate
from drn_cli.files import write_json, write_text
from drn_cli.inference.predictor import Predictor, evaluating
from drn_cli.networks.checkpoints import save_weights
from drn_cli.recipe.loading import resolved_yaml
from drn_cli.runs import Run
from drn_cli.training.checkpoint import Progress, load_checkpoint, save_checkpoint
from drn_cli.training.metrics import MetricsLog
from drn_cli.training.schedule import learning_rate
from drn_cli.training.setup import Training, environment

log = logging.getLogger(__name__)

BAR = "{desc} {percentage:3.0f}%|{bar}| {n}/{total} {elapsed}<{remaining}{postfix}"
LOG_EVERY = 10  # steps between two lines of metrics

Ending = Literal["finished", "interrupted"]


@dataclass(slots=True)
class Meter:
    """The loss and the speed since they were last read.

    Sums stay on the device until then: reading a number waits for the GPU.
    """

    totals: Tensor  # sum of the loss over pixels, and number of pixels
    images: int = 0
    since: float = field(default_factory=time.perf_counter)

    def add(self, totals: Tensor, images: int) -> None:
        self.totals += totals
        self.images += images

    def read(self) -> tuple[float, float]:
        """Give the mean loss and the pictures a second, and start again."""
        loss, pixels = self.totals.tolist()
        now = time.perf_counter()
        speed = self.images / (now - self.since)
        self.totals.zero_()
        self.images, self.since = 0, now
        return loss / max(1, pixels), speed


def train(training: Training, run: Run, *, resume: bool = False) -> Ending:
    """Train from the start, or from a run's last checkpoint, until the end or an interrupt.

    An interrupt (SIGINT or SIGTERM) ends the current step, writes the checkpoint and returns.

    Raises:
        DrnError: A picture cannot be used, the loss is not finite, a file cannot be written, or
            the checkpoint does not fit.
    """
    group, settings = training.group, training.recipe.train
    progress = Progress()
    metrics = MetricsLog(run.metrics, first=group.first)
    if resume:
        progress = load_checkpoint(run.last, training.model, training.optimiser)
        metrics.keep_until(progress.steps)
    elif group.first:
        write_text(run.recipe, resolved_yaml(training.recipe))
        write_json(run.environment, environment(training))
    training.model.train()
    with (
        reading_failures(),
        interruptible(aloud=group.first) as interrupt,
        tqdm(
            total=settings.epochs * training.order.steps,
            initial=progress.steps,
            bar_format=BAR,
            disable=None if group.first else True,
        ) as bar,
    ):
        for epoch in range(progress.epoch, settings.epochs):
            bar.set_description(f"epoch {epoch + 1}/{settings.epochs}")
            for totals in _steps(training, progress, metrics, bar):
                if group.any(interrupt.is_set):
                    progress.loss, progress.pixels = totals.tolist()
                    _check(progress.loss, training, progress)
                    _save(training, run, progress)
                    return "interrupted"
            progress.epoch, progress.step_in_epoch = epoch + 1, 0
            if progress.epoch % settings.eval_every == 0 or progress.epoch == settings.epochs:
                scores = validate(training)
                _record(training, run, progress, metrics, scores)
            _save(training, run, progress)
    return "finished"


def _steps(
    training: Training, progress: Progress, metrics: MetricsLog, bar: "tqdm[Any]"
) -> Iterator[Tensor]:
    """Take the steps of an epoch that are left; after each, yield the meter's totals."""
    settings, order = training.recipe.train, training.order
    meter = Meter(torch.tensor([progress.loss, progress.pixels], device=training.group.device))
    progress.loss, progress.pixels = 0.0, 0.0
    batches = training.batches.epoch(progress.epoch, progress.step_in_epoch)
    for batch in on_device(batches, training.group.device):
        done = progress.step_in_epoch / order.steps
        rate = learning_rate(settings.schedule, settings.lr, settings.epochs, progress.epoch, done)
        meter.add(take_step(training, batch, rate), settings.batch_size)
        progress.step_in_epoch += 1
        progress.steps += 1
        bar.update()
        if progress.steps % LOG_EVERY == 0 or progress.step_in_epoch == order.steps:
            loss, speed = meter.read()
            _check(loss, training, progress)
            bar.set_postfix_str(f"loss {loss:.3f}, lr {rate:.2g}, {speed:.1f} pictures/s")
            metrics.write(
                "train",
                step=progress.steps,
                epoch=progress.epoch + progress.step_in_epoch / order.steps,
                loss=loss,
                lr=rate,
                images_per_second=speed,
            )
        yield meter.totals


def _check(loss: float, training: Training, progress: Progress) -> None:
    if not math.isfinite(loss):
        raise DrnError(
            f"the loss is {loss} at step {progress.steps}",
            f"a lower train.lr than {training.recipe.train.lr:g}, or a warm-up, may help",
        )


def take_step(training: Training, batch: Batch, rate: float) -> Tensor:
    """Learn from one batch, which is on the device.

    The loss is the mean over the valid pixels of all processes' pictures, so that several
    processes take the same step as one with the whole batch.

    Returns:
        The sum of the loss over all valid pixels, and their number, on the device.
    """
    group = training.group
    labels = batch.labels.long()
    for parameters in training.optimiser.param_groups:
        parameters["lr"] = rate
    with torch.autocast(group.device.type, torch.bfloat16, enabled=training.bf16):
        logits = training.runner(normalise(batch.images, training.material.statistics))
    loss = F.cross_entropy(logits.float(), labels, ignore_index=IGNORED, reduction="sum")
    totals = group.sum(torch.stack([loss.detach(), (labels != IGNORED).sum()]))
    # DistributedDataParallel divides the gradients by the number of processes.
    (loss * (group.world / totals[1].clamp(min=1))).backward()
    training.optimiser.step()
    training.optimiser.zero_grad(set_to_none=True)
    return totals


def validate(training: Training) -> Scores:
    """Score the network on the whole pictures of the validation list."""
    material, group = training.material, training.group
    predictor = Predictor(
        network=training.model,
        statistics=material.statistics,
        class_set=material.class_set,
        device=group.device,
        view=training.recipe.eval,
        bf16=training.bf16,
    )
    mine = len(group.share(material.val))
    group.align(training.model.buffers())  # without sync_bn each process has statistics of its own
    with (
        evaluating(training.model),
        tqdm(
            total=mine, desc="validating", leave=False, disable=None if group.first else True
        ) as bar,
    ):
        return evaluate(predictor, material.val, group, step=bar.update)


def _record(
    training: Training, run: Run, progress: Progress, metrics: MetricsLog, scores: Scores
) -> None:
    """Write down a validation; keep the network if it is the best so far."""
    best = progress.best is None or scores.miou > progress.best
    metrics.write(
        "val",
        step=progress.steps,
        epoch=progress.epoch,
        **{
            name: value
            for name, value in scores.to_json(training.material.class_set).items()
            if name != "confusion_matrix"
        },
    )
    if best:
        progress.best = scores.miou
    if not training.group.first:
        return
    log.info(
        "epoch %d/%d: validation mIoU %.4f, pixel accuracy %.4f%s",
        progress.epoch,
        training.recipe.train.epochs,
        scores.miou,
        scores.pixel_accuracy,
        " (best so far)" if best else "",
    )
    if best:
        extra = {"miou": f"{scores.miou:.6f}", "epoch": str(progress.epoch)}
        save_weights(run.best, training.model, training.metadata() | extra)


def _save(training: Training, run: Run, progress: Progress) -> None:
    if training.group.first:
        save_checkpoint(run.last, training.model, training.optimiser, progress, training.metadata())
    training.group.wait()  # nobody leaves before the file is whole


@dataclass(slots=True)
class Interrupt:
    """Whether somebody asked this process to stop."""

    is_set: bool = False


@contextmanager
def interruptible(*, aloud: bool) -> Iterator[Interrupt]:
    """Turn SIGINT and SIGTERM into a flag; a second SIGINT interrupts at once, as usual."""
    interrupt = Interrupt()

    def handle(number: int, _: object) -> None:
        interrupt.is_set = True
        signal.signal(signal.SIGINT, signal.default_int_handler)
        if aloud:
            log.info("%s: stopping after this step", signal.Signals(number).name)

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield interrupt
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)

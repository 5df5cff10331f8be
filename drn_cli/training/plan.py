"""Dry run: what a training run will do and need (`drn train --dry-run`)."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from drn_cli.device import Precision, resolve_compile, resolve_precision
from drn_cli.formatting import size
from drn_cli.recipe.schema import Recipe, Train
from drn_cli.training.memory import GIB, MemoryEstimate, advice, estimate, micro_batch
from drn_cli.training.missing import (
    check_data,
    missing_disk_space,
    missing_options,
    missing_weights,
)
from drn_cli.training.schedule import learning_rate

MAX_RATES = 4  # changes of the learning rate in a table row


@dataclass(frozen=True, slots=True)
class DeviceInfo:
    """The device of the training processes."""

    kind: Literal["cuda", "cpu"]  # device type of torch
    name: str  # product name of the GPU, or CPU
    count: int = 0
    memory: int | None = None  # memory of one GPU in bytes; None on CPUs


def this_device() -> DeviceInfo:
    """Return the device of this machine."""
    if not torch.cuda.is_available():
        return DeviceInfo("cpu", "CPU")
    properties = torch.cuda.get_device_properties(0)
    return DeviceInfo("cuda", properties.name, torch.cuda.device_count(), properties.total_memory)


@dataclass(frozen=True, slots=True)
class StepRate:
    """Learning rate of the first step after a number of epochs."""

    epoch: float
    rate: float


@dataclass(frozen=True, slots=True, kw_only=True)
class DryRun:
    """What a run will do and need; values that depend on the data are None if they are missing."""

    nodes: int
    processes: int  # number of processes on all nodes
    device: DeviceInfo  # device of each process
    precision: Precision  # resolved `train.precision`
    compiled: bool | None  # whether torch.compile is used
    recipe: Recipe
    micro_batch: int  # crops per micro-batch and process
    train_images: int | None
    val_images: int | None
    steps_per_epoch: int | None  # number of steps in an epoch
    dropped: int | None  # images that each epoch drops, since they do not fill a batch
    rates: tuple[StepRate, ...]  # learning rates at the start, at each change, and at the end
    validations: int  # number of validations in the whole run
    memory: MemoryEstimate  # memory of a step in each process
    checkpoint: int  # size of a checkpoint in bytes
    disk_space: int  # bytes that the run directory needs at most
    folder: Path
    missing: tuple[str, ...]  # reasons why the run cannot start or finish, one line each
    warnings: tuple[str, ...]  # warnings about the data, one line each

    def rows(self) -> list[tuple[str, str]]:
        """Return label and text of each table row, without `missing` and `warnings`."""
        train, steps = self.recipe.train, self.steps_per_epoch
        epochs, nodes = _count(train.epochs, "epoch"), _count(self.nodes, "node")
        kept = f", the last {train.keep_last} kept" if train.keep_last > 1 else ""
        compiled = {True: ", compiled", False: ", not compiled", None: ""}[self.compiled]
        batch = (
            f"{_count(train.batch_size, 'image')} = {_count(self.processes, 'process')} x "
            f"{_count(train.accumulate, 'micro-batch')} x {_count(self.micro_batch, 'crop')} of "
            f"{self.recipe.augment.crop}"
        )
        epoch, length, images = "unknown: no data", epochs, ""
        if steps is not None:
            dropped = f"{self.dropped} of {_count(self.train_images or 0, 'image')} dropped"
            epoch = f"{_count(steps, 'step')}; {dropped}"
            length = f"{epochs}, {_count(train.epochs * steps, 'step')}"
            images = f" of {_count(self.val_images or 0, 'image')}"
        parts = {
            name.replace("optimiser", "optimizer"): value
            for name, value in self.memory.to_json().items()
            if value
        }
        total = parts.pop("total")
        memory = ", ".join(f"{name} {value / GIB:.2f}" for name, value in parts.items())
        available = "" if self.device.memory is None else f" of {self.device.memory / GIB:.1f}"
        per_process = f"about {total / GIB:.1f}{available} GiB per process (estimate)"
        return [
            ("run directory", str(self.folder)),
            ("processes", f"{self.processes} on {nodes}; {self.device.name}"),
            ("precision", f"{self.precision}{compiled}"),
            ("step", batch),
            ("epoch", epoch),
            ("training", length),
            ("learning rate", self._rates()),
            ("validation", f"{_count(self.validations, 'validation')}{images}"),
            (
                "checkpoint",
                f"{size(self.checkpoint)}{kept}; {size(self.disk_space)} on disk at most",
            ),
            ("memory", f"{per_process}: {memory}"),
        ]

    def to_json(self) -> dict[str, Any]:
        """Return the plan for JSON; sizes in bytes."""
        return {
            "run": str(self.folder),
            "nodes": self.nodes,
            "processes": self.processes,
            "device": asdict(self.device),
            "precision": self.precision,
            "compiled": self.compiled,
            "recipe": self.recipe.model_dump(mode="json"),
            "images": {"train": self.train_images, "val": self.val_images},
            "micro_batch": self.micro_batch,
            "steps_per_epoch": self.steps_per_epoch,
            "dropped": self.dropped,
            "lr": [{"epoch": rate.epoch, "lr": rate.rate} for rate in self.rates],
            "validations": self.validations,
            "memory": self.memory.to_json(),
            "checkpoint_bytes": self.checkpoint,
            "disk_bytes": self.disk_space,
            "missing": list(self.missing),
            "warnings": list(self.warnings),
        }

    def _rates(self) -> str:
        first, *changes = self.rates
        more = ""
        if len(changes) > MAX_RATES + 1:
            more = f"; {len(changes) - MAX_RATES - 1} more changes"
            changes = [*changes[:MAX_RATES], changes[-1]]
        texts = [f"{change.rate:.3g} after {_count(change.epoch, 'epoch')}" for change in changes]
        if changes:
            texts[-1] = f"{changes[-1].rate:.3g} at the end"
        kind = self.recipe.train.schedule.kind
        return f"{'; '.join([f'{first.rate:.3g}', *texts])}{more} ({kind})"


def make_plan(
    recipe: Recipe,
    *,
    processes: int,
    nodes: int,
    folder: Path,
    device: DeviceInfo | None = None,
    precision: Precision | None = None,
) -> DryRun:
    """Plan a run and check what is missing; writes, downloads and starts nothing.

    Args:
        recipe: The settings.
        processes: Number of processes on all nodes.
        nodes: Number of nodes.
        folder: The run directory, which need not exist.
        device: Device of the processes; that of this machine by default.
        precision: Resolved precision; that of the device by default.
    """
    train = recipe.train
    device = device or this_device()
    torch_device = torch.device(device.kind)
    precision = precision or resolve_precision(train.precision, torch_device)
    data, missing, warnings = check_data(recipe, processes)
    steps = None if data is None else len(data.train) // train.batch_size
    memory = estimate(recipe, processes, precision=precision, on_gpu=device.kind == "cuda")
    checkpoint = memory.weights + memory.optimiser + memory.average
    # All checkpoints that are kept, the next one while it is written, and the best weights.
    disk_space = checkpoint * (train.keep_last + 1) + memory.weights
    missing += [
        *missing_weights(recipe),
        *missing_options(recipe),
        *_missing_devices(recipe, processes, processes // nodes, device, precision, memory),
        *missing_disk_space(folder, disk_space),
    ]
    return DryRun(
        nodes=nodes,
        processes=processes,
        device=device,
        precision=precision,
        compiled=None
        if steps is None
        else resolve_compile(
            train.compile,
            torch_device,
            train.epochs * steps,
            checkpointing=train.checkpoint_activations,
        ),
        recipe=recipe,
        micro_batch=micro_batch(recipe, processes),
        train_images=None if data is None else len(data.train),
        val_images=None if data is None else len(data.val),
        steps_per_epoch=steps,
        dropped=None if data is None else len(data.train) % train.batch_size,
        rates=tuple(_rates(train, steps or 1)),
        validations=-(-train.epochs // train.eval_every),
        memory=memory,
        checkpoint=checkpoint,
        disk_space=disk_space,
        folder=folder,
        missing=tuple(missing),
        warnings=tuple(warnings),
    )


def _rates(train: Train, steps: int) -> list[StepRate]:
    """Return the rates of the first step, after the warm-up, at each drop, and of the last step."""
    schedule, epochs = train.schedule, {0.0, train.epochs - 1 / steps}
    if schedule.warmup < train.epochs:
        epochs.add(float(schedule.warmup))
    if schedule.kind == "step":
        epochs |= {float(epoch) for epoch in range(schedule.step, train.epochs, schedule.step)}
    return [
        StepRate(at, learning_rate(schedule, train.lr, train.epochs, int(at), at - int(at)))
        for at in sorted(epochs)
    ]


def _missing_devices(
    recipe: Recipe,
    world: int,
    gpus: int,
    device: DeviceInfo,
    precision: Precision,
    needed: MemoryEstimate,
) -> Iterator[str]:
    if device.kind == "cuda" and device.count < gpus:
        yield f"--gpus {gpus}: this machine has {device.count} (use --gpus {device.count})"
    memory = device.memory
    if memory is not None and needed.total > memory:
        error = advice(
            recipe, world, precision=precision, on_gpu=True, total_memory=memory, what="memory"
        )
        yield str(error)


def _count(number: float, thing: str) -> str:
    if number != 1:
        thing += "es" if thing.endswith(("s", "tch")) else "s"
    return f"{number:,} {thing}" if isinstance(number, int) else f"{number:g} {thing}"

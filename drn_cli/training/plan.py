"""What a training run will do and need, before anything is started: `drn train --dry-run`."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from drn_cli.device import Precision, resolve_compile, resolve_precision
from drn_cli.formatting import size
from drn_cli.recipe.schema import Recipe, Train
from drn_cli.training.memory import GIB, MemoryEstimate, advice, estimate, images_a_pass
from drn_cli.training.missing import (
    find_material,
    missing_options,
    missing_room,
    missing_weights,
)
from drn_cli.training.schedule import learning_rate

FEW = 4  # changes of the rate that are told


@dataclass(frozen=True, slots=True)
class DeviceInfo:
    """What processes of this machine compute on.

    Attributes:
        kind: As torch calls it.
        name: As its maker calls it.
        count: How many GPUs there are.
        memory: Of one GPU, in bytes; None on CPUs.
    """

    kind: Literal["cuda", "cpu"]
    name: str
    count: int = 0
    memory: int | None = None


def this_device() -> DeviceInfo:
    """Tell what this machine has."""
    if not torch.cuda.is_available():
        return DeviceInfo("cpu", "CPU")
    properties = torch.cuda.get_device_properties(0)
    return DeviceInfo("cuda", properties.name, torch.cuda.device_count(), properties.total_memory)


@dataclass(frozen=True, slots=True)
class StepRate:
    """The learning rate of the first step that comes so many epochs after the start."""

    epoch: float
    rate: float


@dataclass(frozen=True, slots=True, kw_only=True)
class DryRun:
    """What a run will do and need; None stands for what the missing data would tell.

    Attributes:
        machines: Number of machines.
        processes: Processes on all of them.
        device: What each computes on.
        precision: What `train.precision` comes to.
        compiled: Whether torch.compile is used; None if that depends on the missing data.
        recipe: The settings.
        crops: Images that a process learns from at once.
        train_pictures: Images to train with.
        val_pictures: Images to validate with.
        steps_per_epoch: Batches in an epoch.
        dropped: Images that each epoch leaves out, for want of a full batch.
        rates: Where the learning rate starts, turns and, the last one, ends.
        validations: How many there are in all.
        memory: Of a step in each process.
        checkpoint: Size of one, in bytes.
        room: What the run folder may take, in bytes.
        folder: The run folder.
        missing: Why the run would not go through, a line each.
        warnings: What is odd about the data, a line each.
    """

    machines: int
    processes: int
    device: DeviceInfo
    precision: Precision
    compiled: bool | None
    recipe: Recipe
    crops: int
    train_pictures: int | None
    val_pictures: int | None
    steps_per_epoch: int | None
    dropped: int | None
    rates: tuple[StepRate, ...]
    validations: int
    memory: MemoryEstimate
    checkpoint: int
    room: int
    folder: Path
    missing: tuple[str, ...]
    warnings: tuple[str, ...]

    def rows(self) -> list[tuple[str, str]]:
        """Say it for people: what it is about, and a line on it. What is missing is left out."""
        train = self.recipe.train
        where = _count(self.machines, "machine")
        kept = f", the last {train.keep_last} kept" if train.keep_last > 1 else ""
        compiled = {True: ", compiled", False: ", not compiled", None: ""}[self.compiled]
        return [
            ("run folder", str(self.folder)),
            ("processes", f"{self.processes} on {where}; {self.device.name}"),
            ("precision", f"{self.precision}{compiled}"),
            ("step", self._step()),
            ("epoch", self._epoch()),
            ("training", self._length()),
            ("learning rate", self._rates()),
            ("validation", self._validation()),
            ("checkpoint", f"{size(self.checkpoint)}{kept}; {size(self.room)} on disk at most"),
            ("memory", self._memory()),
        ]

    def to_json(self) -> dict[str, Any]:
        """Return the plan for JSON; sizes in bytes."""
        return {
            "run": str(self.folder),
            "nodes": self.machines,
            "processes": self.processes,
            "device": asdict(self.device),
            "precision": self.precision,
            "compiled": self.compiled,
            "recipe": self.recipe.model_dump(mode="json"),
            "images": {"train": self.train_pictures, "val": self.val_pictures},
            "micro_batch": self.crops,
            "steps_per_epoch": self.steps_per_epoch,
            "dropped": self.dropped,
            "lr": [{"epoch": rate.epoch, "lr": rate.rate} for rate in self.rates],
            "validations": self.validations,
            "memory": self.memory.to_json(),
            "checkpoint_bytes": self.checkpoint,
            "disk_bytes": self.room,
            "missing": list(self.missing),
            "warnings": list(self.warnings),
        }

    def _step(self) -> str:
        train = self.recipe.train
        return (
            f"{_count(train.batch_size, 'image')} = {_count(self.processes, 'process')} x "
            f"{_count(train.accumulate, 'pass')} x {_count(self.crops, 'crop')} of "
            f"{self.recipe.augment.crop}"
        )

    def _epoch(self) -> str:
        if self.steps_per_epoch is None:
            return "unknown: the data are missing"
        return (
            f"{_count(self.steps_per_epoch, 'step')}; {self.dropped} of "
            f"{_count(self.train_pictures or 0, 'image')} left out each time"
        )

    def _length(self) -> str:
        epochs = self.recipe.train.epochs
        if self.steps_per_epoch is None:
            return _count(epochs, "epoch")
        return f"{_count(epochs, 'epoch')}, {_count(epochs * self.steps_per_epoch, 'step')}"

    def _rates(self) -> str:
        first, *turns = self.rates
        schedule, more = self.recipe.train.schedule, ""
        if len(turns) > FEW + 1:
            more = f"; {len(turns) - FEW - 1} changes more"
            turns = [*turns[:FEW], turns[-1]]
        said = [f"{turn.rate:.3g} after {_count(turn.epoch, 'epoch')}" for turn in turns[:-1]]
        if turns:
            said.append(f"{turns[-1].rate:.3g} at the end")
        return f"{'; '.join([f'{first.rate:.3g}', *said])}{more} ({schedule.kind})"

    def _validation(self) -> str:
        images = "" if self.val_pictures is None else f" of {self.val_pictures:,} images"
        return f"{_count(self.validations, 'validation')}{images}"

    def _memory(self) -> str:
        parts = {name: value for name, value in self.memory.to_json().items() if value}
        total = parts.pop("total")
        said = ", ".join(f"{name} {value / GIB:.2f}" for name, value in parts.items())
        there = "" if self.device.memory is None else f" of {self.device.memory / GIB:.1f}"
        return f"about {total / GIB:.1f}{there} GiB a process by estimate: {said}"


def make_plan(
    recipe: Recipe,
    *,
    processes: int,
    machines: int,
    folder: Path,
    device: DeviceInfo | None = None,
    precision: Precision | None = None,
) -> DryRun:
    """Work out what a run will do, and look for what is missing.

    Nothing is written, downloaded or started.

    Args:
        recipe: The settings.
        processes: Processes on all machines.
        machines: Number of machines.
        folder: The run folder, which need not exist.
        device: What the processes compute on; that of this machine if left out.
        precision: What `train.precision` comes to there; found out if left out.
    """
    train = recipe.train
    device = device or this_device()
    torch_device = torch.device(device.kind)
    precision = precision or resolve_precision(train.precision, torch_device)
    material, missing, odd = find_material(recipe, processes)
    steps = None if material is None else len(material.train) // train.batch_size
    memory = estimate(recipe, processes, precision=precision, on_gpu=device.kind == "cuda")
    checkpoint = memory.weights + memory.optimiser + memory.average
    # All that are kept, the one that is being written, and the best network.
    room = checkpoint * (train.keep_last + 1) + memory.weights
    missing += [
        *missing_weights(recipe),
        *missing_options(recipe),
        *_missing_gpus(device, processes // machines),
        *_missing_memory(recipe, processes, device, precision, memory),
        *missing_room(folder, room),
    ]
    return DryRun(
        machines=machines,
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
        crops=images_a_pass(recipe, processes),
        train_pictures=None if material is None else len(material.train),
        val_pictures=None if material is None else len(material.val),
        steps_per_epoch=steps,
        dropped=None if material is None else len(material.train) % train.batch_size,
        rates=tuple(_rates(train, steps or 1)),
        validations=-(-train.epochs // train.eval_every),
        memory=memory,
        checkpoint=checkpoint,
        room=room,
        folder=folder,
        missing=tuple(missing),
        warnings=tuple(odd),
    )


def _rates(train: Train, steps: int) -> list[StepRate]:
    """List where the rate starts, is warm, falls to a tenth, and what the last step's is."""
    schedule, turns = train.schedule, {0.0, train.epochs - 1 / steps}
    if schedule.warmup < train.epochs:
        turns.add(float(schedule.warmup))
    if schedule.kind == "step":
        turns |= {float(epoch) for epoch in range(schedule.step, train.epochs, schedule.step)}
    return [
        StepRate(turn, learning_rate(schedule, train.lr, train.epochs, int(turn), turn - int(turn)))
        for turn in sorted(turns)
    ]


def _missing_gpus(device: DeviceInfo, wanted: int) -> Iterator[str]:
    if device.kind == "cuda" and device.count < wanted:
        yield f"--gpus {wanted}: this machine has {device.count} (--gpus {device.count})"


def _missing_memory(
    recipe: Recipe, processes: int, device: DeviceInfo, precision: Precision, needed: MemoryEstimate
) -> Iterator[str]:
    if device.memory is None or needed.total <= device.memory:
        return
    yield str(
        advice(
            recipe,
            processes,
            precision=precision,
            on_gpu=True,
            total_memory=device.memory,
            what="memory",
        )
    )


def _count(number: float, thing: str) -> str:
    if number != 1:
        thing += "es" if thing.endswith("s") else "s"
    return f"{number:,} {thing}" if isinstance(number, int) else f"{number:g} {thing}"

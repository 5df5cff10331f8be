"""How much memory a training step takes, and which settings take less."""

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any

import torch

from drn_cli.device import Precision, autocast_type
from drn_cli.errors import DrnError
from drn_cli.networks.catalog import Architecture, Task
from drn_cli.networks.models import build
from drn_cli.networks.profiling import activation_bytes
from drn_cli.recipe.schema import Loss, Recipe
from drn_cli.training.loss import make_loss

GIB = 2**30

# An allowance for what no tensor of ours accounts for: the libraries' scratch and reordered
# weights, copies that the optimiser makes, holes between tensors. With it, estimates were 0.76 to
# 1.35 of what steps on CPUs took (docs/performance.md); on a GPU it was not measured.
WORKSPACE = 0.15
# An allowance for the CUDA context with its libraries, not measured either.
CONTEXT = GIB // 2
# By how much activations are to shrink after a step that should have fitted, and did not.
MARGIN = 0.2
SMALLEST_CROP = 64  # smaller ones train nothing that is of use


@dataclass(frozen=True, slots=True)
class MemoryEstimate:
    """Bytes of a training step in one process, on its GPU or beside the program itself.

    Attributes:
        weights: Parameters and statistics, in float32.
        gradients: As large as the parameters.
        optimiser: Momentum, or the two averages of AdamW.
        average: The average of the weights, if there is one.
        activations: The most that a pass holds at once beside these; see `pass_bytes`.
        workspace: An allowance for what is not in tensors.
    """

    weights: int
    gradients: int
    optimiser: int
    average: int
    activations: int
    workspace: int

    @property
    def total(self) -> int:
        return sum(asdict(self).values())

    def to_json(self) -> dict[str, int]:
        return {**asdict(self), "total": self.total}


def estimate(recipe: Recipe, world: int, *, precision: Precision, on_gpu: bool) -> MemoryEstimate:
    """Estimate what a training step takes in each process, without a GPU and in a few seconds.

    The estimate is that of a run without torch.compile, which takes less.

    Args:
        recipe: The settings.
        world: Number of processes.
        precision: What `train.precision` comes to on the device.
        on_gpu: Whether the device is a GPU.
    """
    return _estimate(recipe, images_a_pass(recipe, world), precision, on_gpu)


def images_a_pass(recipe: Recipe, world: int) -> int:
    """Count the crops that a process learns from at once."""
    return -(-recipe.train.batch_size // (recipe.train.accumulate * world))


def largest_pass(
    recipe: Recipe, world: int, budget: int, *, precision: Precision, on_gpu: bool
) -> int:
    """Find how many crops a pass and process fit into memory.

    Args:
        recipe: The settings.
        world: Number of processes.
        budget: The memory of a process, in bytes.
        precision: What `train.precision` comes to on the device.
        on_gpu: Whether the device is a GPU.

    Returns:
        From 0, where not even one fits, to the process's share of the batch.
    """
    one, two = (_estimate(recipe, count, precision, on_gpu).total for count in (1, 2))
    if one > budget:
        return 0
    # What a pass takes grows in proportion to its images.
    return min(1 + (budget - one) // (two - one), recipe.train.batch_size // world)


def advice(
    recipe: Recipe,
    world: int,
    *,
    precision: Precision,
    on_gpu: bool,
    total_memory: int | None = None,
    what: str = "out of memory in training",
) -> DrnError:
    """Say which settings to change, and by how much, after training ran out of memory.

    More passes come first, since they train the same network at about the same speed; then
    activations that are computed again, which takes time; then fewer bits; then smaller crops,
    which train another network.

    Args:
        recipe: The settings that took too much.
        world: Number of processes.
        precision: What `train.precision` comes to on the device.
        on_gpu: Whether the device is a GPU.
        total_memory: Of the device, in bytes, where it is known.
        what: What the error begins with.
    """
    needed = estimate(recipe, world, precision=precision, on_gpu=on_gpu)
    took = needed.total
    budget = total_memory
    if budget is None or took <= budget:
        budget = took - int(MARGIN * needed.activations)
    message = (
        f"{what}: {_crops_take(recipe, world)} about {took / GIB:.1f} GiB a process by estimate"
    )
    if total_memory is not None:
        message += f", and the device has {total_memory / GIB:.1f} GiB"
    for changes, changed, bits in _savings(recipe, precision, on_gpu):
        fitting = largest_pass(changed, world, budget, precision=bits, on_gpu=on_gpu)
        accumulate = _fewest_passes(changed, world, fitting)
        if accumulate is not None:
            return DrnError(message, _hint(recipe, accumulate, changes))
    # The last of the savings, single crops, and smaller ones.
    side = _largest_crop(changed, budget, bits, on_gpu)
    if side is None:
        return DrnError(message, "a smaller network, or a device with more memory, is needed")
    passes = recipe.train.batch_size // world
    return DrnError(message, _hint(recipe, passes, [*changes, f"augment.crop={side}"]))


def _crops_take(recipe: Recipe, world: int) -> str:
    count, side = images_a_pass(recipe, world), recipe.augment.crop
    return f"1 crop of {side} takes" if count == 1 else f"{count} crops of {side} take"


@lru_cache
def pass_bytes(
    arch: Architecture,
    task: Task,
    classes: int,
    loss: Loss,
    crop: int,
    count: int,
    precision: Precision,
    checkpointing: bool,
) -> int:
    """Return the most bytes that a forward and backward pass holds beside weights and gradients.

    Those are the images, the activations that are saved for the backward pass, weights in 16 bits
    under autocast, and what is temporary: maps, logits, loss and their gradients.

    Args:
        arch: Architecture.
        task: What the network predicts.
        classes: Number of classes.
        loss: Training loss.
        crop: Side of a crop, in pixels.
        count: Crops of the micro-batch.
        precision: Of autocast.
        checkpointing: Whether activations are recomputed in the backward pass.
    """
    crop = max(crop, 16)  # a lone crop of 8 is a single position, which batch norm cannot train on
    peak = activation_bytes(
        arch,
        task,
        classes,
        (count, crop, crop),
        dtype=autocast_type(precision),
        loss=make_loss(loss, task, torch.device("cpu")),
        checkpointing=checkpointing,
    ).peak
    return peak + 3 * count * crop**2  # the images as they are loaded, in uint8


def _estimate(recipe: Recipe, images: int, precision: Precision, on_gpu: bool) -> MemoryEstimate:
    arch, task, classes = recipe.model.architecture, recipe.task, recipe.data.classes
    train = recipe.train
    with torch.device("meta"):
        model = build(arch, task, classes)
    parameters = sum(parameter.nbytes for parameter in model.parameters())
    statistics = sum(buffer.nbytes for buffer in model.buffers())
    copies = 2 if train.optimiser.kind == "adamw" else int(train.momentum > 0)
    weights = parameters + statistics
    average = weights if train.ema is not None else 0
    activations = pass_bytes(
        arch,
        task,
        classes,
        recipe.loss,
        recipe.augment.crop,
        images,
        precision,
        train.checkpoint_activations,
    )
    tensors = weights + (1 + copies) * parameters + average + activations
    return MemoryEstimate(
        weights=weights,
        gradients=parameters,
        optimiser=copies * parameters,
        average=average,
        activations=activations,
        workspace=int(WORKSPACE * tensors) + (CONTEXT if on_gpu else 0),
    )


def _savings(
    recipe: Recipe, precision: Precision, on_gpu: bool
) -> Iterator[tuple[list[str], Recipe, Precision]]:
    """Give settings that take less and less: what to write, the recipe, the precision."""
    changes: list[str] = []
    yield list(changes), recipe, precision
    if not recipe.train.checkpoint_activations:
        changes.append("train.checkpoint_activations=true")
        if recipe.train.compile is True:
            changes.append("train.compile=false")  # the two do not go together
        recipe = _with(recipe, checkpoint_activations=True)
        yield list(changes), recipe, precision
    if on_gpu and precision == "fp32":
        changes.append("train.precision=bf16")
        yield list(changes), recipe, "bf16"


def _with(recipe: Recipe, **settings: Any) -> Recipe:
    return recipe.model_copy(update={"train": recipe.train.model_copy(update=settings)})


def _fewest_passes(recipe: Recipe, world: int, fitting: int) -> int | None:
    """Give the smallest `train.accumulate` whose passes share out evenly and fit, if any does."""
    batch = recipe.train.batch_size
    for passes in range(recipe.train.accumulate, batch // world + 1):
        if batch % (passes * world) == 0 and batch // (passes * world) <= fitting:
            return passes
    return None


def _largest_crop(recipe: Recipe, budget: int, precision: Precision, on_gpu: bool) -> int | None:
    """Give a side, a multiple of 8, of which a single crop fits; None if that would be tiny."""
    side = recipe.augment.crop
    while side >= SMALLEST_CROP:
        augment = recipe.augment.model_copy(update={"crop": side})
        needed = _estimate(recipe.model_copy(update={"augment": augment}), 1, precision, on_gpu)
        if needed.total <= budget:
            return side
        # Activations grow with the area; the rest stays.
        grows = needed.activations * (1 + WORKSPACE)
        share = max(0, 1 - (needed.total - budget) / grows)
        side = min(side - 1, int(side * math.sqrt(share))) // 8 * 8
    return None


def _hint(recipe: Recipe, accumulate: int, changes: list[str]) -> str:
    passes = [f"train.accumulate={accumulate}"] if accumulate != recipe.train.accumulate else []
    return f"try {' '.join([*passes, *changes])}"

"""Memory of a training step, and settings that need less."""

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import lru_cache

import torch

from drn_cli.device import Precision, autocast_type
from drn_cli.errors import DrnError
from drn_cli.networks.catalog import Architecture, Task
from drn_cli.networks.models import build
from drn_cli.networks.profiling import activation_bytes
from drn_cli.recipe.schema import Loss, Recipe
from drn_cli.training.loss import make_loss

GIB = 2**30

# Share that is added for library workspaces, reordered weights, copies of the optimizer and
# fragmentation. With it, estimates were 0.76 to 1.35 of the memory that steps on CPUs took
# (docs/performance.md); not measured on GPUs.
WORKSPACE = 0.15
CONTEXT = GIB // 2  # for the CUDA context and libraries; not measured
# Share by which activations must shrink after running out of memory where the estimate fitted.
MARGIN = 0.2
MIN_CROP = 64  # smaller crops are useless for training


@dataclass(frozen=True, slots=True)
class MemoryEstimate:
    """Bytes of a training step in one process: GPU memory, or memory beside the program itself."""

    weights: int  # parameters and batch norm statistics, in float32
    gradients: int  # as large as the parameters
    optimiser: int  # momentum, or the two averages of AdamW
    average: int  # EMA of the weights; 0 without train.ema
    activations: int  # peak of a micro-batch beside these; see `micro_batch_bytes`
    workspace: int  # allowance for memory outside of tensors

    @property
    def total(self) -> int:
        return sum(asdict(self).values())

    def to_json(self) -> dict[str, int]:
        return {**asdict(self), "total": self.total}


def estimate(recipe: Recipe, world: int, *, precision: Precision, on_gpu: bool) -> MemoryEstimate:
    """Estimate the memory of a training step in each process, in a few seconds and without a GPU.

    The estimate is that of a run without torch.compile, which needs less.

    Args:
        recipe: The settings.
        world: Number of processes.
        precision: Resolved precision.
        on_gpu: Whether the device is a GPU.
    """
    return _estimate(recipe, micro_batch(recipe, world), precision, on_gpu)


def micro_batch(recipe: Recipe, world: int) -> int:
    """Return the number of crops in a micro-batch of one process, rounded up."""
    return -(-recipe.train.batch_size // (recipe.train.accumulate * world))


def max_micro_batch(
    recipe: Recipe, world: int, budget: int, *, precision: Precision, on_gpu: bool
) -> int:
    """Return the largest micro-batch of one process that fits in memory.

    Args:
        recipe: The settings.
        world: Number of processes.
        budget: Memory of a process in bytes.
        precision: Resolved precision.
        on_gpu: Whether the device is a GPU.

    Returns:
        Number of crops: from 0, if not even one fits, to the process's share of the batch.
    """
    one, two = (_estimate(recipe, count, precision, on_gpu).total for count in (1, 2))
    if one > budget:
        return 0
    # The memory of a micro-batch grows linearly with its size.
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
    """Return an out-of-memory error that suggests which settings to change.

    Gradient accumulation comes first, since it trains the same network at about the same speed;
    then activation checkpointing, which takes time; then lower precision; then smaller crops, which
    change the result.

    Args:
        recipe: The settings that need too much.
        world: Number of processes.
        precision: Resolved precision.
        on_gpu: Whether the device is a GPU.
        total_memory: Memory of the device in bytes; None if unknown.
        what: Subject of the message.
    """
    needed = estimate(recipe, world, precision=precision, on_gpu=on_gpu)
    budget = total_memory
    if budget is None or needed.total <= budget:
        budget = needed.total - int(MARGIN * needed.activations)
    count, side, train = micro_batch(recipe, world), recipe.augment.crop, recipe.train
    crops = f"1 crop of {side} needs" if count == 1 else f"{count} crops of {side} need"
    message = f"{what}: {crops} about {needed.total / GIB:.1f} GiB per process (estimate)"
    if total_memory is not None:
        message += f"; the device has {total_memory / GIB:.1f} GiB"
    for changes, changed, bits in _savings(recipe, precision, on_gpu):
        largest = max_micro_batch(changed, world, budget, precision=bits, on_gpu=on_gpu)
        # The least accumulation with equal micro-batches that fit.
        for accumulate in range(train.accumulate, train.batch_size // world + 1):
            images, rest = divmod(train.batch_size, accumulate * world)
            if rest == 0 and images <= largest:
                return DrnError(message, _hint(recipe, accumulate, changes))
    # All savings, micro-batches of one crop, and smaller crops.
    smaller = _largest_crop(changed, budget, bits, on_gpu)
    if smaller is None:
        return DrnError(message, "use a smaller network, or a device with more memory")
    accumulate = train.batch_size // world
    return DrnError(message, _hint(recipe, accumulate, [*changes, f"augment.crop={smaller}"]))


@lru_cache
def micro_batch_bytes(
    arch: Architecture,
    task: Task,
    classes: int,
    loss: Loss,
    crop: int,
    count: int,
    precision: Precision,
    checkpointing: bool,
) -> int:
    """Return the peak bytes of a forward and backward pass beside weights and gradients.

    These are the images, the activations saved for the backward pass, weights in 16 bits under
    autocast, and temporary tensors: feature maps, logits, loss and their gradients.

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
    crop = max(crop, 16)  # batch norm cannot train on the single position of one crop of 8
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
    activations = micro_batch_bytes(
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
    """Yield settings that need less and less memory: overrides, recipe, precision."""
    changes: list[str] = []
    yield list(changes), recipe, precision
    if not recipe.train.checkpoint_activations:
        changes.append("train.checkpoint_activations=true")
        if recipe.train.compile is True:
            changes.append("train.compile=false")  # they cannot be combined
        train = recipe.train.model_copy(update={"checkpoint_activations": True})
        recipe = recipe.model_copy(update={"train": train})
        yield list(changes), recipe, precision
    if on_gpu and precision == "fp32":
        changes.append("train.precision=bf16")
        yield list(changes), recipe, "bf16"


def _largest_crop(recipe: Recipe, budget: int, precision: Precision, on_gpu: bool) -> int | None:
    """Return the largest crop, a multiple of 8, that fits as one; None if below MIN_CROP."""
    side = recipe.augment.crop
    while side >= MIN_CROP:
        augment = recipe.augment.model_copy(update={"crop": side})
        needed = _estimate(recipe.model_copy(update={"augment": augment}), 1, precision, on_gpu)
        if needed.total <= budget:
            return side
        # Activations grow with the area of the crop; the rest is constant.
        variable = needed.activations * (1 + WORKSPACE)
        share = max(0, 1 - (needed.total - budget) / variable)
        side = min(side - 1, int(side * math.sqrt(share))) // 8 * 8
    return None


def _hint(recipe: Recipe, accumulate: int, changes: list[str]) -> str:
    changed = accumulate != recipe.train.accumulate
    return f"try {' '.join([*([f'train.accumulate={accumulate}'] if changed else []), *changes])}"

"""From a recipe to everything that the training loop holds."""

import logging
import os
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from drn_cli.data.batches import TrainLoader
from drn_cli.data.order import EpochSampler
from drn_cli.device import Precision, resolve_compile, resolve_precision, set_matmul_precision
from drn_cli.distributed.batchnorm import convert_sync_batchnorm
from drn_cli.distributed.group import Group
from drn_cli.environment import run_environment
from drn_cli.errors import DrnError
from drn_cli.inference.memory import TileSizer
from drn_cli.inference.metadata import to_metadata
from drn_cli.inference.reading import default_concurrency
from drn_cli.networks.models import DRN, build
from drn_cli.networks.recomputation import enable_activation_checkpointing
from drn_cli.networks.weights import LoadReport, load_weights, weights_file
from drn_cli.recipe.schema import Recipe
from drn_cli.training.ema import EMA
from drn_cli.training.loss import Loss, make_loss
from drn_cli.training.optimiser import make_optimiser
from drn_cli.training.tasks import DataBundle, Task, task_of

log = logging.getLogger(__name__)


@dataclass(slots=True)
class TrainState:
    """All that the loop works with.

    Attributes:
        model: The network itself.
        start: Which weights it started from, if not from random ones.
        runner: The same, as it is called in training: compiled, and averaging gradients.
        parallel: What averages the gradients of several processes; None in a single one.
        averaged: The average of the weights over the steps, if the recipe asks for one.
        tiles: What validation found out about the memory.
        scaler: Scales gradients in fp16; otherwise it only leaves out steps that are not finite.
    """

    recipe: Recipe
    group: Group
    task: Task
    material: DataBundle
    model: DRN
    start: LoadReport | None
    runner: Callable[[Tensor], Tensor]
    parallel: DistributedDataParallel | None
    averaged: EMA | None
    loss: Loss
    optimiser: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    precision: Precision
    compiled: bool
    order: EpochSampler
    batches: TrainLoader
    tiles: TileSizer

    @property
    def steps(self) -> int:
        """Steps of the whole training."""
        return self.recipe.train.epochs * self.order.steps

    @property
    def judged(self) -> DRN:
        """The network that is validated and kept as the best."""
        return self.model if self.averaged is None else self.averaged.model

    def environment(self) -> dict[str, Any]:
        """Describe what the run was made of and runs on, ready for environment.json."""
        start = self.start
        return run_environment(self.group.device) | {
            "processes": self.group.world,
            "precision": self.precision,
            "compiled": self.compiled,
            "seed": self.recipe.train.seed,
            "data": self.material.fingerprints(),
            "weights": start and {"file": str(start.path), "verified": start.verified},
            "train_pictures": len(self.material.train),
            "val_pictures": len(self.material.val),
            "parameters": sum(weight.numel() for weight in self.model.parameters()),
            "resumed": [],
        }

    def metadata(self) -> dict[str, str]:
        """Describe the network, for whoever finds its weights."""
        material = self.material
        return to_metadata(self.model, material.statistics, material.class_set, material.folders)


def check_split(recipe: Recipe, images: int, processes: int) -> None:
    """See that every step gets its images, and every process as many of them as the others.

    Raises:
        DrnError: The batch is larger than the set, or cannot be shared out.
    """
    train = recipe.train
    batch = train.batch_size
    if batch > images:
        raise DrnError(
            f"train.batch_size: {batch} is more than the {images} training images",
            f"train.batch_size={images}",
        )
    together = batch // train.accumulate
    if together % processes == 0:
        return
    share = "images a step" if train.accumulate == 1 else "images a pass"
    choices = ", ".join(str(n) for n in range(1, together + 1) if together % n == 0)
    nearest = max(1, batch // (processes * train.accumulate)) * processes * train.accumulate
    raise DrnError(
        f"train.batch_size: {together} {share} cannot be shared by {processes} processes",
        f"--gpus {choices}; or train.batch_size={nearest}",
    )


def set_up(recipe: Recipe, material: DataBundle, group: Group) -> TrainState:
    """Build the network, the optimiser and the readers.

    Raises:
        DrnError: The weights to start from cannot be had.
    """
    train, task = recipe.train, task_of(recipe)
    order = EpochSampler(len(material.train), train.batch_size, train.seed, train.accumulate)
    precision = resolve_precision(train.precision, group.device)
    compiled = resolve_compile(
        train.compile,
        group.device,
        train.epochs * order.steps,
        checkpointing=train.checkpoint_activations,
    )
    if group.device.type == "cuda":
        set_matmul_precision(tf32=train.tf32)
    if group.is_main:
        _warn(recipe, group, precision)
    _seed(train.seed)
    model = build(recipe.model.architecture, recipe.task, recipe.data.classes)
    weights = recipe.model.weights
    start = load_weights(model, weights_file(model.architecture, weights)) if weights else None
    if train.sync_bn and group.world > 1:
        convert_sync_batchnorm(model, group.device)
    model.to(group.device)
    if train.channels_last:
        model.to(memory_format=torch.channels_last)
    averaged = EMA(model, train.ema) if train.ema is not None else None
    if train.checkpoint_activations:
        enable_activation_checkpointing(model)
    runner: Callable[[Tensor], Tensor] = model
    parallel = None
    if group.world > 1:
        devices = [group.device] if group.device.type == "cuda" else None
        runner = parallel = DistributedDataParallel(
            model, device_ids=devices, gradient_as_bucket_view=True
        )
    if compiled:
        # Crops are all of one size: code for it alone is the fastest.
        runner = torch.compile(runner, dynamic=False)
    return TrainState(
        recipe=recipe,
        group=group,
        task=task,
        material=material,
        model=model,
        start=start,
        runner=runner,
        parallel=parallel,
        averaged=averaged,
        loss=make_loss(recipe.loss, recipe.task, group.device),
        optimiser=make_optimiser(train, model, group.device),
        # Without fp16, its scale stays 1.
        scaler=torch.amp.GradScaler(
            group.device.type, init_scale=2.0**16 if precision == "fp16" else 1.0
        ),
        precision=precision,
        compiled=compiled,
        order=order,
        batches=TrainLoader(
            task.dataset(recipe, material, aloud=group.is_main),
            order,
            rank=group.rank,
            world=group.world,
            workers=_workers(recipe, group),
            pin=group.device.type == "cuda",
            start=recipe.data.start_method,
        ),
        tiles=TileSizer(model.architecture, group.device, default_concurrency(group.device)),
    )


def _seed(seed: int) -> None:
    """Draw the same fresh weights in every process, and whatever a library may draw."""
    torch.manual_seed(seed)
    np.random.seed(seed % 2**32)
    random.seed(seed)


def _warn(recipe: Recipe, group: Group, precision: Precision) -> None:
    """Say what is not as one might expect."""
    train = recipe.train
    if train.precision == "bf16" and precision != "bf16":
        log.warning("train.precision=bf16: this GPU has no bfloat16; %s is used instead", precision)
    images = train.batch_size // train.accumulate // group.world
    if images == 1 and (group.world == 1 or not train.sync_bn):
        log.warning(
            "batch norm sees one image at a time, which trains badly; give each process more "
            "(train.batch_size, train.accumulate%s)",
            "" if group.world == 1 else "), or all processes together (train.sync_bn=true",
        )


def _workers(recipe: Recipe, group: Group) -> int:
    """Choose how many processes read: a share of the cores, which on CPUs compute as well."""
    if isinstance(recipe.data.workers, int):
        return recipe.data.workers
    cores = len(os.sched_getaffinity(0)) // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    return min(1, cores - 1) if group.device.type == "cpu" else min(16, cores)

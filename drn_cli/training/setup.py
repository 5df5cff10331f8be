"""Build the training state from a recipe."""

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
    """Components of a training run, built from its recipe."""

    recipe: Recipe
    group: Group
    task: Task
    data: DataBundle
    model: DRN
    initial_weights: LoadReport | None  # None if they are random
    # The network as called in training: compiled, and wrapped for data parallelism
    runner: Callable[[Tensor], Tensor]
    # Averages gradients over ranks; None in a single process
    parallel: DistributedDataParallel | None
    averaged: EMA | None  # EMA of the weights; None without train.ema
    loss: Loss
    optimiser: torch.optim.Optimizer
    # Gradient scaling in fp16; in other precisions it only skips non-finite steps
    scaler: torch.amp.GradScaler
    precision: Precision
    compiled: bool
    order: EpochSampler
    batches: TrainLoader
    tiles: TileSizer  # tile sizes that fit in memory, learned in validation

    @property
    def steps(self) -> int:
        """Steps of the whole training."""
        return self.recipe.train.epochs * self.order.steps

    @property
    def eval_model(self) -> DRN:
        """The network that is validated and saved as the best."""
        return self.model if self.averaged is None else self.averaged.model

    def environment(self) -> dict[str, Any]:
        """Return the content of environment.json: versions, hardware, data and weights."""
        loaded = self.initial_weights
        return run_environment(self.group.device) | {
            "processes": self.group.world,
            "precision": self.precision,
            "compiled": self.compiled,
            "seed": self.recipe.train.seed,
            "data": self.data.fingerprints(),
            "weights": loaded and {"file": str(loaded.path), "verified": loaded.verified},
            "train_pictures": len(self.data.train),
            "val_pictures": len(self.data.val),
            "parameters": sum(weight.numel() for weight in self.model.parameters()),
            "resumed": [],
        }

    def metadata(self) -> dict[str, str]:
        """Return the metadata that is saved with the weights."""
        data = self.data
        return to_metadata(self.model, data.statistics, data.class_set, data.folders)


def check_batch_size(recipe: Recipe, image_count: int, processes: int) -> None:
    """Check that a batch is no larger than the training set and divisible by the world size.

    Raises:
        DrnError: The batch is larger than the training set, or not divisible.
    """
    train = recipe.train
    batch = train.batch_size
    if batch > image_count:
        raise DrnError(
            f"train.batch_size: {batch} is more than the {image_count} training images",
            f"use at most train.batch_size={image_count}",
        )
    micro_batch = batch // train.accumulate
    if micro_batch % processes == 0:
        return
    subject = "batch size" if train.accumulate == 1 else "micro-batch size"
    choices = ", ".join(str(n) for n in range(1, micro_batch + 1) if micro_batch % n == 0)
    nearest = max(1, batch // (processes * train.accumulate)) * processes * train.accumulate
    raise DrnError(
        f"train.batch_size: {subject} {micro_batch} is not divisible by {processes} processes",
        f"use --gpus {choices}, or train.batch_size={nearest}",
    )


def build_train_state(recipe: Recipe, data: DataBundle, group: Group) -> TrainState:
    """Build the network, loss, optimizer and data loader.

    Raises:
        DrnError: The initial weights cannot be loaded.
    """
    train, task = recipe.train, task_of(recipe)
    order = EpochSampler(len(data.train), train.batch_size, train.seed, train.accumulate)
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
    # The same initial weights in every rank.
    torch.manual_seed(train.seed)
    np.random.seed(train.seed % 2**32)
    random.seed(train.seed)
    model = build(recipe.model.architecture, recipe.task, recipe.data.classes)
    weights = recipe.model.weights
    initial_weights = (
        load_weights(model, weights_file(model.architecture, weights)) if weights else None
    )
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
        # All crops have one size: code that is specialized for it is the fastest.
        runner = torch.compile(runner, dynamic=False)
    return TrainState(
        recipe=recipe,
        group=group,
        task=task,
        data=data,
        model=model,
        initial_weights=initial_weights,
        runner=runner,
        parallel=parallel,
        averaged=averaged,
        loss=make_loss(recipe.loss, recipe.task, group.device),
        optimiser=make_optimiser(train, model, group.device),
        # Without fp16, the scale stays 1.
        scaler=torch.amp.GradScaler(
            group.device.type, init_scale=2.0**16 if precision == "fp16" else 1.0
        ),
        precision=precision,
        compiled=compiled,
        order=order,
        batches=TrainLoader(
            task.dataset(recipe, data, verbose=group.is_main),
            order,
            rank=group.rank,
            world=group.world,
            workers=_workers(recipe, group),
            pin=group.device.type == "cuda",
            start_method=recipe.data.start_method,
        ),
        tiles=TileSizer(model.architecture, group.device, default_concurrency(group.device)),
    )


def _warn(recipe: Recipe, group: Group, precision: Precision) -> None:
    """Warn about a precision that is replaced, and about batch norm over single images."""
    train = recipe.train
    if train.precision == "bf16" and precision != "bf16":
        log.warning("train.precision=bf16: no bfloat16 on this GPU; using %s", precision)
    images_per_rank = train.batch_size // train.accumulate // group.world
    if images_per_rank == 1 and (group.world == 1 or not train.sync_bn):
        log.warning(
            "batch norm sees one image at a time, which trains badly (raise train.batch_size, "
            "lower train.accumulate%s)",
            "" if group.world == 1 else ", or set train.sync_bn=true",
        )


def _workers(recipe: Recipe, group: Group) -> int:
    """Return the number of data loader workers; auto: the rank's share of the cores, at most 16.

    On CPUs at most one, since training itself uses the cores.
    """
    if isinstance(recipe.data.workers, int):
        return recipe.data.workers
    cores = len(os.sched_getaffinity(0)) // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    return min(1, cores - 1) if group.device.type == "cpu" else min(16, cores)

"""From a recipe to everything that the training loop holds."""

import logging
import os
import platform
import sys
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

import drn_cli
from drn_cli.data.audit.quick import quick
from drn_cli.data.augment import Augmentation
from drn_cli.data.batches import TrainingBatches, TrainingSet
from drn_cli.data.cache import FOLDER as CACHE_FOLDER
from drn_cli.data.cache import DecodedCache, open_cache
from drn_cli.data.classes import ClassSet
from drn_cli.data.folders import ListFolder, Sample, Statistics
from drn_cli.data.order import Order
from drn_cli.distributed.batchnorm import synchronise
from drn_cli.distributed.group import Group
from drn_cli.errors import DrnError
from drn_cli.inference.loading import record
from drn_cli.networks import create_model
from drn_cli.networks.models import DRN
from drn_cli.recipe.schema import Recipe

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Material:
    """What a recipe names on the disk."""

    train: list[Sample]
    val: list[Sample]
    statistics: Statistics
    class_set: ClassSet


def find_material(recipe: Recipe, processes: int) -> Material:
    """Read the lists, and see that the recipe can be trained with them.

    This is quick, so that a mistake shows before any process starts.

    Raises:
        DrnError: A list or file is missing, or the recipe does not fit.
    """
    if recipe.task != "segmentation":
        raise DrnError(
            f"task: {recipe.task}: this version trains segmentation only",
            "the networks and weights for classification are there: `drn models list`",
        )
    folder = ListFolder.open(recipe.data.root, recipe.data.lists)
    material = Material(
        folder.samples("train"),
        folder.samples("val"),
        folder.statistics(),
        folder.class_set(recipe.data.classes),
    )
    batch = recipe.train.batch_size
    if batch > len(material.train):
        raise DrnError(
            f"train.batch_size: {batch} is more than the {len(material.train)} training pictures",
            f"train.batch_size={len(material.train)}",
        )
    if batch % processes:
        raise DrnError(
            f"train.batch_size: {batch} pictures a step cannot be shared by {processes} processes",
            f"train.batch_size={max(1, batch // processes) * processes}",
        )
    return material


def look_over(material: Material, *, aloud: bool = True) -> None:
    """Do the quick part of `drn data check`, so that a bad label shows before the first step.

    Args:
        material: What is to be trained with.
        aloud: Whether to warn of what is merely odd.

    Raises:
        DrnError: A picture or label that was looked at cannot be used.
    """
    for samples in (material.train, material.val):
        for finding in quick(samples, len(material.class_set)):
            if finding.severity == "error":
                raise finding.error()
            if aloud:
                log.warning("%s", finding)


@dataclass(slots=True)
class Training:
    """All that the loop works with.

    Attributes:
        model: The network itself.
        runner: The same, as it is called in training: compiled, and averaging gradients.
    """

    recipe: Recipe
    group: Group
    material: Material
    model: DRN
    runner: Callable[[Tensor], Tensor]
    optimiser: torch.optim.SGD
    order: Order
    batches: TrainingBatches

    @property
    def bf16(self) -> bool:
        return self.recipe.train.precision == "bf16"

    def metadata(self) -> dict[str, str]:
        """Describe the network, for whoever finds its weights."""
        return record(self.model, self.material.statistics, self.material.class_set)


def set_up(recipe: Recipe, material: Material, group: Group) -> Training:
    """Build the network, the optimiser and the readers.

    Raises:
        DrnError: The weights to start from cannot be had.
    """
    settings = recipe.train
    torch.manual_seed(settings.seed)  # the same fresh weights in every process
    model = create_model(recipe.model.arch, recipe.task, recipe.data.classes, recipe.model.weights)
    if settings.sync_bn and group.world > 1:
        synchronise(model, group.device)
    model.to(group.device).to(memory_format=torch.channels_last)
    optimiser = torch.optim.SGD(
        model.parameters(),
        settings.lr,
        momentum=settings.momentum,
        weight_decay=settings.weight_decay,
    )
    runner: Callable[[Tensor], Tensor] = model
    if group.world > 1:
        devices = [group.device] if group.device.type == "cuda" else None
        runner = DistributedDataParallel(model, device_ids=devices, gradient_as_bucket_view=True)
    if settings.compile:
        runner = torch.compile(runner)
    augment = recipe.augment
    dataset = TrainingSet(
        material.train,
        recipe.data.classes,
        Augmentation(augment.crop, augment.scale, augment.rotate, augment.flip),
        settings.seed,
        _cache(recipe, material, aloud=group.first),
    )
    order = Order(len(material.train), settings.batch_size, settings.seed)
    batches = TrainingBatches(
        dataset,
        order,
        rank=group.rank,
        world=group.world,
        workers=_workers(recipe, group),
        pin=group.device.type == "cuda",
        start=recipe.data.start_method,
    )
    return Training(recipe, group, material, model, runner, optimiser, order, batches)


def _cache(recipe: Recipe, material: Material, *, aloud: bool) -> DecodedCache | None:
    """Open the cache that the recipe asks for, and say what it takes, or why there is none."""
    data = recipe.data
    if data.cache == "none":
        return None
    folder = Path(data.cache_folder or Path(data.lists or data.root) / CACHE_FOLDER)
    opened = open_cache(data.cache, Path(data.root), folder, material.train)
    if aloud:
        log.log(logging.WARNING if opened.refused else logging.INFO, opened.message)
    return opened.cache


def _workers(recipe: Recipe, group: Group) -> int:
    """Choose how many processes read: a share of the cores, which on CPUs compute as well."""
    if isinstance(recipe.data.workers, int):
        return recipe.data.workers
    cores = len(os.sched_getaffinity(0)) // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    return min(1, cores - 1) if group.device.type == "cpu" else min(16, cores)


def environment(training: Training) -> dict[str, Any]:
    """Tell what this run ran on."""
    device = training.group.device
    return {
        "drn": drn_cli.__version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "cores": len(os.sched_getaffinity(0)),
        "processes": training.group.world,
        "command": sys.argv,
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "train_pictures": len(training.material.train),
        "val_pictures": len(training.material.val),
    }

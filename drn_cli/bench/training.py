"""A training step, as `drn train` takes it, on pictures of noise that are on the device already."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from drn_cli.bench.cases import Case
from drn_cli.bench.networks import noise
from drn_cli.bench.subject import Subject
from drn_cli.data.batches import Batch
from drn_cli.data.class_folders import ClassSample
from drn_cli.data.classes import generic
from drn_cli.data.folders import IMAGENET, Sample
from drn_cli.distributed.group import Group
from drn_cli.recipe.loading import load_recipe
from drn_cli.recipe.schema import Recipe
from drn_cli.training.setup import set_up
from drn_cli.training.step import Meter, take_step
from drn_cli.training.tasks import Material

# Whose settings a network without a run is trained with.
SHIPPED = {"segmentation": "drn_d_22_cityscapes", "classification": "drn_d_22_imagenet"}
RATE = 1e-6  # so low that weights stay what they are


def training_step(subject: Subject, case: Case, device: torch.device) -> Callable[[], object]:
    """Make a step ready: forward, loss, backward, optimiser."""
    recipe = recipe_of(subject, case, {"workers": 0, "cache": "none"})
    training = set_up(recipe, _never_read(recipe), Group(0, 1, device))
    batch = _batch(recipe, case, device)
    meter = Meter(device)
    return lambda: take_step(training, [batch], RATE, 0, meter)


def recipe_of(subject: Subject, case: Case, data: dict[str, Any]) -> Recipe:
    """Give the run's recipe, or a shipped one, with what the case says.

    Args:
        subject: Whose run it may be.
        case: Says crop, batch, precision and whether to compile.
        data: Further settings of how pictures are read.
    """
    recipe = subject.recipe or load_recipe(SHIPPED[subject.task]).recipe
    model = {"arch": subject.arch.name, "width": subject.arch.width, "weights": None}
    train: dict[str, Any] = {"batch_size": case.batch, "accumulate": 1, "compile": case.compiled}
    if case.precision is not None:
        train["precision"] = case.precision
    return recipe.model_copy(
        update={
            "model": recipe.model.model_copy(update=model),
            "data": recipe.data.model_copy(update={"classes": subject.classes} | data),
            "augment": recipe.augment.model_copy(update={"crop": max(case.size)}),
            "train": recipe.train.model_copy(update=train),
        }
    )


def _never_read(recipe: Recipe) -> Material:
    none = Path("none")
    sample = ClassSample(none, 0) if recipe.task == "classification" else Sample(none, None)
    return Material(
        train=[sample] * recipe.train.batch_size,
        val=[],
        statistics=IMAGENET,
        class_set=generic(recipe.data.classes),
        root=none,
    )


def _batch(recipe: Recipe, case: Case, device: torch.device) -> Batch:
    random = torch.Generator().manual_seed(0)
    classes = recipe.data.classes
    if recipe.task == "classification":
        labels = torch.randint(classes, (case.batch,), generator=random)
    else:
        shape = (case.batch, *case.size)
        labels = torch.randint(classes, shape, dtype=torch.uint8, generator=random)
    return Batch(torch.from_numpy(noise(case)).to(device), labels.to(device))

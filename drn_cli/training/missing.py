"""What a training run would stop for, found without starting it: all of it, not the first."""

import importlib.util
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import torch

from drn_cli.errors import DrnError
from drn_cli.files import user_path
from drn_cli.formatting import size
from drn_cli.networks.catalog import KEYWORDS
from drn_cli.networks.download import verify_checksum, weights_folder
from drn_cli.networks.published import published
from drn_cli.recipe.schema import Recipe
from drn_cli.training.optimiser import make_optimiser
from drn_cli.training.setup import check_split
from drn_cli.training.tasks import DataBundle, task_of

Result = TypeVar("Result")


def find_material(recipe: Recipe, processes: int) -> tuple[DataBundle | None, list[str], list[str]]:
    """Find the data, look at some of them, and share them out.

    Returns:
        What there is, None if it cannot be trained with at all; what is wrong; what is odd.
    """
    odd: list[str] = []
    problems: list[str] = []
    task = task_of(recipe)
    material = _try(lambda: task.find_material(recipe), problems)
    if material is not None:
        images = len(material.train)
        odd = _try(lambda: task.look_over(material), problems) or []
        _try(lambda: check_split(recipe, images, processes), problems)
    return material, problems, odd


def _try(work: Callable[[], Result], problems: list[str]) -> Result | None:
    try:
        return work()
    except DrnError as error:
        problems.append(str(error))
        return None


def missing_weights(recipe: Recipe) -> Iterator[str]:
    """See whether the weights to start from are on this machine; downloads nothing."""
    weights, arch = recipe.model.weights, recipe.model.arch
    if weights is None:
        return
    if weights not in KEYWORDS:
        if not user_path(weights).is_file():
            yield f"model.weights: {weights}: no such file (give a file, {' or '.join(KEYWORDS)})"
        return
    try:
        files = published(arch, weights)
    except DrnError as error:
        yield f"model.weights: {error}"
        return
    folder = weights_folder()
    for file in files:
        path = folder / file.name
        if path.is_file() and verify_checksum(path, file):
            return
        if file.archived and any((folder / name).is_file() for name in file.download_names):
            return
    yield f"model.weights: {files[0].name} is not in {folder} (the run would download it)"


def missing_options(recipe: Recipe) -> Iterator[str]:
    """See whether settings go together, and whether what they need is installed."""
    train = recipe.train
    try:
        make_optimiser(train, torch.nn.Linear(1, 1), torch.device("cpu"))
    except DrnError as error:
        yield str(error)
    if train.tensorboard and importlib.util.find_spec("tensorboard") is None:
        yield "train.tensorboard: it is not installed (pip install 'drn-cli[tensorboard]')"


def missing_room(folder: Path, needed: int) -> Iterator[str]:
    """See whether a run folder, which need not exist, can be written and has room.

    Args:
        folder: The run folder.
        needed: What the run will write, in bytes.
    """
    place = folder.absolute()
    while not place.exists():
        place = place.parent
    if not place.is_dir() or not os.access(place, os.W_OK | os.X_OK):
        yield f"{folder}: cannot be written (choose another --run-dir)"
        return
    free = shutil.disk_usage(place).free
    if free < needed:
        yield (
            f"{folder}: {size(free)} are free on this disk, and the checkpoints need "
            f"{size(needed)} (make room, choose another --run-dir, or lower train.keep_last)"
        )

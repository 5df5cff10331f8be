"""Checks of a dry run: every reason why a training run could not start or finish."""

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
from drn_cli.training.setup import check_batch_size
from drn_cli.training.tasks import DataBundle, task_of
from drn_cli.training.tensorboard import check_installed

Result = TypeVar("Result")


def check_data(recipe: Recipe, processes: int) -> tuple[DataBundle | None, list[str], list[str]]:
    """Load the lists, read some of the files, and check the batch size.

    Returns:
        The data, None if they cannot be loaded; problems; warnings.
    """
    warnings: list[str] = []
    problems: list[str] = []
    task = task_of(recipe)
    data = _try(lambda: task.load_data(recipe), problems)
    if data is not None:
        images = len(data.train)
        warnings = _try(lambda: task.check_samples(data), problems) or []
        _try(lambda: check_batch_size(recipe, images, processes), problems)
    return data, problems, warnings


def _try(work: Callable[[], Result], problems: list[str]) -> Result | None:
    try:
        return work()
    except DrnError as error:
        problems.append(str(error))
        return None


def missing_weights(recipe: Recipe) -> Iterator[str]:
    """Check that the initial weights are cached or a file; downloads nothing."""
    weights, arch = recipe.model.weights, recipe.model.arch
    if weights is None:
        return
    if weights not in KEYWORDS:
        if not user_path(weights).is_file():
            yield f"model.weights: {weights}: no such file (use a file, {' or '.join(KEYWORDS)})"
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
    yield f"model.weights: {files[0].name} is not cached in {folder} (the run downloads it)"


def missing_options(recipe: Recipe) -> Iterator[str]:
    """Check that optimizer settings are consistent and optional packages are installed."""
    problems: list[str] = []
    model, cpu = torch.nn.Linear(1, 1), torch.device("cpu")
    _try(lambda: make_optimiser(recipe.train, model, cpu), problems)
    if recipe.train.tensorboard:
        _try(check_installed, problems)
    yield from problems


def missing_disk_space(folder: Path, needed: int) -> Iterator[str]:
    """Check that a run directory, which need not exist yet, is writable and has enough space.

    Args:
        folder: The run directory.
        needed: Bytes that the run will write.
    """
    parent = folder.absolute()
    while not parent.exists():
        parent = parent.parent
    if not parent.is_dir() or not os.access(parent, os.W_OK | os.X_OK):
        yield f"{folder}: cannot be written (choose another --run-dir)"
        return
    free = shutil.disk_usage(parent).free
    if free < needed:
        yield str(not_enough_space(folder, free, needed))


def not_enough_space(folder: Path, free: int, needed: int) -> DrnError:
    """Return the error for a disk with too few free bytes for the checkpoints."""
    return DrnError(
        f"{folder}: not enough disk space: {size(free)} free, checkpoints need {size(needed)}",
        "free some, choose another --run-dir, or lower train.keep_last",
    )

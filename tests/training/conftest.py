"""Fixtures of the training tests: networks of width 1/16, where only the pipeline matters."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from training_runs import ALONE, prepare_in

from drn_cli.training.setup import TrainState

Prepare = Callable[..., TrainState]


@pytest.fixture(scope="session")
def recipe_file(thin_recipe_file: Path) -> Path:
    return thin_recipe_file


@pytest.fixture(scope="session")
def trained(thin_trained: Any) -> Any:
    return thin_trained


@pytest.fixture
def prepare(recipe_file: Path) -> Prepare:
    """Build the training state of `recipe_file` with overrides, for a single process."""
    return lambda *overrides: prepare_in(ALONE, recipe_file, overrides)

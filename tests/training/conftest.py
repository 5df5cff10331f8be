"""What the tests of training share."""

from collections.abc import Callable
from pathlib import Path

import pytest
from training_runs import ALONE, prepare_in

from drn_cli.training.setup import TrainState

Prepare = Callable[..., TrainState]


@pytest.fixture
def prepare(recipe_file: Path) -> Prepare:
    """Set `recipe_file` up with overrides, as the only process."""
    return lambda *overrides: prepare_in(ALONE, recipe_file, overrides)

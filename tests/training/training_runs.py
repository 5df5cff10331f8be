"""Training in this process, for tests, and what a run leaves behind."""

import itertools
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open

from drn_cli.distributed.group import Group
from drn_cli.recipe.loading import load_recipe
from drn_cli.runs import Run
from drn_cli.training import loop
from drn_cli.training.resuming import RunPlan
from drn_cli.training.setup import TrainState, set_up
from drn_cli.training.step import take_step
from drn_cli.training.tasks import task_of

ALONE = Group(0, 1, torch.device("cpu"))


def prepare_in(group: Group, recipe_file: Path, overrides: tuple[str, ...]) -> TrainState:
    recipe = load_recipe(str(recipe_file), overrides).recipe
    return set_up(recipe, task_of(recipe).find_material(recipe), group)


def go(training: TrainState, run: Run, *, start: Path | None = None) -> signal.Signals | None:
    """Train in a folder, from the beginning or from a checkpoint."""
    return loop.train(training, RunPlan(run, "easy", training.recipe, start))


def interrupt_after(
    steps: int, monkeypatch: pytest.MonkeyPatch, number: int = signal.SIGINT
) -> None:
    """Send this process a signal while it takes a step."""
    counter = itertools.count(1)

    def step(*arguments: Any) -> None:
        take_step(*arguments)
        if next(counter) == steps:
            signal.raise_signal(number)

    monkeypatch.setattr(loop, "take_step", step)


def content(run: Run) -> dict[str, Any]:
    """Read `last.pt`, without the clock, which no two runs share."""
    found: dict[str, Any] = torch.load(run.last, weights_only=True)
    del found["seconds"]
    return found


def assert_same_run(found: Run, expected: Run) -> None:
    """Weights, statistics, momentum, average, random states and progress, bit for bit."""
    one, other = content(found), content(expected)
    assert one.keys() == other.keys() and one["optimiser"]
    _assert_equal(one, other)


def _assert_equal(one: Any, other: Any, where: str = "") -> None:
    if isinstance(one, torch.Tensor):
        assert torch.equal(one, other), where
    elif isinstance(one, dict):
        assert one.keys() == other.keys(), where
        for key in one:
            _assert_equal(one[key], other[key], f"{where}/{key}")
    elif isinstance(one, list | tuple):
        assert len(one) == len(other), where
        for number, pair in enumerate(zip(one, other, strict=True)):
            _assert_equal(*pair, f"{where}/{number}")
    else:
        assert one == other, where


def read_best(run: Run) -> tuple[dict[str, str], dict[str, torch.Tensor]]:
    with safe_open(run.best, "pt") as file:
        return file.metadata(), {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118


def assert_same_best(found: Run, expected: Run) -> None:
    assert read_best(found)[0] == read_best(expected)[0]
    torch.testing.assert_close(read_best(found)[1], read_best(expected)[1], rtol=0, atol=0)
    assert found.scores.read_bytes() == expected.scores.read_bytes()

"""Train in this process, and compare runs."""

import itertools
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from drn_cli.distributed.group import Group
from drn_cli.recipe.loading import load_recipe
from drn_cli.runs import Run
from drn_cli.training import loop
from drn_cli.training.resuming import RunPlan
from drn_cli.training.setup import TrainState, build_train_state
from drn_cli.training.tasks import task_of

ALONE = Group(0, 1, torch.device("cpu"))


def prepare_in(group: Group, recipe_file: Path, overrides: tuple[str, ...]) -> TrainState:
    recipe = load_recipe(str(recipe_file), overrides).recipe
    return build_train_state(recipe, task_of(recipe).load_data(recipe), group)


def go(
    training: TrainState,
    run: Run,
    *,
    start: Path | None = None,
    stop_at: int | None = None,
    number: int = signal.SIGINT,
) -> signal.Signals | None:
    """Train in a run directory, from the start or from a checkpoint.

    Args:
        training: The training state.
        run: The run directory.
        start: The checkpoint.
        stop_at: Step of this process in which it receives a signal, from 1.
        number: The signal.
    """
    if stop_at is not None:
        call_in_step(training, stop_at, lambda: signal.raise_signal(number))
    return loop.train(training, RunPlan(run, "easy", training.recipe, start))


def call_in_step(training: TrainState, step: int, action: Callable[[], object]) -> None:
    """Call a function in a step of this process, counted from 1."""
    runner, passes = training.runner, itertools.count()
    first = (step - 1) * training.recipe.train.accumulate

    def run(images: torch.Tensor) -> torch.Tensor:
        if next(passes) == first:
            action()
        return runner(images)

    training.runner = run


def crash() -> None:
    raise RuntimeError("crash")


def content(run: Run) -> dict[str, Any]:
    """Return the content of `last.pt` without its training time, which differs between runs."""
    found: dict[str, Any] = torch.load(run.last, weights_only=True)
    del found["seconds"]
    return found


def assert_same_run(found: Run, expected: Run) -> None:
    """Compare weights, statistics, momentum, EMA, random states and progress bit for bit."""
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

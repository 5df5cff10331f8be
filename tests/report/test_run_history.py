"""What is read of a run's files, as `drn runs --json` shows it."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from drn_cli.cli.app import app
from drn_cli.runs import Run

from .runs import (
    ENVIRONMENT,
    recipe,
    segmentation_val,
    train_line,
    whole_history,
    write_lines,
    write_run,
)

# Trains in a folder, as far as others can see, until its standard input ends.
TRAINING = """
import sys
from pathlib import Path
from drn_cli.runs import Run
with Run(Path(sys.argv[1])).claimed():
    print("claimed", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return write_run(Run(tmp_path / "run"), recipe(tmp_path), whole_history(), ENVIRONMENT)


def listed(run: Run) -> dict[str, Any]:
    done = CliRunner().invoke(app, ["runs", str(run.folder), "--json"])
    assert done.exit_code == 0, done.output
    [found] = json.loads(done.stdout)
    return found


def test_a_finished_run(run: Run) -> None:
    found = listed(run)
    assert found["loss"] == pytest.approx(10 / 45)
    expected = {
        "network": "drn_a_18",
        "task": "segmentation",
        "state": "finished",
        "step": 40,
        "epoch": 4.0,
        "epochs": 4.0,
        "best": 0.5,
        "best_epoch": 3.0,
        "seconds": 4000.5,
        "started": "2026-01-31T12:00:00+00:00",
    }
    assert expected.items() <= found.items()


@pytest.mark.parametrize(
    ("lines", "state"),
    [
        (whole_history("interrupted"), "interrupted"),
        ([*whole_history("interrupted"), train_line(41)], "finished"),  # resumed
        ([train_line(1)], "unfinished"),
        ([segmentation_val(3, 0.5)], "unfinished"),
        ([segmentation_val(4, 0.5)], "finished"),  # an older version wrote no more
        ([], "unfinished"),
    ],
)
def test_states(run: Run, lines: list[dict[str, Any]], state: str) -> None:
    write_lines(run.metrics, lines)
    assert listed(run)["state"] == state


def test_a_run_that_a_process_trains_is_running(run: Run) -> None:
    words = [sys.executable, "-c", TRAINING, str(run.folder)]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as training:
        assert training.stdout is not None
        assert training.stdout.readline() == b"claimed\n"
        assert listed(run)["state"] == "running"
        training.communicate()
    assert listed(run)["state"] == "finished"


def test_a_run_that_has_only_begun(run: Run) -> None:
    run.metrics.unlink()
    run.environment.unlink()
    found = listed(run)
    assert found["state"] == "unfinished"
    for key in ("best", "best_epoch", "started", "loss", "seconds"):
        assert found[key] is None
    assert (found["step"], found["epoch"]) == (0, 0)


@pytest.mark.parametrize(
    ("rest", "step"),
    [
        ('{"kind": "train", "step": 2, "ep', 1),
        (json.dumps(train_line(2)), 1),  # a line that only lacks its end may be half of a number
        ('\0\n[1]\n{"kind": "train"}\n' + json.dumps(train_line(3)) + "\n", 3),
    ],
)
def test_damaged_lines_are_left_out(run: Run, rest: str, step: int) -> None:
    write_lines(run.metrics, [train_line(1)])
    with run.metrics.open("a") as file:
        file.write(rest)
    assert listed(run)["step"] == step


def test_the_last_finite_loss_and_the_first_of_equal_bests(run: Run) -> None:
    vals = [segmentation_val(epoch, miou) for epoch, miou in ((1, 0.3), (2, 0.4), (3, 0.4))]
    write_lines(run.metrics, [*vals, train_line(31, loss=0.5), train_line(32, loss=None)])
    with run.metrics.open("a") as file:
        file.write('{"kind":"train","step":33,"loss":NaN}\n')
        file.write('{"kind":"train","step":34,"loss":true}\n')
        file.write(f'{{"kind":"train","step":35,"loss":1{"0" * 400}}}\n')
    assert (listed(run)["loss"], listed(run)["best_epoch"]) == (0.5, 2)


@pytest.mark.parametrize(
    ("file", "text", "problem"),
    [
        ("recipe.yaml", "a: b\n  c: [", "recipe.yaml:2:4: not valid YAML"),
        ("recipe.yaml", "- 1", "recipe.yaml:1: should be a mapping"),
        ("recipe.yaml", "task: segmentation", "not a recipe: lacks task, model or train"),
        ("recipe.yaml", "task: x\nmodel: {arch: y}\ntrain: {epochs: 1}", "task: 'x' is none of"),
        ("recipe.yaml", "task: 3\nmodel: {arch: y}\ntrain: {epochs: 1}", "task: a int is none of"),
        (
            "recipe.yaml",
            "task: segmentation\nmodel: {arch: [y]}\ntrain: {epochs: 1}",
            "model.arch: a list, not a name",
        ),
        (
            "recipe.yaml",
            "task: segmentation\nmodel: {arch: y}\ntrain: {epochs: many}",
            "train.epochs: is no number",
        ),
        ("environment.json", "{", "environment.json"),
        ("environment.json", "[]", "environment.json: should hold an object"),
    ],
)
def test_damaged_files_are_named(run: Run, file: str, text: str, problem: str) -> None:
    (run.folder / file).write_text(text)
    assert problem in listed(run)["error"]


def test_a_start_that_is_no_time_is_not_known(run: Run) -> None:
    run.environment.write_text('{"started": "yesterday"}')
    assert listed(run)["started"] is None
    run.environment.write_text('{"started": "2026-01-31T12:00:00"}')
    assert listed(run)["started"] == "2026-01-31T12:00:00+00:00"

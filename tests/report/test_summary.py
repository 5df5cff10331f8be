import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest

from drn_cli.errors import DrnError
from drn_cli.report.summary import summarise
from drn_cli.runs import Run

from .folders import (
    ENVIRONMENT,
    segmentation_recipe,
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
    return write_run(tmp_path / "run", segmentation_recipe(tmp_path), whole_history())


def test_a_finished_run(run: Run) -> None:
    summary = summarise(run)
    assert (summary.network, summary.task, summary.state) == (
        "drn_a_18",
        "segmentation",
        "finished",
    )
    assert summary.started == datetime(2026, 1, 31, 12, tzinfo=UTC)
    told = summary.to_json()
    assert told.pop("loss") == pytest.approx(0.2222, abs=1e-4)
    assert told == {
        "run": str(run.folder),
        "network": "drn_a_18",
        "width": 1.0,
        "task": "segmentation",
        "state": "finished",
        "step": 40,
        "epoch": 4.0,
        "epochs": 4.0,
        "score": "miou",
        "best": 0.5,
        "best_epoch": 3.0,
        "seconds": 4000.5,
        "started": "2026-01-31T12:00:00+00:00",
    }


def test_states(run: Run) -> None:
    def state(*lines: dict[str, object]) -> str:
        write_lines(run.metrics, list(lines))
        return summarise(run).state

    assert state(*whole_history("interrupted")) == "interrupted"
    assert state(train_line(1)) == "unfinished"
    assert state(segmentation_val(3, 0.5)) == "unfinished"
    assert state(segmentation_val(4, 0.5)) == "finished"  # an older version wrote no more


def test_a_run_that_somebody_trains_is_running_whatever_was_before(run: Run) -> None:
    words = [sys.executable, "-c", TRAINING, str(run.folder)]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as training:
        assert training.stdout is not None
        assert training.stdout.readline() == b"claimed\n"
        assert summarise(run).state == "running"
        training.communicate()
    assert summarise(run).state == "finished"


def test_a_run_that_has_only_begun(run: Run) -> None:
    run.metrics.unlink()
    run.environment.unlink()
    summary = summarise(run)
    assert (summary.state, summary.score, summary.started) == ("unfinished", None, None)
    assert summary.to_json()["best_epoch"] is None


def test_a_recipe_of_another_version_is_enough(run: Run) -> None:
    run.recipe.write_text("task: classification\nmodel: {arch: drn_x}\ntrain: {epochs: 3, new: 1}")
    summary = summarise(run)
    assert (summary.network, summary.epochs, summary.score_name) == ("drn_x", 3, "top-1")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (None, "no run folder, it has no recipe.yaml"),
        ("a: b\n  c: [", r"recipe\.yaml:2:4: not valid YAML"),
        ("- 1", r"recipe\.yaml:1: should be a mapping"),
        ("task: x\nmodel: {arch: y}\ntrain: {epochs: 1}", "task: 'x' is none of"),
        ("task: segmentation\nmodel: {arch: y}\ntrain: {epochs: many}", "epochs: is no number"),
    ],
)
def test_a_broken_recipe_is_named(run: Run, text: str | None, said: str) -> None:
    run.recipe.unlink() if text is None else run.recipe.write_text(text)
    with pytest.raises(DrnError, match=said):
        summarise(run)


def test_a_broken_environment_is_named(run: Run) -> None:
    for text in ("{", "[]"):
        run.environment.write_text(text)
        with pytest.raises(DrnError, match=r"environment\.json"):
            summarise(run)


def test_a_start_that_is_no_time_is_not_known(run: Run) -> None:
    run.environment.write_text('{"started": "yesterday"}')
    assert summarise(run).started is None
    assert summarise(run).environment != ENVIRONMENT

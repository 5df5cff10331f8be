"""A resumed run equals the uninterrupted one, bit for bit."""

import itertools
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from training_runs import (
    ALONE,
    assert_same_best,
    assert_same_run,
    call_in_step,
    content,
    crash,
    go,
    prepare_in,
)

from drn_cli.data.order import SampleKey
from drn_cli.distributed.group import Group
from drn_cli.errors import DrnError
from drn_cli.runs import Run

EVERYTHING = (
    "train.epochs=2",
    "train.accumulate=2",
    "train.ema=0.9",
    "train.clip_grad_norm=5",
    "train.schedule.kind=cosine",
    "train.schedule.warmup=0.5",
    "train.optimiser.nesterov=true",
    "loss.kind=ohem",
    "data.workers=2",
    "train.log_every=2",
)


@pytest.mark.parametrize(("step", "place"), [(4, (1, 1)), (6, (1, 3)), (11, (3, 2))], ids=str)
def test_a_resumed_run_equals_the_uninterrupted_one(
    prepare, trained, tmp_path, read_metrics, step, place
):
    """Interrupted within an epoch, after its last step, and after a line of metrics."""
    run = Run(tmp_path / "run")
    before = signal.getsignal(signal.SIGINT)
    assert go(prepare(), run, stop_at=step) is signal.SIGINT
    assert signal.getsignal(signal.SIGINT) is before
    progress = content(run)["progress"]
    assert (progress["epoch"], progress["step_in_epoch"]) == place
    assert progress["steps"] == step
    assert go(prepare(), run, start=run.last) is None
    assert_same_run(run, Run(trained.folder))
    assert read_metrics(run.folder) == read_metrics(trained.folder)
    assert_same_best(run, Run(trained.folder))


@pytest.fixture(scope="module")
def uninterrupted(recipe_file, tmp_path_factory):
    """An uninterrupted run with everything that has a state; tests only read it."""
    run = Run(tmp_path_factory.mktemp("uninterrupted") / "run")
    assert go(prepare_in(ALONE, recipe_file, EVERYTHING), run) is None
    return run


@pytest.mark.parametrize(("step", "number"), [(1, signal.SIGINT), (5, signal.SIGHUP)])
def test_resumes_everything_that_has_a_state(
    prepare, uninterrupted, tmp_path, read_metrics, step, number
):
    """Gradient accumulation, EMA, clipping, warm-up and two data loader workers."""
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # the tests themselves may run under nohup
    run = Run(tmp_path / "run")
    assert go(prepare(*EVERYTHING), run, stop_at=step, number=number) is number
    assert content(run)["progress"]["steps"] == step
    assert go(prepare(*EVERYTHING), run, start=run.last) is None
    assert_same_run(run, uninterrupted)
    assert read_metrics(run.folder) == read_metrics(uninterrupted.folder)
    assert_same_best(run, uninterrupted)


@pytest.mark.parametrize("kind", ["adamw"])
def test_resumes_adamw(prepare, tmp_path, kind):
    overrides = ("train.epochs=1", f"train.optimiser.kind={kind}", "train.lr=1e-4")
    whole, run = Run(tmp_path / "whole"), Run(tmp_path / "run")
    go(prepare(*overrides), whole)
    go(prepare(*overrides), run, stop_at=1)
    go(prepare(*overrides), run, start=run.last)
    assert_same_run(run, whole)
    with pytest.raises(DrnError, match="was trained with adamw, not sgd"):
        go(prepare("train.epochs=1"), run, start=run.last)


def train_in_two(
    group: Group, recipe_file: Path, folder: Path, overrides: tuple[str, ...], stop_at: int | None
) -> list[list[SampleKey]]:
    """Train as one of several processes; return its samples by micro-batch."""
    training = prepare_in(group, recipe_file, overrides)
    run = Run(folder)
    start = run.last if run.last.is_file() else None
    # A signal to one of the ranks stops both.
    go(training, run, start=start, stop_at=stop_at if group.rank == 1 else None)
    return list(training.batches.order.parts(0, group.rank, group.world))


def test_two_processes_resume_exactly(spawn, recipe_file, tmp_path, read_metrics):
    overrides = tuple(word for word in EVERYTHING if "workers" not in word)
    whole, run = tmp_path / "whole", tmp_path / "run"
    spawn(train_in_two, 2, recipe_file, whole, overrides, None)
    spawn(train_in_two, 2, recipe_file, run, overrides, 2)
    assert content(Run(run))["progress"]["steps"] == 2
    spawn(train_in_two, 2, recipe_file, run, overrides, None)
    assert_same_run(Run(run), Run(whole))
    assert read_metrics(run) == read_metrics(whole)
    assert_same_best(Run(run), Run(whole))


def test_another_world_size_keeps_the_samples_and_their_order(
    spawn, prepare, recipe_file, tmp_path, read_metrics, caplog
):
    """Started in one process and finished in two."""
    overrides = ("train.epochs=1", "train.lr=0.0001")
    whole, run = Run(tmp_path / "whole"), Run(tmp_path / "run")
    go(prepare(*overrides), whole)
    go(prepare(*overrides), run, stop_at=1)
    parts = spawn(train_in_two, 2, recipe_file, run.folder, overrides, None)
    together = [[*first, *second] for first, second in zip(*parts, strict=True)]
    assert together == list(prepare(*overrides).batches.order.parts(0, 0, 1))
    losses = [
        [record["loss"] for record in read_metrics(each.folder) if record["kind"] == "train"]
        for each in (run, whole)
    ]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
    with caplog.at_level("INFO", "drn_cli"):
        go(prepare(*overrides), run, start=run.last)
    assert (
        "number of processes changed from 2 to 1: sample order and crops stay the same; sums are "
        "rounded differently"
    ) in caplog.text


def test_resumes_after_a_crash_from_the_last_checkpoint(prepare, tmp_path, read_metrics):
    """Metrics between checkpoint and crash are replaced."""
    overrides = ("train.epochs=2", "train.batch_size=2", "train.log_every=1")
    whole, run = Run(tmp_path / "whole"), Run(tmp_path / "run")
    go(prepare(*overrides), whole)
    go(prepare(*overrides), run, stop_at=2)
    kept = run.last.read_bytes()
    training = prepare(*overrides)
    call_in_step(training, 3, crash)
    with pytest.raises(RuntimeError, match="crash"):
        go(training, run, start=run.last)
    assert run.last.read_bytes() == kept
    assert read_metrics(run.folder)[-1]["step"] == 4
    assert go(prepare(*overrides), run, start=run.last) is None
    assert read_metrics(run.folder) == read_metrics(whole.folder)
    assert_same_run(run, whole)


class ActingTask:
    """A task that calls a function in its first validation after the pre-flight check."""

    def __init__(self, task: Any, action: Callable[[], object]) -> None:
        self.task, self.action, self.calls = task, action, itertools.count()

    def validate(self, *arguments: Any) -> Any:
        if next(self.calls) == 1:
            self.action()
        return self.task.validate(*arguments)


def test_a_crash_in_validation_loses_no_step(prepare, trained, tmp_path, read_metrics):
    run, training = Run(tmp_path / "run"), prepare()
    training.task = ActingTask(training.task, crash)
    with pytest.raises(RuntimeError, match="crash"):
        go(training, run)
    assert content(run)["progress"]["steps"] == 3
    assert go(prepare(), run, start=run.last) is None
    assert_same_run(run, Run(trained.folder))
    assert read_metrics(run.folder) == read_metrics(trained.folder)


def test_a_failure_after_a_validation_does_not_log_it_twice(
    prepare, trained, tmp_path, read_metrics
):
    run = Run(tmp_path / "run")
    run.scores.mkdir(parents=True)  # it cannot be written after the validation is logged
    with pytest.raises((DrnError, OSError), match=r"best\.json"):
        go(prepare(), run)
    assert [record["kind"] for record in read_metrics(run.folder)] == ["train", "val"]
    run.scores.rmdir()
    assert go(prepare(), run, start=run.last) is None
    assert read_metrics(run.folder) == read_metrics(trained.folder)
    assert_same_best(run, Run(trained.folder))


def test_a_signal_stops_validation_and_resuming_repeats_it(
    prepare, trained, tmp_path, read_metrics
):
    run, training = Run(tmp_path / "run"), prepare()
    training.task = ActingTask(training.task, lambda: signal.raise_signal(signal.SIGUSR1))
    assert go(training, run) is signal.SIGUSR1
    assert [record["kind"] for record in read_metrics(run.folder)] == ["train", "end"]
    assert go(prepare(), run, start=run.last) is None
    assert_same_run(run, Run(trained.folder))
    assert read_metrics(run.folder) == read_metrics(trained.folder)


def test_resuming_a_finished_run_changes_nothing(prepare, trained, tmp_path, read_metrics):
    run = Run(Path(shutil.copytree(trained.folder, tmp_path / "run")))
    assert go(prepare(), run, start=run.last) is None
    assert_same_run(run, Run(trained.folder))
    assert read_metrics(run.folder) == read_metrics(trained.folder)


def test_resumes_from_an_earlier_checkpoint(prepare, tmp_path, read_metrics):
    """Steps of later checkpoints are trained again, and their files are removed."""
    run = Run(tmp_path / "run")
    overrides = ("train.epochs=2", "train.save_every_steps=1", "train.keep_last=3")
    go(prepare(*overrides), run)
    names = [path.name for path in run.earlier_checkpoints()]
    assert names == ["step-00000004.pt", "step-00000005.pt", "step-00000006.pt"]
    whole, metrics = content(run), read_metrics(run.folder)
    assert go(prepare(*overrides), run, start=run.earlier_checkpoints()[0]) is None
    assert [path.name for path in run.earlier_checkpoints()] == names
    assert content(run)["progress"] == whole["progress"]
    assert read_metrics(run.folder) == metrics


def test_another_batch_size_resumes_at_the_same_image(prepare, tmp_path):
    run = Run(tmp_path / "run")
    go(prepare("train.epochs=1"), run, stop_at=2)
    training, seen = prepare("train.epochs=1", "train.batch_size=3"), []
    runner = training.runner
    training.runner = lambda images: seen.append(len(images)) or runner(images)
    go(training, run, start=run.last)
    assert seen == [3, 3]  # 8 of 12 images were seen: two batches of 3 of the rest, from image 6


def test_refuses_the_checkpoint_of_another_network(prepare, trained, tmp_path):
    run = Run(Path(shutil.copytree(trained.folder, tmp_path / "run")))
    with pytest.raises(DrnError, match="does not fit this run"):
        go(prepare("model.arch=drn_d_22"), run, start=run.last)

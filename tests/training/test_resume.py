"""A run that was interrupted and goes on is the run that never stopped, bit for bit."""

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
    content,
    go,
    interrupt_after,
    prepare_in,
)

from drn_cli.data.order import SampleKey
from drn_cli.distributed.group import Group
from drn_cli.errors import DrnError
from drn_cli.runs import Run
from drn_cli.training import loop
from drn_cli.training.step import take_step

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
def test_a_resumed_run_is_the_uninterrupted_one(
    prepare, trained, tmp_path, monkeypatch, read_metrics, step, place
):
    """Interrupted in the middle of an epoch, after its last step, and after an early line."""
    run = Run(tmp_path / "run")
    before = signal.getsignal(signal.SIGINT)
    interrupt_after(step, monkeypatch)
    assert go(prepare(), run) is signal.SIGINT
    assert signal.getsignal(signal.SIGINT) is before
    progress = content(run)["progress"]
    assert (progress["epoch"], progress["step_in_epoch"]) == place
    assert progress["steps"] == step
    monkeypatch.undo()
    assert go(prepare(), run, start=run.last) is None
    assert_same_run(run, Run(trained.folder))
    assert read_metrics(run.folder) == read_metrics(trained.folder)
    assert_same_best(run, Run(trained.folder))


@pytest.fixture(scope="module")
def undisturbed(recipe_file, tmp_path_factory):
    """A run with all that has a state, which is only read."""
    run = Run(tmp_path_factory.mktemp("undisturbed") / "run")
    assert go(prepare_in(ALONE, recipe_file, EVERYTHING), run) is None
    return run


@pytest.mark.parametrize(("step", "number"), [(1, signal.SIGINT), (5, signal.SIGHUP)])
def test_with_everything_that_has_a_state(
    prepare, undisturbed, tmp_path, monkeypatch, read_metrics, step, number
):
    """Accumulation, the average, clipping, a warm-up, and two reading processes."""
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # the tests themselves may run under nohup
    run = Run(tmp_path / "run")
    interrupt_after(step, monkeypatch, number)
    assert go(prepare(*EVERYTHING), run) is number
    assert content(run)["progress"]["steps"] == step
    monkeypatch.undo()
    assert go(prepare(*EVERYTHING), run, start=run.last) is None
    assert_same_run(run, undisturbed)
    assert read_metrics(run.folder) == read_metrics(undisturbed.folder)
    assert_same_best(run, undisturbed)


@pytest.mark.parametrize("kind", ["adamw"])
def test_with_another_optimiser(prepare, tmp_path, monkeypatch, kind):
    overrides = ("train.epochs=1", f"train.optimiser.kind={kind}", "train.lr=1e-4")
    whole, run = Run(tmp_path / "whole"), Run(tmp_path / "run")
    go(prepare(*overrides), whole)
    interrupt_after(1, monkeypatch)
    go(prepare(*overrides), run)
    monkeypatch.undo()
    go(prepare(*overrides), run, start=run.last)
    assert_same_run(run, whole)
    with pytest.raises(DrnError, match="was trained with adamw, not sgd"):
        go(prepare("train.epochs=1"), run, start=run.last)


def train_in_two(
    group: Group, recipe_file: Path, folder: Path, overrides: tuple[str, ...], stop_after: int
) -> list[list[SampleKey]]:
    """Train as one of several processes; give the samples that this one read, pass by pass."""
    training = prepare_in(group, recipe_file, overrides)
    run = Run(folder)
    start = run.last if run.last.is_file() else None
    with pytest.MonkeyPatch.context() as patch:
        if stop_after and group.rank == 1:  # one of them is enough
            interrupt_after(stop_after, patch)
        go(training, run, start=start)
    return list(training.batches.order.parts(0, group.rank, group.world))


def test_two_processes_resume_exactly(spawn, recipe_file, tmp_path, read_metrics):
    overrides = tuple(word for word in EVERYTHING if "workers" not in word)
    whole, run = tmp_path / "whole", tmp_path / "run"
    spawn(train_in_two, 2, recipe_file, whole, overrides, 0)
    spawn(train_in_two, 2, recipe_file, run, overrides, 2)
    assert content(Run(run))["progress"]["steps"] == 2
    spawn(train_in_two, 2, recipe_file, run, overrides, 0)
    assert_same_run(Run(run), Run(whole))
    assert read_metrics(run) == read_metrics(whole)
    assert_same_best(Run(run), Run(whole))


def test_in_another_number_of_processes_the_samples_stay(
    spawn, prepare, recipe_file, tmp_path, monkeypatch, read_metrics, caplog
):
    """Begun in one process, ended in two: the same images in the same order, and it says so."""
    overrides = ("train.epochs=1", "train.lr=0.0001")
    whole, run = Run(tmp_path / "whole"), Run(tmp_path / "run")
    go(prepare(*overrides), whole)
    interrupt_after(1, monkeypatch)
    go(prepare(*overrides), run)
    monkeypatch.undo()
    parts = spawn(train_in_two, 2, recipe_file, run.folder, overrides, 0)
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
        "trained in 2 processes before, in 1 process now: the order of the samples and their "
        "crops stay the same, sums are rounded in another order"
    ) in caplog.text


def _crash_after(steps: int) -> Callable[..., Any]:
    counter = itertools.count(1)

    def step(*arguments: Any) -> None:
        if next(counter) > steps:
            raise RuntimeError("crash")
        take_step(*arguments)

    return step


def test_a_run_that_crashed_goes_on_from_its_last_checkpoint(
    prepare, trained, tmp_path, monkeypatch, read_metrics
):
    """What was measured between checkpoint and crash is measured again, not twice."""
    run = Run(tmp_path / "run")
    interrupt_after(2, monkeypatch)  # the checkpoint; then five steps more, and the crash
    go(prepare(), run)
    monkeypatch.undo()
    kept = run.last.read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(loop.CheckpointManager, "save", lambda *_: None)
        patch.setattr(loop, "take_step", _crash_after(5))
        with pytest.raises(RuntimeError, match="crash"):
            go(prepare(), run, start=run.last)
    assert run.last.read_bytes() == kept
    assert [record["step"] for record in read_metrics(run.folder)][-1] > 3
    assert go(prepare(), run, start=run.last) is None
    assert read_metrics(run.folder) == read_metrics(trained.folder)
    assert_same_run(run, Run(trained.folder))


def test_a_crash_in_validation_costs_no_step(prepare, trained, tmp_path, monkeypatch, read_metrics):
    run = Run(tmp_path / "run")

    def fail(*_: Any, **__: Any) -> None:
        raise RuntimeError("crash")

    monkeypatch.setattr(loop, "validate", fail)
    with pytest.raises(RuntimeError, match="crash"):
        go(prepare(), run)
    assert content(run)["progress"]["steps"] == 3
    monkeypatch.undo()
    assert go(prepare(), run, start=run.last) is None
    assert_same_run(run, Run(trained.folder))
    assert read_metrics(run.folder) == read_metrics(trained.folder)


def test_a_crash_after_a_validation_does_not_count_it_twice(
    prepare, trained, tmp_path, monkeypatch, read_metrics
):
    run = Run(tmp_path / "run")
    record = loop.Trainer._record

    def fail(*arguments: Any) -> None:
        record(*arguments)
        raise RuntimeError("crash")

    monkeypatch.setattr(loop.Trainer, "_record", fail)
    with pytest.raises(RuntimeError, match="crash"):
        go(prepare(), run)
    assert [record["kind"] for record in read_metrics(run.folder)] == ["train", "val"]
    monkeypatch.undo()
    assert go(prepare(), run, start=run.last) is None
    assert read_metrics(run.folder) == read_metrics(trained.folder)
    assert_same_best(run, Run(trained.folder))


def test_a_signal_in_validation_gives_it_up_and_resuming_repeats_it(
    prepare, trained, tmp_path, monkeypatch, read_metrics
):
    run = Run(tmp_path / "run")
    validate = loop.validate

    def signalled(*arguments: Any, **options: Any) -> Any:
        signal.raise_signal(signal.SIGUSR1)
        return validate(*arguments, **options)

    monkeypatch.setattr(loop, "validate", signalled)
    assert go(prepare(), run) is signal.SIGUSR1
    assert [record["kind"] for record in read_metrics(run.folder)] == ["train", "end"]
    monkeypatch.undo()
    assert go(prepare(), run, start=run.last) is None
    assert_same_run(run, Run(trained.folder))
    assert read_metrics(run.folder) == read_metrics(trained.folder)


def test_a_finished_run_has_nothing_left_to_do(prepare, trained, tmp_path, read_metrics):
    run = Run(Path(shutil.copytree(trained.folder, tmp_path / "run")))
    assert go(prepare(), run, start=run.last) is None
    assert_same_run(run, Run(trained.folder))
    assert read_metrics(run.folder) == read_metrics(trained.folder)


def test_an_earlier_checkpoint_is_a_place_to_go_on_from(prepare, tmp_path, read_metrics):
    """What a later checkpoint held is trained anew, and its file goes."""
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


def test_another_batch_size_goes_on_at_the_same_place(prepare, tmp_path, monkeypatch):
    run = Run(tmp_path / "run")
    interrupt_after(2, monkeypatch)
    go(prepare("train.epochs=1"), run)
    monkeypatch.undo()
    seen = []

    def step(training: Any, passes: Any, *rest: Any) -> None:
        seen.append(sum(len(batch.labels) for batch in passes))
        take_step(training, passes, *rest)

    monkeypatch.setattr(loop, "take_step", step)
    go(prepare("train.epochs=1", "train.batch_size=3"), run, start=run.last)
    assert seen == [3, 3]  # of twelve images, eight were seen: at six it goes on


def test_the_checkpoint_of_another_network_is_refused(prepare, trained, tmp_path):
    run = Run(Path(shutil.copytree(trained.folder, tmp_path / "run")))
    with pytest.raises(DrnError, match="does not fit this run"):
        go(prepare("model.arch=drn_d_22"), run, start=run.last)

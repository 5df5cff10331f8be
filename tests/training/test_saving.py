"""When a checkpoint is written, what is kept, and what a failure leaves."""

import io
import multiprocessing
import os
import resource
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from training_runs import assert_same_run, content, go

from drn_cli.errors import DrnError
from drn_cli.runs import Run
from drn_cli.training import loop, saving
from drn_cli.training.checkpoint import TrainProgress, save_checkpoint
from drn_cli.training.saving import CheckpointManager, clear_leftovers


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run(tmp_path / "run")


def names(run: Run) -> list[str]:
    return sorted(path.name for path in run.last.parent.iterdir())


def test_a_checkpoint_is_due_after_steps_or_minutes(prepare, run):
    never = CheckpointManager(prepare("train.save_every_minutes=null"), run)
    assert not any(never.due(step) for step in range(1, 100))
    third = CheckpointManager(prepare("train.save_every_steps=3"), run)
    assert [step for step in range(1, 10) if third.due(step)] == [3, 6, 9]
    assert CheckpointManager(prepare("train.save_every_minutes=1e-9"), run).due(1)
    assert not CheckpointManager(prepare("train.save_every_minutes=1000"), run).due(1)


def test_how_often_it_is_written_changes_no_result(prepare, tmp_path, monkeypatch):
    """Nor does it matter what a killed process has left behind."""
    saved: list[int] = []

    def save(path: Path, training: Any, progress: TrainProgress, seconds: float) -> None:
        saved.append(progress.steps)
        save_checkpoint(path, training, progress, seconds)

    monkeypatch.setattr(saving, "save_checkpoint", save)
    runs = Run(tmp_path / "rare"), Run(tmp_path / "steps"), Run(tmp_path / "minutes")
    cadences = "save_every_minutes=null", "save_every_steps=2", "save_every_minutes=1e-9"
    expected = [0, 3], [0, 2, 3], [0, 1, 2, 3]
    for run, cadence, steps in zip(runs, cadences, expected, strict=True):
        saved.clear()
        assert go(prepare("train.epochs=1", f"train.{cadence}"), run) is None
        assert sorted(set(saved)) == steps
        assert_same_run(run, runs[0])


def test_the_last_few_are_kept_and_the_newest_has_two_names(prepare, run):
    saver = CheckpointManager(prepare("train.keep_last=2"), run)
    for step in (1, 2, 10):
        saver.save(TrainProgress(steps=step))
        assert run.last.samefile(run.checkpoint(step))
    assert names(run) == ["last.pt", "step-00000002.pt", "step-00000010.pt"]
    assert content(run)["progress"]["steps"] == 10
    # What a run that went back to step 2 takes anew is not the last any more.
    saver.save(TrainProgress(steps=3))
    assert names(run) == ["last.pt", "step-00000002.pt", "step-00000003.pt"]
    assert run.last.samefile(run.checkpoint(3))
    CheckpointManager(prepare(), run).save(TrainProgress(steps=4))
    assert names(run) == ["last.pt"]


def test_where_a_file_has_one_name_the_newest_is_copied(prepare, run, monkeypatch):
    def refuse(*_: object) -> None:
        raise OSError("Operation not supported")

    monkeypatch.setattr(os, "link", refuse)
    CheckpointManager(prepare("train.keep_last=2"), run).save(TrainProgress(steps=1))
    assert run.last.read_bytes() == run.checkpoint(1).read_bytes()
    assert names(run) == ["last.pt", "step-00000001.pt"]


@contextmanager
def small_files() -> Iterator[None]:
    """Limit the files that this process writes to less than a checkpoint."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**17, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("keep", [1, 2])
def test_what_cannot_be_written_leaves_the_one_before(prepare, run, keep):
    saver = CheckpointManager(prepare(f"train.keep_last={keep}"), run)
    with small_files(), pytest.raises(DrnError, match="File too large") as first:
        saver.save(TrainProgress(steps=1))
    assert "earlier" not in str(first.value)
    assert names(run) == []
    saver.save(TrainProgress(steps=2))
    before = names(run), run.last.read_bytes()
    with small_files(), pytest.raises(DrnError, match="earlier checkpoint of step 2 is") as second:
        saver.save(TrainProgress(steps=3))
    assert f"go on with: drn train --resume {run.folder}" in str(second.value)
    assert (names(run), run.last.read_bytes()) == before
    # Nor does a process that went on from it know of which step it is.
    with small_files(), pytest.raises(DrnError, match="the earlier checkpoint is whole"):
        CheckpointManager(prepare(f"train.keep_last={keep}"), run).save(TrainProgress(steps=3))


def test_what_a_killed_process_was_writing_goes(run):
    run.last.parent.mkdir(parents=True)
    for name in ("last.pt", "best.safetensors", "step-00000001.pt", ".last.pt.0a1b.tmp"):
        (run.last.parent / name).touch()
    clear_leftovers(run)
    assert names(run) == ["best.safetensors", "last.pt", "step-00000001.pt"]


def test_who_goes_back_finds_no_later_checkpoint_after_a_crash(prepare, run, monkeypatch):
    overrides = ("train.epochs=1", "train.save_every_steps=1", "train.keep_last=3")
    go(prepare(*overrides), run)
    earlier = run.earlier_checkpoints()[0]
    assert earlier == run.checkpoint(1)
    (run.last.parent / ".last.pt.0a1b.tmp").touch()

    def crash(*_: object) -> None:
        raise RuntimeError("crash")

    monkeypatch.setattr(loop, "take_step", crash)
    with pytest.raises(RuntimeError, match="crash"):
        go(prepare(*overrides), run, start=earlier)
    assert content(run)["progress"]["steps"] == 1
    assert names(run) == ["best.safetensors", "last.pt", "step-00000001.pt"]


class Killing(io.FileIO):
    """A file whose second write kills the data loader workers."""

    writes = 0

    def write(self, data: Any) -> int:
        self.writes += 1
        if self.writes == 2:
            for worker in multiprocessing.active_children():
                worker.kill()  # nor waited for: PyTorch's signal handler has to find it
            time.sleep(5)  # until that raises
        return super().write(data)


def test_a_worker_that_is_killed_while_a_checkpoint_is_written_leaves_the_one_before(
    prepare, tmp_path, monkeypatch
):
    """PyTorch's own writer covers the error that its signal handler raises; also the next time."""
    save, killed = torch.save, []

    def save_and_kill(content: Any, file: Any) -> None:
        killed[:] = multiprocessing.active_children()
        if not killed:
            return save(content, file)
        with Killing(file.fileno(), "wb", closefd=False) as killing:
            return save(content, killing)

    monkeypatch.setattr(torch, "save", save_and_kill)
    overrides = "data.workers=1", "train.epochs=2", "train.save_every_steps=2"
    for run in (Run(tmp_path / "first"), Run(tmp_path / "second")):
        with pytest.raises(DrnError, match=r"^a reading process was killed") as caught:
            go(prepare(*overrides), run)
        assert killed and "\n" not in str(caught.value)
        assert content(run)["progress"]["steps"] == 0
        assert ".tmp" not in " ".join(names(run))


def test_metrics_that_cannot_be_written_are_told_with_how_to_go_on(prepare, run):
    run.metrics.mkdir(parents=True)
    with pytest.raises(DrnError, match=r"metrics\.jsonl: cannot be written: Is a dir") as caught:
        go(prepare("train.epochs=1"), run)
    assert f"go on with: drn train --resume {run.folder}" in str(caught.value)
    assert content(run)["progress"]["steps"] == 0

"""When checkpoints are written, which are kept, and what remains after a failure."""

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
from training_runs import assert_same_run, call_in_step, content, crash, go

from drn_cli.errors import DrnError
from drn_cli.runs import Run
from drn_cli.training.checkpoint import TrainProgress
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


def test_checkpoint_intervals_do_not_change_the_result(prepare, tmp_path):
    runs = Run(tmp_path / "rare"), Run(tmp_path / "steps"), Run(tmp_path / "minutes")
    cadences = "save_every_minutes=null", "save_every_steps=2", "save_every_minutes=1e-9"
    expected = [0, 3], [0, 2, 3], [0, 1, 2, 3]
    for run, cadence, steps in zip(runs, cadences, expected, strict=True):
        assert go(prepare("train.epochs=1", "train.keep_last=9", f"train.{cadence}"), run) is None
        assert run.earlier_checkpoints() == [run.checkpoint(step) for step in steps]
        assert_same_run(run, runs[0])


def test_keeps_the_latest_checkpoints_and_links_the_newest(prepare, run):
    saver = CheckpointManager(prepare("train.keep_last=2"), run)
    for step in (1, 2, 10):
        saver.save(TrainProgress(steps=step))
        assert run.last.samefile(run.checkpoint(step))
    assert names(run) == ["last.pt", "step-00000002.pt", "step-00000010.pt"]
    assert content(run)["progress"]["steps"] == 10
    # After resuming from step 2, the checkpoint of step 10 is removed.
    saver.save(TrainProgress(steps=3))
    assert names(run) == ["last.pt", "step-00000002.pt", "step-00000003.pt"]
    assert run.last.samefile(run.checkpoint(3))
    CheckpointManager(prepare(), run).save(TrainProgress(steps=4))
    assert names(run) == ["last.pt"]


def test_copies_the_newest_without_hard_links(prepare, run, monkeypatch):
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
def test_a_failed_write_keeps_the_earlier_checkpoint(prepare, run, keep):
    saver = CheckpointManager(prepare(f"train.keep_last={keep}"), run)
    with small_files(), pytest.raises(DrnError, match="File too large") as first:
        saver.save(TrainProgress(steps=1))
    assert "earlier" not in str(first.value)
    assert names(run) == []
    saver.save(TrainProgress(steps=2))
    before = names(run), run.last.read_bytes()
    with (
        small_files(),
        pytest.raises(DrnError, match="checkpoint of step 2 is intact") as second,
    ):
        saver.save(TrainProgress(steps=3))
    assert f"then resume: drn train --resume {run.folder}" in str(second.value)
    assert (names(run), run.last.read_bytes()) == before
    # A process that resumed from it does not know its step.
    with small_files(), pytest.raises(DrnError, match="the earlier checkpoint is intact"):
        CheckpointManager(prepare(f"train.keep_last={keep}"), run).save(TrainProgress(steps=3))


def test_removes_temporary_files_of_killed_processes(run):
    run.last.parent.mkdir(parents=True)
    for name in ("last.pt", "best.safetensors", "step-00000001.pt", ".last.pt.0a1b.tmp"):
        (run.last.parent / name).touch()
    clear_leftovers(run)
    assert names(run) == ["best.safetensors", "last.pt", "step-00000001.pt"]


def test_no_later_checkpoint_is_left_after_resuming_from_an_earlier_one(prepare, run):
    overrides = ("train.epochs=1", "train.save_every_steps=1", "train.keep_last=3")
    go(prepare(*overrides), run)
    earlier = run.earlier_checkpoints()[0]
    assert earlier == run.checkpoint(1)
    (run.last.parent / ".last.pt.0a1b.tmp").touch()

    training = prepare(*overrides)
    call_in_step(training, 1, crash)
    with pytest.raises(RuntimeError, match="crash"):
        go(training, run, start=earlier)
    assert content(run)["progress"]["steps"] == 1
    assert names(run) == ["best.safetensors", "last.pt", "step-00000001.pt"]


class Killing(io.FileIO):
    """A file whose second write kills the data loader workers."""

    writes = 0

    def write(self, data: Any) -> int:
        self.writes += 1
        if self.writes == 2:
            for worker in multiprocessing.active_children():
                worker.kill()  # not waited for: PyTorch's signal handler reports it
            time.sleep(5)  # until that raises
        return super().write(data)


def test_a_data_loader_worker_killed_during_a_write_keeps_the_earlier_checkpoint(
    prepare, tmp_path, monkeypatch
):
    """PyTorch's writer replaces the error that its signal handler raises; also in a second run."""
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
        with pytest.raises(DrnError, match=r"^data loader worker was killed") as caught:
            go(prepare(*overrides), run)
        assert killed and "\n" not in str(caught.value)
        assert content(run)["progress"]["steps"] == 0
        assert ".tmp" not in " ".join(names(run))


def test_unwritable_metrics_are_an_error_with_the_resume_command(prepare, run):
    run.metrics.mkdir(parents=True)
    with pytest.raises(DrnError, match=r"metrics\.jsonl: cannot be written: Is a dir") as caught:
        go(prepare("train.epochs=1"), run)
    assert f"then resume: drn train --resume {run.folder}" in str(caught.value)
    assert content(run)["progress"]["steps"] == 0

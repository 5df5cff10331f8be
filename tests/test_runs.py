import os
from datetime import datetime
from pathlib import Path

import pytest

from drn_cli import runs
from drn_cli.errors import DrnError
from drn_cli.runs import Run, checkpoint_of, new_run, newest_run


def checkpoint(path: Path, time: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    os.utime(path, (time, time))
    return path


class Stopped(datetime):
    @classmethod
    def now(cls, tz: object = None) -> "Stopped":
        return cls(2026, 1, 31, 12, 0, 5)


def test_new_run_is_named_by_recipe_and_time_and_not_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runs, "datetime", Stopped)
    run = new_run("camvid", tmp_path)
    assert run.folder == tmp_path / "camvid" / "2026-01-31_12-00-05"
    assert not run.folder.exists()


def test_new_runs_of_one_second_do_not_collide(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runs, "datetime", Stopped)
    folders = set()
    for _ in range(4):
        folder = new_run("camvid", tmp_path).folder
        folder.mkdir(parents=True)  # raises if there already
        folders.add(folder.name)
    stamp = "2026-01-31_12-00-05"
    assert folders == {stamp, f"{stamp}_2", f"{stamp}_3", f"{stamp}_4"}


def test_files_of_a_run(tmp_path: Path) -> None:
    run = Run(tmp_path)
    names = [
        path.relative_to(tmp_path).as_posix()
        for path in (run.recipe, run.environment, run.metrics, run.last, run.best)
    ]
    assert names == [
        "recipe.yaml",
        "environment.json",
        "metrics.jsonl",
        "checkpoints/last.pt",
        "checkpoints/best.safetensors",
    ]


def test_newest_run_is_the_one_whose_checkpoint_was_written_last(tmp_path: Path) -> None:
    checkpoint(Run(tmp_path / "a" / "2026-03").last, 100)
    checkpoint(Run(tmp_path / "b" / "2026-01").last, 300)
    checkpoint(Run(tmp_path / "c" / "2026-02").best, 200)
    (tmp_path / "d" / "2026-04" / "checkpoints").mkdir(parents=True)
    assert newest_run(tmp_path).folder == tmp_path / "b" / "2026-01"
    checkpoint(Run(tmp_path / "c" / "2026-02").best, 400)
    assert newest_run(tmp_path).folder == tmp_path / "c" / "2026-02"


def test_newest_run_without_a_checkpoint_is_an_error_with_a_hint(tmp_path: Path) -> None:
    (tmp_path / "camvid" / "2026").mkdir(parents=True)
    with pytest.raises(DrnError, match="no trained run here") as caught:
        newest_run(tmp_path)
    assert str(tmp_path) in caught.value.message
    assert caught.value.hint is not None
    with pytest.raises(DrnError):
        newest_run(tmp_path / "absent")


def test_checkpoint_of_a_file_is_the_file_itself(tmp_path: Path) -> None:
    path = checkpoint(tmp_path / "some.pth", 1)
    assert checkpoint_of(path) == path


def test_checkpoint_of_a_run_is_the_best_else_the_last(tmp_path: Path) -> None:
    last = checkpoint(Run(tmp_path).last, 500)
    assert checkpoint_of(tmp_path) == last
    best = checkpoint(Run(tmp_path).best, 400)
    assert checkpoint_of(tmp_path) == best


def test_checkpoint_of_nothing_is_an_error_with_the_path(tmp_path: Path) -> None:
    with pytest.raises(DrnError, match="no such run folder or checkpoint file") as absent:
        checkpoint_of(tmp_path / "absent")
    assert str(tmp_path / "absent") in absent.value.message
    with pytest.raises(DrnError, match="no checkpoints/best") as empty:
        checkpoint_of(tmp_path)
    assert str(tmp_path) in empty.value.message

import os
import subprocess
import sys
from datetime import datetime
from pathlib import Path

import pytest

from drn_cli import runs
from drn_cli.errors import DrnError
from drn_cli.runs import Run, checkpoint_of, find_runs, last_written, new_run, newest_run


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
    made = [new_run("camvid", tmp_path, make=True).folder for _ in range(3)]
    assert [folder.name.removeprefix("2026-01-31_12-00-05") for folder in made] == ["", "_2", "_3"]


CLAIMER = """
import sys, time
from pathlib import Path
from drn_cli.runs import new_run
print("ready", flush=True)
sys.stdin.readline()
for _ in range(20):
    print(new_run("camvid", Path(sys.argv[1]), make=True).folder.name)
"""


def test_runs_that_start_in_the_same_second_have_folders_of_their_own(tmp_path: Path) -> None:
    """Five processes, each of them twenty times: no name is given twice, nothing fails."""
    command = [sys.executable, "-c", CLAIMER, str(tmp_path)]
    pipe = subprocess.PIPE
    started = [subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) for _ in range(5)]
    for process in started:
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
    for process in started:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    names = [name for process in started for name in process.communicate()[0].split()]
    assert [process.returncode for process in started] == [0] * 5
    assert len(names) == 100
    assert set(names) == {path.name for path in (tmp_path / "camvid").iterdir()}
    assert len(set(names)) == 100


def test_a_folder_that_cannot_be_made_is_an_error_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "camvid").write_text("a file")
    with pytest.raises(DrnError, match=r"camvid/.*: cannot be written: .* \(choose another"):
        new_run("camvid", tmp_path, make=True)


def test_the_lock_of_a_run_is_neither_emptied_nor_taken_through_a_link(tmp_path: Path) -> None:
    precious = tmp_path / "precious.txt"
    precious.write_text("precious")
    run = Run(tmp_path / "run")
    run.folder.mkdir()
    lock = run.folder / ".lock"
    lock.symlink_to(precious)
    with pytest.raises(DrnError, match=r"\.lock: is a symbolic link"), run.claimed():
        pass
    lock.unlink()
    (run.folder / "checkpoints").symlink_to(tmp_path)
    with pytest.raises(DrnError, match="checkpoints: is a symbolic link"), run.claimed():
        pass
    (run.folder / "checkpoints").unlink()
    assert not run.in_use()
    lock.unlink()
    lock.write_text("kept")
    with run.claimed():
        pass
    assert (precious.read_text(), lock.read_text()) == ("precious", "kept")


def test_files_of_a_run(tmp_path: Path) -> None:
    run = Run(tmp_path)
    names = [
        path.relative_to(tmp_path).as_posix()
        for path in (run.recipe, run.environment, run.metrics, run.last, run.best, run.scores)
    ]
    assert names == [
        "recipe.yaml",
        "environment.json",
        "metrics.jsonl",
        "checkpoints/last.pt",
        "checkpoints/best.safetensors",
        "best.json",
    ]


def test_newest_run_is_the_last_written_one_that_has_a_best(tmp_path: Path) -> None:
    one, two, unproven = (Run(tmp_path / name / "2026") for name in "abc")
    checkpoint(one.best, 100)
    checkpoint(two.best, 200)
    checkpoint(unproven.last, 300)
    (tmp_path / "d" / "2026" / "checkpoints").mkdir(parents=True)
    assert newest_run(tmp_path) == two
    checkpoint(one.last, 250)  # it went on, and did not get better
    assert newest_run(tmp_path) == one


def test_without_a_best_network_the_newest_checkpoint_is_named(tmp_path: Path) -> None:
    checkpoint(Run(tmp_path / "a").last, 200)
    checkpoint(Run(tmp_path / "b").last, 100)
    with pytest.raises(DrnError, match="no run has best weights yet") as caught:
        newest_run(tmp_path)
    assert caught.value.message.endswith(str(tmp_path / "a"))
    assert f"--weights {tmp_path / 'a'}" in (caught.value.hint or "")


def test_newest_run_without_a_checkpoint_is_an_error_with_a_hint(tmp_path: Path) -> None:
    (tmp_path / "camvid" / "2026").mkdir(parents=True)
    with pytest.raises(DrnError, match="no trained run") as caught:
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
    with pytest.raises(DrnError, match="no such run directory or checkpoint file") as absent:
        checkpoint_of(tmp_path / "absent")
    assert str(tmp_path / "absent") in absent.value.message
    with pytest.raises(DrnError, match="/dev/null: a pipe or device"):
        checkpoint_of(Path("/dev/null"))
    with pytest.raises(DrnError, match="no checkpoints/best") as empty:
        checkpoint_of(tmp_path)
    assert str(tmp_path) in empty.value.message


def test_runs_are_found_by_any_of_their_files_and_not_inside_of_one_another(tmp_path: Path) -> None:
    for run, file in (("b/2", "recipe"), ("a", "metrics"), ("c/d/e", "last"), ("b/1", "best")):
        checkpoint(getattr(Run(tmp_path / run), file), 1)
    checkpoint(tmp_path / "a" / "inner" / "recipe.yaml", 1)
    checkpoint(tmp_path / ".hidden" / "recipe.yaml", 1)
    checkpoint(tmp_path / "too" / "far" / "down" / "here" / "recipe.yaml", 1)
    checkpoint(tmp_path / "images" / "1.png", 1)
    found = [run.folder.relative_to(tmp_path).as_posix() for run in find_runs(tmp_path)]
    assert found == ["a", "b/1", "b/2", "c/d/e"]
    assert [run.folder for run in find_runs(tmp_path / "b" / "2")] == [tmp_path / "b" / "2"]
    assert find_runs(tmp_path / "images") == []
    with pytest.raises(DrnError, match="no such folder"):
        find_runs(tmp_path / "absent")


def test_a_link_to_a_folder_of_runs_is_followed_and_a_circle_ends(tmp_path: Path) -> None:
    checkpoint(tmp_path / "disk" / "camvid" / "1" / "recipe.yaml", 1)
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "elsewhere").symlink_to(tmp_path / "disk")
    (tmp_path / "runs" / "circle").symlink_to(tmp_path / "runs")
    (tmp_path / "runs" / "twice").symlink_to(tmp_path / "disk")
    [run] = find_runs(tmp_path / "runs")
    assert run.folder == tmp_path / "runs" / "elsewhere" / "camvid" / "1"


def test_last_written_is_the_run_that_measured_last(tmp_path: Path) -> None:
    checkpoint(Run(tmp_path / "a" / "1").metrics, 200)
    checkpoint(Run(tmp_path / "b").metrics, 300)
    checkpoint(Run(tmp_path / "c" / "1").recipe, 400)
    assert last_written(tmp_path).folder == tmp_path / "b"
    for root in (tmp_path / "c", tmp_path / "absent"):
        with pytest.raises(DrnError, match="no run has metrics yet"):
            last_written(root)

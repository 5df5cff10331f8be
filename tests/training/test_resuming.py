"""Where a run begins, and what has to be as it was."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from training_runs import go
from typer.testing import CliRunner

from drn_cli.cli.app import app
from drn_cli.distributed.launch import EXIT_CODE_FILE
from drn_cli.errors import DrnError
from drn_cli.recipe.loading import load_recipe, resolved_yaml
from drn_cli.runs import Run
from drn_cli.training.resuming import RunPlan, TrainRequest, begin, check_data
from drn_cli.training.tasks import task_of

MakeRun = Callable[..., Run]


@pytest.fixture(autouse=True)
def _alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("TORCHELASTIC_RESTART_COUNT", "TORCHELASTIC_RUN_ID"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def make_run(recipe_file: Path) -> MakeRun:
    """Make what a run leaves that began with some overrides, as far as `begin` looks at it."""

    def make(folder: str, *overrides: str, ending: str | None = None, **told: Any) -> Run:
        run = Run(Path(folder))
        run.last.parent.mkdir(parents=True)
        run.last.touch()
        # Of one second, they would have no order.
        age = len(list(Path().rglob("last.pt")))
        os.utime(run.last, (age, age))
        run.recipe.write_text(resolved_yaml(load_recipe(str(recipe_file), overrides).recipe))
        run.environment.write_text(json.dumps(told))
        lines = [{"kind": "train", "step": 3}]
        if ending:
            lines.append({"kind": "end", "step": 3, "ending": ending})
        run.metrics.write_text("".join(json.dumps(line) + "\n" for line in lines))
        return run

    return make


def request_of(recipe: Path | None = None, *overrides: str, **more: Any) -> TrainRequest:
    return TrainRequest(None if recipe is None else str(recipe), overrides, **more)


def test_a_recipe_begins_anew(recipe_file, tmp_path):
    beginning = begin(request_of(recipe_file, "train.lr=0.5"))
    assert beginning.run.folder.parent == Path("runs") / "easy"
    assert (beginning.name, beginning.start, beginning.changes) == ("easy", None, {})
    assert beginning.recipe.train.lr == 0.5
    named = begin(request_of(recipe_file, run_dir=Path("here")))
    assert named.run == Run(Path("here"))
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_holds_a_run_is_not_begun_anew(recipe_file, make_run):
    make_run("here")
    with pytest.raises(DrnError, match=r"here: holds a run already .*drn train --resume here"):
        begin(request_of(recipe_file, run_dir=Path("here")))


@pytest.mark.parametrize("name", ["runs/mine/1", "runs/mine/1/checkpoints/step-00000002.pt"])
def test_a_run_or_one_of_its_checkpoints_goes_on_by_its_own_recipe(make_run, name):
    run = make_run("runs/mine/1", "train.lr=0.5")
    run.checkpoint(2).touch()
    beginning = begin(request_of(resume=name))
    assert beginning.run == run
    assert beginning.start == (run.last if name == "runs/mine/1" else run.checkpoint(2))
    assert (beginning.name, beginning.changes) == ("mine", {})
    assert beginning.recipe.train.lr == 0.5


def test_another_recipe_is_refused_with_the_difference_unless_allowed(recipe_file, make_run):
    run = make_run("here", "train.lr=0.5")
    words = ("train.epochs=9", "loss.class_weights=[1,2,3]")
    with pytest.raises(DrnError) as caught:
        begin(request_of(None, *words, resume="here"))
    assert caught.value.message.splitlines() == [
        "here: was trained with other settings:",
        "  loss.class_weights: None -> [1.0, 2.0, 3.0]",
        "  train.epochs: 4 -> 9",
    ]
    assert caught.value.hint is not None and caught.value.hint.startswith("--allow-changes")
    changes = {"loss.class_weights": (None, [1.0, 2.0, 3.0]), "train.epochs": (4, 9)}
    allowed = begin(request_of(None, *words, resume="here", allow_changes=True))
    assert (allowed.run, allowed.start, allowed.changes) == (run, run.last, changes)
    assert (allowed.recipe.train.epochs, allowed.recipe.train.lr) == (9, 0.5)
    # A recipe that is named counts as a whole.
    with pytest.raises(DrnError, match=r"train\.lr: 0\.5 -> 0\.0007"):
        begin(request_of(recipe_file, resume="here"))
    same = begin(request_of(recipe_file, "train.lr=0.5", resume="here"))
    assert (same.name, same.changes) == ("easy", {})


@pytest.mark.parametrize(("launched", "lines"), [(False, 1), (True, 0)])
def test_what_is_allowed_is_named_by_the_launcher_alone(
    make_run, monkeypatch, caplog, launched, lines
):
    make_run("here")
    monkeypatch.delenv(EXIT_CODE_FILE, raising=False)
    if launched:
        monkeypatch.setenv(EXIT_CODE_FILE, "code")
    with caplog.at_level("INFO"):
        begin(request_of(None, "train.epochs=9", resume="here", allow_changes=True))
    assert caplog.text.count("goes on with other settings") == lines


def test_what_is_said_again_is_no_change(make_run):
    make_run("here", "train.lr=0.5")
    assert begin(request_of(None, "train.lr=5e-1", resume="here")).changes == {}


def test_there_has_to_be_something_to_go_on_from(make_run, tmp_path):
    with pytest.raises(DrnError, match=r"nowhere/checkpoints/last\.pt: no such checkpoint"):
        begin(request_of(resume="nowhere"))
    (tmp_path / "stray.pt").touch()
    with pytest.raises(DrnError, match="does not lie in a run folder"):
        begin(request_of(resume="stray.pt"))
    make_run("here")
    with pytest.raises(DrnError, match="--run-dir: --resume goes on in the run's own folder"):
        begin(request_of(resume="here", run_dir=Path("there")))


HOLDER = """
import sys
from pathlib import Path
from drn_cli.runs import Run
with Run(Path(sys.argv[1])).claimed():
    print("held", flush=True)
    sys.stdin.read()
"""


@contextmanager
def in_another_process(run: Run) -> Iterator[None]:
    """Let a process hold the folder, as if it trained there."""
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(run.folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with holder:
        assert holder.stdout is not None and holder.stdout.readline() == "held\n"
        yield


def test_a_folder_in_which_another_process_trains_is_left_alone(prepare, trained):
    run = Run(Path(shutil.copytree(trained.folder, "here")))
    files = [path for path in run.folder.rglob("*") if path.is_file() and path.name != ".lock"]
    before = {path: path.stat().st_mtime_ns for path in files}
    assert not run.in_use()
    with in_another_process(run):
        assert run.in_use()
        with pytest.raises(DrnError, match="here: another process is training in it"):
            go(prepare(), run, start=run.last)
    assert {path: path.stat().st_mtime_ns for path in files} == before
    assert not run.in_use()
    with run.claimed():
        pass


def test_auto_goes_on_with_the_newest_unfinished_run_of_the_very_recipe(
    recipe_file, make_run, caplog
):
    auto = request_of(recipe_file, resume="auto")
    assert begin(auto).start is None
    make_run("runs/easy/1")
    wanted = make_run("runs/easy/2", ending="interrupted")
    busy = make_run("runs/easy/3")
    make_run("runs/easy/4", ending="finished")
    other = make_run("runs/easy/5", "train.lr=0.5")
    make_run("runs/another/6")
    with in_another_process(busy):
        beginning = begin(auto)
        assert (beginning.run, beginning.start) == (wanted, wanted.last)
        anyone = begin(replace(auto, allow_changes=True))
        assert (anyone.run, anyone.changes) == (other, {"train.lr": (0.5, 0.0007)})
        with caplog.at_level("INFO", "drn_cli"):
            anew = begin(request_of(recipe_file, "train.lr=7", resume="auto"))
        assert anew.start is None and anew.run.folder.parent == Path("runs/easy")
        assert "3 unfinished runs of easy have other settings; starting anew" in caplog.text
    assert begin(auto).run == busy


def test_auto_without_a_recipe_is_the_newest_unfinished_run_of_all(make_run):
    auto = request_of(resume="auto")
    with pytest.raises(DrnError, match=r"no unfinished run here \(name a recipe"):
        begin(auto)
    make_run("runs/easy/1")
    newest = make_run("runs/another/2", "train.lr=0.5")
    make_run("runs/another/3", ending="finished")
    beginning = begin(auto)
    assert (beginning.run, beginning.name) == (newest, "another")
    assert beginning.recipe.train.lr == 0.5


def test_auto_in_a_folder_goes_on_if_there_is_something(recipe_file, make_run):
    auto = request_of(recipe_file, resume="auto", run_dir=Path("here"))
    assert (begin(auto).run, begin(auto).start) == (Run(Path("here")), None)
    run = make_run("here")
    assert (begin(auto).run, begin(auto).start) == (run, run.last)
    with pytest.raises(DrnError, match=r"train\.lr"):
        begin(replace(auto, overrides=("train.lr=7",)))


def test_started_again_a_job_goes_on_from_its_last_checkpoint(recipe_file, make_run, monkeypatch):
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "2")
    named = request_of(recipe_file, run_dir=Path("here"))
    assert (begin(named).run, begin(named).start) == (Run(Path("here")), None)
    run = make_run("here")
    run.checkpoint(2).touch()
    assert begin(named).start == run.last
    # Also if it was told to begin with an earlier one: that is done by now.
    assert begin(request_of(resume=str(run.checkpoint(2)))).start == run.last


def test_under_torchrun_a_job_finds_its_run_again(recipe_file, make_run, monkeypatch):
    """Jobs without a name are all called `none`; the last one is meant, if it has not ended."""
    request = request_of(recipe_file)
    make_run("runs/easy/1", job="none", ending="finished")
    earlier = make_run("runs/easy/2", job="none")
    last = make_run("runs/easy/3", job="none")
    mine = make_run("runs/easy/4", job="mine")
    make_run("runs/easy/5", job=None)
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    for job, expected in (("none", last), ("mine", mine)):
        monkeypatch.setenv("TORCHELASTIC_RUN_ID", job)
        assert (begin(request).run, begin(request).start) == (expected, expected.last)
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    with in_another_process(last):
        assert begin(request).run == earlier
    for run in (earlier, last):
        run.last.unlink()
    assert begin(request).start is None
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "0")
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "mine")
    assert begin(request).start is None


def test_the_other_processes_are_told_all_of_it(recipe_file, make_run):
    run = make_run("here")
    changed = request_of(
        recipe_file, "loss.class_weights=[1,2,3]", resume="here", allow_changes=True
    )
    for beginning in (begin(changed), begin(request_of(recipe_file))):
        told = RunPlan.of(beginning.to_json())
        assert told.recipe == beginning.recipe
        assert (told.run, told.start) == (beginning.run, beginning.start)
        assert told.changes.keys() == beginning.changes.keys()
        assert told.allow_changes == beginning.allow_changes
    assert run.last.is_file()


def train_here(*words: str) -> None:
    result = CliRunner().invoke(app, ["train", *words], catch_exceptions=False)
    assert result.exit_code == 0, result.output


def test_other_lists_are_refused_unless_allowed_and_what_changed_is_written_down(
    recipe_file, own_data_folder, read_metrics, monkeypatch
):
    """From one end to the other, as the command line does it."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    words = (f"data.root={own_data_folder}", "train.batch_size=12", "train.epochs=1")
    train_here(str(recipe_file), *words, "--run-dir", "here")
    run = Run(Path("here"))
    recipe = run.recipe.read_bytes()
    begun = json.loads(run.environment.read_text())
    for kind in ("images", "labels"):
        path = own_data_folder / f"train_{kind}.txt"
        path.write_text("".join(reversed(path.read_text().splitlines(keepends=True))))

    with pytest.raises(DrnError) as caught:
        train_here("--resume", "here")
    lines = caught.value.message.splitlines()
    assert [line.partition(":")[2].split(" ")[1] for line in lines[1:]] == [
        "train_images.txt:",
        "train_labels.txt:",
    ]
    old = begun["data"]["train_images.txt"]
    assert f"data: train_images.txt: {old[:12]} -> " in caught.value.message
    assert json.loads(run.environment.read_text()) == begun and run.recipe.read_bytes() == recipe

    train_here("--resume", "here", "--allow-changes", "train.lr=0.001", "train.epochs=2")
    told = json.loads(run.environment.read_text())
    [resumption] = told["resumed"]
    assert resumption["step"] == 1
    assert resumption["changes"].keys() == {
        "train.lr",
        "train.epochs",
        "data: train_images.txt",
        "data: train_labels.txt",
    }
    assert resumption["changes"]["train.lr"] == [0.0007, 0.001]
    assert told["data"]["train_images.txt"] != old
    assert told["started"] == begun["started"]
    assert yaml.safe_load(run.recipe.read_text())["train"]["lr"] == 0.001
    assert [line["step"] for line in read_metrics(run.folder)] == [1, 1, 2, 2, 2]
    # From here on, the new lists are those of the run.
    beginning = begin(request_of(resume="here"))
    material = task_of(beginning.recipe).find_material(beginning.recipe)
    assert check_data(beginning, material) == beginning
    run.environment.unlink()
    assert check_data(beginning, material) == beginning

"""Which run is trained or resumed, and which changes are refused."""

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
from drn_cli.training.resuming import RunPlan, TrainRequest, check_data_unchanged, resolve_run
from drn_cli.training.tasks import task_of

MakeRun = Callable[..., Run]


@pytest.fixture(autouse=True)
def _alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("TORCHELASTIC_RESTART_COUNT", "TORCHELASTIC_RUN_ID"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def make_run(recipe_file: Path) -> MakeRun:
    """Write the files of an unfinished run that `resolve_run` reads."""

    def make(folder: str, *overrides: str, ending: str | None = None, **environment: Any) -> Run:
        run = Run(Path(folder))
        run.last.parent.mkdir(parents=True)
        run.last.touch()
        # Runs are sorted by these times.
        age = len(list(Path().rglob("last.pt")))
        os.utime(run.last, (age, age))
        run.recipe.write_text(resolved_yaml(load_recipe(str(recipe_file), overrides).recipe))
        run.environment.write_text(json.dumps(environment))
        lines = [{"kind": "train", "step": 3}]
        if ending:
            lines.append({"kind": "end", "step": 3, "ending": ending})
        run.metrics.write_text("".join(json.dumps(line) + "\n" for line in lines))
        return run

    return make


def request_of(recipe: Path | None = None, *overrides: str, **more: Any) -> TrainRequest:
    return TrainRequest(None if recipe is None else str(recipe), overrides, **more)


def test_a_recipe_starts_a_new_run(recipe_file, tmp_path):
    plan = resolve_run(request_of(recipe_file, "train.lr=0.5"))
    assert plan.run.folder.parent == Path("runs") / "easy"
    assert (plan.name, plan.start, plan.changes) == ("easy", None, {})
    assert plan.recipe.train.lr == 0.5
    named = resolve_run(request_of(recipe_file, run_dir=Path("here")))
    assert named.run == Run(Path("here"))
    assert list(tmp_path.iterdir()) == []


def test_refuses_a_directory_that_contains_a_run(recipe_file, make_run):
    make_run("here")
    with pytest.raises(DrnError, match=r"here: already contains a run .*drn train --resume here"):
        resolve_run(request_of(recipe_file, run_dir=Path("here")))


@pytest.mark.parametrize("name", ["runs/mine/1", "runs/mine/1/checkpoints/step-00000002.pt"])
def test_resumes_a_run_or_checkpoint_with_its_own_recipe(make_run, name):
    run = make_run("runs/mine/1", "train.lr=0.5")
    run.checkpoint(2).touch()
    plan = resolve_run(request_of(resume=name))
    assert plan.run == run
    assert plan.start == (run.last if name == "runs/mine/1" else run.checkpoint(2))
    assert (plan.name, plan.changes) == ("mine/1", {})
    assert plan.recipe.train.lr == 0.5


def test_refuses_changed_settings_unless_allowed(recipe_file, make_run):
    run = make_run("here", "train.lr=0.5")
    words = ("train.epochs=9", "loss.class_weights=[1,2,3]")
    with pytest.raises(DrnError) as caught:
        resolve_run(request_of(None, *words, resume="here"))
    assert caught.value.message.splitlines() == [
        "here: was trained with other settings:",
        "  loss.class_weights: None -> [1.0, 2.0, 3.0]",
        "  train.epochs: 4 -> 9",
    ]
    assert caught.value.hint is not None and caught.value.hint.startswith("--allow-changes")
    changes = {"loss.class_weights": (None, [1.0, 2.0, 3.0]), "train.epochs": (4, 9)}
    allowed = resolve_run(request_of(None, *words, resume="here", allow_changes=True))
    assert (allowed.run, allowed.start, allowed.changes) == (run, run.last, changes)
    assert (allowed.recipe.train.epochs, allowed.recipe.train.lr) == (9, 0.5)
    # A named recipe replaces all settings.
    with pytest.raises(DrnError, match=r"train\.lr: 0\.5 -> 0\.0007"):
        resolve_run(request_of(recipe_file, resume="here"))
    same = resolve_run(request_of(recipe_file, "train.lr=0.5", resume="here"))
    assert (same.name, same.changes) == ("easy", {})


@pytest.mark.parametrize(("launched", "lines"), [(False, 1), (True, 0)])
def test_only_the_launcher_logs_allowed_changes(make_run, monkeypatch, caplog, launched, lines):
    make_run("here")
    monkeypatch.delenv(EXIT_CODE_FILE, raising=False)
    if launched:
        monkeypatch.setenv(EXIT_CODE_FILE, "code")
    with caplog.at_level("INFO"):
        resolve_run(request_of(None, "train.epochs=9", resume="here", allow_changes=True))
    assert caplog.text.count("continues with other settings") == lines


def test_the_same_value_in_other_notation_is_no_change(make_run):
    make_run("here", "train.lr=0.5")
    assert resolve_run(request_of(None, "train.lr=5e-1", resume="here")).changes == {}


def test_refuses_to_resume_without_a_checkpoint(make_run, tmp_path):
    with pytest.raises(DrnError, match=r"nowhere/checkpoints/last\.pt: no such checkpoint"):
        resolve_run(request_of(resume="nowhere"))
    (tmp_path / "stray.pt").touch()
    with pytest.raises(DrnError, match="not in a run directory"):
        resolve_run(request_of(resume="stray.pt"))
    make_run("here")
    with pytest.raises(DrnError, match="--run-dir: not allowed with --resume"):
        resolve_run(request_of(resume="here", run_dir=Path("there")))


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
    """Lock the run directory in another process, as training does."""
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(run.folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with holder:
        assert holder.stdout is not None and holder.stdout.readline() == "held\n"
        yield


def test_refuses_a_run_directory_in_use(prepare, trained):
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


def test_auto_resumes_the_newest_unfinished_run_of_the_same_recipe(recipe_file, make_run, caplog):
    auto = request_of(recipe_file, resume="auto")
    assert resolve_run(auto).start is None
    make_run("runs/easy/1")
    wanted = make_run("runs/easy/2", ending="interrupted")
    busy = make_run("runs/easy/3")
    make_run("runs/easy/4", ending="finished")
    other = make_run("runs/easy/5", "train.lr=0.5")
    make_run("runs/another/6")
    with in_another_process(busy):
        plan = resolve_run(auto)
        assert (plan.run, plan.start) == (wanted, wanted.last)
        allowed = resolve_run(replace(auto, allow_changes=True))
        assert (allowed.run, allowed.changes) == (other, {"train.lr": (0.5, 0.0007)})
        with caplog.at_level("INFO", "drn_cli"):
            new = resolve_run(request_of(recipe_file, "train.lr=7", resume="auto"))
        assert new.start is None and new.run.folder.parent == Path("runs/easy")
        assert "3 unfinished runs of easy have other settings; starting a new run" in caplog.text
    assert resolve_run(auto).run == busy


def test_auto_without_a_recipe_resumes_the_newest_unfinished_run(make_run):
    auto = request_of(resume="auto")
    with pytest.raises(DrnError, match=r"no unfinished run \(name a recipe"):
        resolve_run(auto)
    make_run("runs/easy/1")
    newest = make_run("runs/another/2", "train.lr=0.5")
    make_run("runs/another/3", ending="finished")
    plan = resolve_run(auto)
    assert (plan.run, plan.name) == (newest, "another/2")
    assert plan.recipe.train.lr == 0.5


def test_auto_with_run_dir_resumes_its_checkpoint(recipe_file, make_run):
    auto = request_of(recipe_file, resume="auto", run_dir=Path("here"))
    assert (resolve_run(auto).run, resolve_run(auto).start) == (Run(Path("here")), None)
    run = make_run("here")
    assert (resolve_run(auto).run, resolve_run(auto).start) == (run, run.last)
    with pytest.raises(DrnError, match=r"train\.lr"):
        resolve_run(replace(auto, overrides=("train.lr=7",)))


def test_a_restarted_job_resumes_its_last_checkpoint(recipe_file, make_run, monkeypatch):
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "2")
    named = request_of(recipe_file, run_dir=Path("here"))
    assert (resolve_run(named).run, resolve_run(named).start) == (Run(Path("here")), None)
    run = make_run("here")
    run.checkpoint(2).touch()
    assert resolve_run(named).start == run.last
    # Also if the command names an earlier checkpoint.
    assert resolve_run(request_of(resume=str(run.checkpoint(2)))).start == run.last


def test_a_job_restarted_by_torchrun_finds_its_run(recipe_file, make_run, monkeypatch):
    """Jobs without an id have the id `none`; the newest unfinished run counts."""
    request = request_of(recipe_file)
    make_run("runs/easy/1", job="none", ending="finished")
    earlier = make_run("runs/easy/2", job="none")
    last = make_run("runs/easy/3", job="none")
    mine = make_run("runs/easy/4", job="mine")
    make_run("runs/easy/5", job=None)
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    for job, expected in (("none", last), ("mine", mine)):
        monkeypatch.setenv("TORCHELASTIC_RUN_ID", job)
        assert (resolve_run(request).run, resolve_run(request).start) == (expected, expected.last)
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    with in_another_process(last):
        assert resolve_run(request).run == earlier
    for run in (earlier, last):
        run.last.unlink()
    assert resolve_run(request).start is None
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "0")
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "mine")
    assert resolve_run(request).start is None


def test_a_plan_survives_serialization(recipe_file, make_run):
    run = make_run("here")
    changed = request_of(
        recipe_file, "loss.class_weights=[1,2,3]", resume="here", allow_changes=True
    )
    for plan in (resolve_run(changed), resolve_run(request_of(recipe_file))):
        received = RunPlan.of(plan.to_json())
        assert received.recipe == plan.recipe
        assert (received.run, received.start) == (plan.run, plan.start)
        assert received.changes.keys() == plan.changes.keys()
        assert received.allow_changes == plan.allow_changes
    assert run.last.is_file()


def train_here(*words: str) -> None:
    result = CliRunner().invoke(app, ["train", *words], catch_exceptions=False)
    assert result.exit_code == 0, result.output


def test_refuses_changed_lists_unless_allowed_and_records_them(
    recipe_file, own_data_folder, read_metrics, monkeypatch
):
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
    environment = json.loads(run.environment.read_text())
    [resumption] = environment["resumed"]
    assert resumption["step"] == 1
    assert resumption["changes"].keys() == {
        "train.lr",
        "train.epochs",
        "data: train_images.txt",
        "data: train_labels.txt",
    }
    assert resumption["changes"]["train.lr"] == [0.0007, 0.001]
    assert environment["data"]["train_images.txt"] != old
    assert environment["started"] == begun["started"]
    assert yaml.safe_load(run.recipe.read_text())["train"]["lr"] == 0.001
    assert [line["step"] for line in read_metrics(run.folder)] == [1, 1, 2, 2, 2]
    # From now on, the run has the new lists.
    plan = resolve_run(request_of(resume="here"))
    data = task_of(plan.recipe).load_data(plan.recipe)
    assert check_data_unchanged(plan, data) == plan
    run.environment.unlink()
    assert check_data_unchanged(plan, data) == plan

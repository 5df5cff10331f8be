import json
import os
import signal
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from drn_cli.cli.app import app
from drn_cli.errors import DrnError

EPOCH = "train.epochs=1"


def only_run(cwd: Path) -> Path:
    [folder] = (cwd / "runs" / "easy").iterdir()
    return folder


def assert_one_line(stderr: str, *words: str) -> None:
    """The error is told once, in one line, without a traceback."""
    errors = [line for line in stderr.splitlines() if line]
    assert len(errors) == 1, stderr
    assert errors[0].startswith("error: ")
    for word in words:
        assert word in errors[0]


def test_says_where_the_run_is_and_what_comes_next(trained):
    result = json.loads(trained.stdout)
    assert result["ending"] == "finished"
    assert trained.cwd / result["run"] == only_run(trained.cwd)
    assert Path(result["last"]) == Path(result["run"]) / "checkpoints" / "last.pt"
    assert (trained.cwd / result["best"]).is_file()
    assert "easy: drn_a_18 on 12 pictures, validated on 5, cpu; run folder" in trained.stderr
    assert "epoch 4/4: validation mIoU" in trained.stderr
    assert "Warning" not in trained.stderr


def test_overrides_and_run_dir(drn, recipe_file, tmp_path):
    done = drn("train", recipe_file, EPOCH, "train.batch_size=6", "--run-dir", "here/mine")
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "here" / "mine"
    assert "drn eval here/mine" in done.stdout
    assert "batch_size: 6" in (folder / "recipe.yaml").read_text()
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [2, 2]
    assert not (tmp_path / "runs").exists()


def assert_one_run_of_two(folder: Path) -> None:
    records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [(record["kind"], record["step"]) for record in records] == [("train", 3), ("val", 3)]
    assert records[1]["images"] == 5
    assert json.loads((folder / "environment.json").read_text())["processes"] == 2
    assert (folder / "checkpoints" / "last.pt").is_file()
    assert (folder / "checkpoints" / "best.safetensors").is_file()


def test_two_processes_make_one_run(drn, recipe_file, tmp_path):
    done = drn("train", recipe_file, EPOCH, "--gpus", "2", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["run"] == str(only_run(tmp_path).relative_to(tmp_path))
    assert_one_run_of_two(only_run(tmp_path))
    assert done.stderr.count("run folder") == 1
    assert done.stderr.count("epoch 1/1") == 1
    assert "Warning" not in done.stderr


def test_torchrun_makes_the_same(torchrun, recipe_file, tmp_path):
    done = torchrun("train", recipe_file, EPOCH, "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["ending"] == "finished"
    assert_one_run_of_two(only_run(tmp_path))


def assert_interrupted(running, folder: Path) -> dict:
    out, err = running.communicate(timeout=300)
    assert running.returncode == 130, err
    assert out == ""
    last = folder / "checkpoints" / "last.pt"
    relative = last.relative_to(folder.parent)
    assert err.count("SIGINT: stopping after this step") == 1
    assert err.count(f"interrupted; checkpoint {relative}") == 1
    assert err.count(f"go on with: drn train --resume {folder.name}") == 1
    assert "Traceback" not in err and "error:" not in err
    return torch.load(last, weights_only=True)["progress"]


def test_ctrl_c_and_resume(drn, recipe_file, trained, tmp_path, until, read_metrics):
    folder = tmp_path / "mine"
    running = drn.begin("train", recipe_file, "--run-dir", folder.name, "data.workers=1")
    until((folder / "metrics.jsonl").is_file)
    os.killpg(running.pid, signal.SIGINT)  # as a terminal does: to the reading processes as well
    progress = assert_interrupted(running, folder)
    assert 3 <= progress["steps"] <= 12

    done = drn("train", "--resume", folder, "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["ending"] == "finished"
    assert read_metrics(folder) == read_metrics(trained.folder)
    found, expected = (
        torch.load(run / "checkpoints" / "last.pt", weights_only=True)
        for run in (folder, trained.folder)
    )
    torch.testing.assert_close(found["model"], expected["model"], rtol=0, atol=0)
    torch.testing.assert_close(found["optimiser"], expected["optimiser"], rtol=0, atol=0)


@pytest.mark.parametrize("everybody", [False, True], ids=["launcher", "terminal"])
def test_ctrl_c_in_two_processes(drn, recipe_file, tmp_path, until, everybody):
    folder = tmp_path / "mine"
    running = drn.begin(
        "train", recipe_file, "train.epochs=500", "--gpus", "2", "--run-dir", folder.name
    )
    until((folder / "metrics.jsonl").is_file)
    if everybody:
        os.killpg(running.pid, signal.SIGINT)
    else:
        running.send_signal(signal.SIGINT)
    progress = assert_interrupted(running, folder)
    assert progress["steps"] >= 3


def test_a_run_is_not_overwritten(drn, recipe_file, trained):
    before = (trained.folder / "metrics.jsonl").read_bytes()
    done = drn("train", recipe_file, "--run-dir", trained.folder)
    assert done.returncode == 1
    assert_one_line(done.stderr, "holds a run already", f"drn train --resume {trained.folder}")
    assert (trained.folder / "metrics.jsonl").read_bytes() == before


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("data.root=nowhere", ("nowhere: no such data folder", "drn data prepare")),
        ("train.batch_size=5", ("train.batch_size: 5", "shared by 2 processes", "=4")),
        ("train.batch_size=100", ("train.batch_size: 100", "12 training pictures")),
        ("task=classification", ("task: classification", "segmentation only")),
    ],
)
def test_mistakes_are_told_once_whatever_the_number_of_processes(
    drn, recipe_file, tmp_path, override, words
):
    done = drn("train", recipe_file, override, "--gpus", "2")
    assert (done.returncode, done.stdout) == (1, "")
    assert_one_line(done.stderr, *words)
    assert list(tmp_path.iterdir()) == []


def test_a_mistake_under_torchrun_is_told_once(torchrun, recipe_file):
    done = torchrun("train", recipe_file, "data.root=nowhere")
    assert done.returncode != 0
    assert done.stderr.count("error: nowhere: no such data folder") == 1


@pytest.mark.parametrize("gpus", ["1", "2"])
def test_a_broken_picture_is_named_once(drn, recipe_file, own_data_folder, gpus):
    """Only one of two processes reads it; what happens to the other is no news."""
    picture = own_data_folder / "pictures" / "3.png"
    picture.write_bytes(picture.read_bytes()[:300])
    done = drn("train", recipe_file, EPOCH, f"data.root={own_data_folder}", "--gpus", gpus)
    assert done.returncode == 1
    assert [line for line in done.stderr.splitlines() if "error" in line] == [
        f"error: {picture}: broken picture: image file is truncated"
    ]
    assert "Traceback" not in done.stderr


def test_a_loss_that_is_not_finite_is_told_once(drn, recipe_file):
    done = drn("train", recipe_file, "train.lr=1e9", "--gpus", "2")
    assert done.returncode == 1
    errors = [line for line in done.stderr.splitlines() if "error" in line]
    assert len(errors) == 1 and "the loss is " in errors[0]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--resume", "nowhere"], "nowhere/checkpoints/last.pt: no such checkpoint"),
        (["easy", "--resume", "nowhere"], "--resume takes the run's own recipe"),
        (["--resume", "nowhere", "--run-dir", "x"], "--resume takes the run's own recipe"),
        (["no_such_recipe"], "no_such_recipe"),
        (["drn_d_22_imagenet", "data.root=."], "trains segmentation only"),
    ],
)
def test_mistakes_on_the_command_line(words, message, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(app, ["train", *words])
    assert isinstance(result.exception, DrnError)
    assert message in str(result.exception)
    assert list(tmp_path.iterdir()) == []


def test_a_recipe_is_needed():
    result = CliRunner().invoke(app, ["train"])
    assert result.exit_code == 2
    assert "a recipe is needed" in result.stderr

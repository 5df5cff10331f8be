import json
import os
import signal
from pathlib import Path

import pytest
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
    assert (result["ending"], result["signal"]) == ("finished", None)
    assert trained.cwd / result["run"] == only_run(trained.cwd)
    assert Path(result["last"]) == Path(result["run"]) / "checkpoints" / "last.pt"
    assert (trained.cwd / result["best"]).is_file()
    assert result["scores"] == json.loads((trained.folder / "best.json").read_text())
    told = "easy: drn_a_18 on 12 pictures, validated on 5, cpu in fp32; run folder runs/easy/"
    assert told in trained.stderr
    for epoch in range(1, 5):
        assert f"{epoch}/4 " in trained.stderr
    assert trained.stderr.count("val loss") == 1  # the header of the table
    assert "Warning" not in trained.stderr and "warning" not in trained.stderr


def test_overrides_and_run_dir(drn, recipe_file, tmp_path):
    done = drn("train", recipe_file, EPOCH, "train.batch_size=6", "--run-dir", "here/mine")
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "here" / "mine"
    assert "drn eval here/mine" in done.stdout and "here/mine/report.html" in done.stdout
    assert "batch_size: 6" in (folder / "recipe.yaml").read_text()
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [2, 2, 2]
    assert not (tmp_path / "runs").exists()


def assert_one_run_of_two(folder: Path) -> None:
    records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    kinds = [(record["kind"], record["step"]) for record in records]
    assert kinds == [("train", 3), ("val", 3), ("end", 3)]
    assert records[1]["images"] == 5
    assert json.loads((folder / "environment.json").read_text())["processes"] == 2
    assert (folder / "checkpoints" / "last.pt").is_file()
    assert (folder / "checkpoints" / "best.safetensors").is_file()


def test_two_processes_make_one_run(drn, recipe_file, tmp_path):
    done = drn("train", recipe_file, EPOCH, "--gpus", "2", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["run"] == str(only_run(tmp_path).relative_to(tmp_path))
    assert_one_run_of_two(only_run(tmp_path))
    assert done.stderr.count("cpu in fp32, 2 processes; run folder") == 1
    assert done.stderr.count("1/1 ") == 1
    assert "Warning" not in done.stderr


def test_torchrun_makes_the_same(torchrun, recipe_file, tmp_path):
    done = torchrun("train", recipe_file, EPOCH, "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["ending"] == "finished"
    assert_one_run_of_two(only_run(tmp_path))


def test_ctrl_c_in_a_terminal_reaches_every_process(drn, recipe_file, tmp_path, until):
    """The launcher and its processes get the signal, and the processes get it passed on too."""
    running = drn.begin(
        "train", recipe_file, "train.epochs=500", "--gpus", "2", "--run-dir", "mine"
    )
    until((tmp_path / "mine" / "environment.json").is_file)
    os.killpg(running.pid, signal.SIGINT)
    out, err = running.communicate(timeout=300)
    assert (running.returncode, out) == (130, ""), err
    assert err.count("SIGINT: stopping after this step") == 1
    assert err.count("interrupted; checkpoint mine/checkpoints/last.pt") == 1
    assert err.count("go on with: drn train --resume mine") == 1
    assert "Traceback" not in err and "error:" not in err


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
        ("task=classification", ("has no folders train/CLASS",)),
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


@pytest.mark.parametrize(
    "again", [[], ["--gpus", "2", "--max-restarts", "2"]], ids=["alone", "two"]
)
def test_a_broken_picture_is_named_once(drn, recipe_file, own_data_folder, again):
    """Only one of two processes reads it; what happens to the other is no news.

    Nor does it help to start them again, which is for processes that were lost.
    """
    picture = own_data_folder / "pictures" / "3.png"
    data = bytearray(picture.read_bytes())
    data[len(data) // 2] ^= 255  # its ends are as they should be: only decoding finds it
    picture.write_bytes(data)
    done = drn("train", recipe_file, EPOCH, f"data.root={own_data_folder}", *again)
    assert done.returncode == 1
    (line,) = [line for line in done.stderr.splitlines() if "error" in line]
    assert line.startswith(f"error: {picture}: broken image: ")
    assert "Traceback" not in done.stderr


def invoke(*words: str, code: int = 0) -> str:
    """Run `drn train` in this process; give what it prints to stdout."""
    result = CliRunner().invoke(app, ["train", *words], catch_exceptions=False)
    assert result.exit_code == code, result.output
    return result.stdout


def test_a_dry_run_shows_the_plan_and_starts_nothing(recipe_file, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    shown = invoke(str(recipe_file), "train.lr=0.5", "--gpus", "2", "--dry-run")
    assert "# easy" in shown and "lr: 0.5" in shown
    assert "2 processes x 1 pass x 2 crops of 32" in shown
    assert "nothing is missing; nothing was started" in shown
    shown = invoke(str(recipe_file), "data.root=nowhere", "--dry-run", code=1)
    assert "missing: nowhere: no such data folder" in shown
    plan = json.loads(invoke(str(recipe_file), "--dry-run", "--json", "--run-dir", "here"))
    assert (plan["folder"], plan["processes"], plan["missing"]) == ("here", 1, [])
    assert plan["start"] is None
    assert list(tmp_path.iterdir()) == []


def test_a_dry_run_says_where_it_would_go_on(trained, monkeypatch):
    monkeypatch.chdir(trained.cwd)
    before = sorted(path.name for path in trained.folder.rglob("*"))
    last = str(trained.folder / "checkpoints" / "last.pt")
    plan = json.loads(invoke("--resume", str(trained.folder), "--dry-run", "--json"))
    assert plan["start"] == last
    with pytest.raises(DrnError, match=r"train\.lr: 0\.0007 -> 0\.5"):
        invoke("--resume", str(trained.folder), "train.lr=0.5", "--dry-run")
    assert sorted(path.name for path in trained.folder.rglob("*")) == before


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--resume", "nowhere"], "nowhere/checkpoints/last.pt: no such checkpoint"),
        (["train.lr=1", "--resume", "nowhere"], "nowhere/checkpoints/last.pt: no such checkpoint"),
        (["demo", "--resume", "nowhere"], "nowhere/checkpoints/last.pt: no such checkpoint"),
        (["--resume", "nowhere", "--run-dir", "x"], "--resume goes on in the run's own folder"),
        (["--resume", "auto"], "no unfinished run here"),
        (["no_such_recipe"], "no_such_recipe"),
        (["drn_d_22_imagenet", "data.root=."], "has no folders train/CLASS"),
        (["drn_d_22_camvid", "--node-rank", "0"], "--node-rank is for several machines"),
    ],
)
def test_mistakes_on_the_command_line(words, message, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DrnError) as caught:
        invoke(*words)
    assert message in str(caught.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "a recipe is needed"),
        (["easy", "--gpus", "0"], "at least 1"),
        (["easy", "--gpus", "many"], "a number, or auto"),
    ],
)
def test_usage(words, message):
    result = CliRunner().invoke(app, ["train", *words])
    assert result.exit_code == 2
    assert message in result.stderr

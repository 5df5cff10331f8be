"""`drn runs`: mostly in this process; the run folders hold what the listing reads, and no more."""

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner, Result

from drn_cli.cli.app import app
from drn_cli.errors import DrnError

RECIPE = {"task": "segmentation", "model": {"arch": "drn_d_22"}, "train": {"epochs": 20}}


def list_runs(*words: str | Path) -> Result:
    return CliRunner().invoke(app, ["runs", *map(str, words)])


def make(folder: Path, day: int, *lines: dict[str, Any], **recipe: Any) -> None:
    folder.mkdir(parents=True)
    (folder / "recipe.yaml").write_text(yaml.safe_dump(RECIPE | recipe))
    started = f"2026-01-{day:02}T12:00:00+00:00"
    (folder / "environment.json").write_text(json.dumps({"started": started}))
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    root = tmp_path / "runs"
    make(
        root / "camvid" / "old",
        1,
        {"kind": "train", "step": 90, "epoch": 19.5, "loss": 0.31234},
        {"kind": "val", "step": 100, "epoch": 20, "miou": 0.51239},
        {"kind": "end", "step": 100, "ending": "finished", "seconds": 7265},
    )
    make(
        root / "trial [2]",
        9,
        {"kind": "val", "step": 50, "epoch": 1, "top1": 0.25, "top5": 0.5},
        {"kind": "train", "step": 60, "epoch": 1.2, "loss": None},
        task="classification",
    )
    make(root / "sweep" / "camvid" / "new", 30)
    (root / "broken" / "time").mkdir(parents=True)
    (root / "broken" / "time" / "recipe.yaml").write_text("task: [")
    (root / "lost" / "time" / "checkpoints").mkdir(parents=True)
    (root / "lost" / "time" / "checkpoints" / "last.pt").touch()
    (root / "camvid" / ".old.tmp").mkdir()
    (root / "camvid" / ".old.tmp" / "recipe.yaml").touch()
    (root / "notes").mkdir()
    (root / "notes" / "readme.txt").touch()
    return root


def test_json_lists_all_the_newest_first(root: Path) -> None:
    done = list_runs("--json")
    assert done.exit_code == 0, done.output
    listed = json.loads(done.stdout)
    whole = [run for run in listed if "problem" not in run]
    assert [run["run"] for run in whole] == [
        "runs/sweep/camvid/new",
        "runs/trial [2]",
        "runs/camvid/old",
    ]
    assert [run["state"] for run in whole] == ["unfinished", "unfinished", "finished"]
    assert [run["best"] for run in whole] == [None, 0.25, 0.51239]
    assert [run["score"] for run in whole] == ["miou", "top1", "miou"]
    assert {run["run"]: run["problem"] for run in listed if "problem" in run} == {
        "runs/broken/time": "runs/broken/time/recipe.yaml:1: not valid YAML",
        "runs/lost/time": "runs/lost/time: no run folder, it has no recipe.yaml",
    }


def test_the_table(root: Path, drn) -> None:
    done = drn("runs", root)
    assert done.returncode == 0, done.stderr
    rows = [" ".join(line.split()) for line in done.stdout.splitlines()]
    assert rows[0] == "run network task state epochs best last loss time started"
    assert any(row.startswith("camvid/old drn_d_22 segmentation finished") for row in rows)
    assert any("finished 20/20 mIoU 51.24 % 0.3123 2 h 1 min 2026-01-01" in row for row in rows)
    assert any(
        "trial [2] drn_d_22 classification unfinished 1.2/20 top-1 25.00 %" in r for r in rows
    )
    assert "broken/time broken" in rows
    assert f"warning: {root}/lost/time: no run folder, it has no recipe.yaml" in done.stderr


def test_a_part_of_the_runs_or_one_of_them(root: Path) -> None:
    [run] = json.loads(list_runs("runs/camvid", "--json").stdout)
    assert run["run"] == "runs/camvid/old"
    [run] = json.loads(list_runs(root / "trial [2]", "--json").stdout)
    assert run["network"] == "drn_d_22"
    assert "trial [2]" in list_runs(root / "trial [2]").stdout


def test_no_runs_are_no_mistake_but_no_folder_is(root: Path) -> None:
    shutil.rmtree(root / "notes")
    (root / "notes").mkdir()
    done = list_runs("runs/notes")
    assert (done.exit_code, done.stdout) == (0, "")
    assert "no runs here" in done.stderr
    assert json.loads(list_runs("runs/notes", "--json").stdout) == []
    missing = list_runs("nowhere")
    assert isinstance(missing.exception, DrnError)
    assert "nowhere: no such folder" in str(missing.exception)


def test_a_trained_run(trained) -> None:
    [run] = json.loads(list_runs(trained.cwd / "runs", "--json").stdout)
    assert (run["state"], run["epoch"], run["epochs"]) == ("finished", 4, 4)
    assert 0 < run["best"] <= 1
    assert run["loss"] > 0
    assert run["network"] == "drn_a_18"


def test_listing_is_quick_to_start(root: Path, drn) -> None:
    """It reads text alone: nothing of what takes seconds to import is needed."""
    script = (
        "import sys; from drn_cli.cli import app; sys.argv[0] = 'drn'\n"
        "try: app.main()\nfinally: print('torch' in sys.modules, 'numpy' in sys.modules)"
    )
    done = type(drn)(drn.cwd, (sys.executable, "-c", script))("runs", root, "--json")
    assert done.stdout.splitlines()[-1] == "False False"

"""`drn runs`: mostly in this process; the run folders hold what the listing reads, and no more."""

import json
import os
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
        "runs/broken/time": "runs/broken/time/recipe.yaml:1:8: not valid YAML: expected the node "
        "content, but found '<stream end>'",
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


DEEP = "[" * 100_000 + "]" * 100_000
DIGITS = "9" * 5000
GARBAGE = b"\x80\x02\xff\x00PNG" * 100
HEAD = "task: segmentation\nmodel: {arch: a}\ntrain: {epochs: 1}\n"
# Nine aliases of nine aliases, and so on: a gigabyte, if it is ever written out.
BOMB = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 10)
)
LINE = '{"kind": "train", "step": 9, "epoch": 1, "loss": 0.5}\n'

# What one file of a run holds, and whether the run is still told of in a whole row.
HOSTILE = [
    ("recipe.yaml", DEEP, False),
    ("recipe.yaml", GARBAGE, False),
    ("recipe.yaml", "", False),
    ("recipe.yaml", "- a\n- b\n", False),
    ("recipe.yaml", f"task: segmentation\nmodel: {{arch: a}}\ntrain: {{epochs: {DIGITS}}}", False),
    ("recipe.yaml", "task: segmentation\nmodel: {arch: a}\ntrain: {epochs: .nan}", False),
    ("recipe.yaml", "task: segmentation\nmodel: {arch: a}\ntrain: 7", False),
    ("recipe.yaml", "task: [segmentation]\nmodel: {arch: a}\ntrain: {epochs: 1}", False),
    ("recipe.yaml", "task: segmentation\nmodel: {arch: [a]}\ntrain: {epochs: 1}", False),
    ("recipe.yaml", HEAD + BOMB, False),
    ("recipe.yaml", f"{HEAD}notes: {'x' * 300_000}\n", False),
    ("environment.json", DEEP, False),
    ("environment.json", f'{{"seed": {DIGITS}}}', False),
    ("environment.json", GARBAGE, False),
    ("environment.json", "[]", False),
    ("environment.json", '{"started": "0001-01-01T00:00:00+14:00"}', True),
    ("environment.json", '{"started": {"a": NaN}, "cores": Infinity}', True),
    ("metrics.jsonl", f"{DEEP}\n{LINE}", True),
    ("metrics.jsonl", f'{{"kind": "train", "step": {DIGITS}}}\n{LINE}', True),
    ("metrics.jsonl", f'{{"kind": "val", "step": 1{"0" * 400}}}\n{LINE}', True),
    (
        "metrics.jsonl",
        f'{{"kind": "val", "step": 9, "epoch": NaN, "miou": Infinity}}\n{LINE}',
        True,
    ),
    ("metrics.jsonl", f'{{"kind": ["val"], "step": 9, "miou": 1{"0" * 400}}}\n{LINE}', True),
    ("metrics.jsonl", f'{LINE}{{"kind": "train", "st', True),
    ("metrics.jsonl", GARBAGE + b"\n" + LINE.encode(), True),
    ("best.json", DEEP, True),
    ("best.json", f'{{"miou": {DIGITS}}}', True),
    ("best.json", GARBAGE, True),
    ("best.json", '{"iou": {"a": "b", "c": [1]}, "confusion_matrix": [[1, 2], ["x"]]}', True),
]


@pytest.mark.parametrize(("name", "content", "whole"), HOSTILE)
def test_a_damaged_file_is_a_matter_of_its_run_alone(root: Path, name, content, whole) -> None:
    """The list stays complete and valid JSON; a report is written, or refused in one line."""
    make(root / "bad", 20, {"kind": "val", "step": 1, "epoch": 1, "miou": 0.5})
    content = content if isinstance(content, bytes) else content.encode()
    (root / "bad" / name).write_bytes(content)
    done = list_runs("--json")
    assert done.exit_code == 0, done.output
    listed = json.loads(done.stdout, parse_constant=pytest.fail)
    assert len(listed) == 6
    [row] = [run for run in listed if run["run"] == "runs/bad"]
    assert ("problem" not in row) == whole
    if not whole:
        assert row["problem"].startswith(f"runs/bad/{name}")
        assert "\n" not in row["problem"]
    assert list_runs().exit_code == 0
    reported = CliRunner().invoke(app, ["report", "runs/bad", "--images", "0"])
    if whole:
        assert reported.exit_code == 0, reported.output
        assert (root / "bad" / "report.html").is_file()
    else:
        assert isinstance(reported.exception, DrnError)
        assert str(reported.exception).startswith(f"runs/bad/{name}")


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        ([DEEP], "1 line cannot be read (it is left out; "),
        (["{", "[1]", DEEP], "3 lines cannot be read (they are left out; "),
    ],
)
def test_damaged_lines_are_reported_in_the_same_words_everywhere(
    root: Path, lines: list[str], words: str
) -> None:
    (root / "trial [2]" / "metrics.jsonl").write_text("\n".join([*lines, LINE]))
    report = ["report", "runs/trial [2]", "--images", "0"]
    [missing] = json.loads(CliRunner().invoke(app, [*report, "--json"]).stdout)["missing"]
    assert missing.startswith(f"runs/trial [2]/metrics.jsonl: {words}")
    for done in (list_runs(), list_runs("--json"), CliRunner().invoke(app, report)):
        assert done.exit_code == 0, done.output
        assert missing in done.stderr


@pytest.mark.parametrize("name", ["recipe.yaml", "environment.json", "metrics.jsonl"])
def test_a_pipe_or_a_dead_link_in_place_of_a_file_is_a_broken_run(root: Path, name: str) -> None:
    for make_it in (os.mkfifo, lambda path: path.symlink_to("nowhere")):
        folder = root / f"bad_{make_it.__name__}"
        make(folder, 20)
        (folder / name).unlink()
        make_it(folder / name)
    listed = json.loads(list_runs("--json").stdout)
    problems = [run["problem"] for run in listed if run["run"].startswith("runs/bad_")]
    assert len(problems) == 2
    assert all(problem.startswith("runs/bad_") for problem in problems)

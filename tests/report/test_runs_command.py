"""`drn runs` and `drn report` on runs whose files are damaged."""

import json
import os
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
    make(root / "camvid" / "old", 1)
    make(root / "trial [2]", 9)
    return root


def test_removing_a_run_asks_first(root: Path) -> None:
    for answer, words, kept in (
        ("n\n", (), True),
        ("", (), True),
        ("y\n", (), False),
        ("", ("--yes",), False),
    ):
        folder = root / "again"
        if not folder.exists():
            make(folder, 3)
        arguments = ["runs", "--remove", "runs/again", *words]
        done = CliRunner().invoke(app, arguments, input=answer)
        assert folder.exists() == kept, done.output
        assert ("removed runs/again" in done.stderr) != kept


def test_listing_is_quick_to_start(root: Path, drn) -> None:
    """It reads text only, and does not import what takes seconds."""
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

# What one file of a run holds, and whether its row in the list is whole all the same.
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
def test_a_damaged_file_affects_its_run_only(root: Path, name, content, whole) -> None:
    """The list stays complete and valid JSON; a report is written, or refused in one line."""
    make(root / "bad", 20, {"kind": "val", "step": 1, "epoch": 1, "miou": 0.5})
    content = content if isinstance(content, bytes) else content.encode()
    (root / "bad" / name).write_bytes(content)
    done = list_runs("--json")
    assert done.exit_code == 0, done.output
    listed = json.loads(done.stdout, parse_constant=pytest.fail)
    assert len(listed) == 3
    [row] = [run for run in listed if run["run"] == "runs/bad"]
    assert ("error" not in row) == whole
    if not whole:
        assert row["error"].startswith(f"runs/bad/{name}")
        assert "\n" not in row["error"]
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
    [missing] = json.loads(CliRunner().invoke(app, [*report, "--json"]).stdout)["warnings"]
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
    problems = [run["error"] for run in listed if run["run"].startswith("runs/bad_")]
    assert len(problems) == 2
    assert all(problem.startswith("runs/bad_") for problem in problems)

"""`drn runs`: what is read of a run's files, also of damaged ones; and `drn report` on those."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from drn_cli.cli.app import app
from drn_cli.errors import DrnError
from drn_cli.runs import Run

from .conftest import recipe, segmentation_val, train_line, whole_history, write_lines, write_run

# Trains in a folder, as far as others can see, until its standard input ends.
TRAINING = """
import sys
from pathlib import Path
from drn_cli.runs import Run
with Run(Path(sys.argv[1])).claimed():
    print("claimed", flush=True)
    sys.stdin.read()
"""
DEEP = "[" * 100_000 + "]" * 100_000
DIGITS = "9" * 5000
GARBAGE = b"\x80\x02\xff\x00PNG" * 100
HEAD = "task: segmentation\nmodel: {arch: a}\ntrain: {epochs: 1}\n"
# Nine aliases of nine aliases, and so on: a gigabyte, if it is ever written out.
BOMB = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 10)
)
LINE = '{"kind": "train", "step": 9, "epoch": 1, "loss": 0.5}\n'


def drn(*words: object, **options: Any) -> Result:
    return CliRunner().invoke(app, [*map(str, words)], **options)


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """runs/a in the current folder, finished."""
    monkeypatch.chdir(tmp_path)
    return write_run(Path("runs/a"), recipe(tmp_path), whole_history())


def listed(run: Run) -> dict[str, Any]:
    done = drn("runs", run.folder, "--json")
    assert done.exit_code == 0, done.output
    [found] = json.loads(done.stdout, parse_constant=pytest.fail)
    return found


def test_finished_run(run: Run) -> None:
    found = listed(run)
    assert found.pop("loss") == pytest.approx(10 / 45)
    assert found == {
        "run": "runs/a",
        "arch": "drn_a_18",
        "width": 0.0625,
        "task": "segmentation",
        "state": "finished",
        "step": 40,
        "epoch": 4.0,
        "epochs": 4.0,
        "metric": "miou",
        "best": 0.5,
        "best_epoch": 3.0,
        "val_loss": 0.5,
        "seconds": 4000.5,
        "started": "2026-01-31T12:00:00+00:00",
        "differences": {},
    }


@pytest.mark.parametrize(
    ("lines", "state"),
    [
        (whole_history("interrupted"), "interrupted"),
        ([*whole_history("interrupted"), train_line(41)], "finished"),  # resumed
        ([train_line(1)], "unfinished"),
        ([segmentation_val(3, 0.5)], "unfinished"),
        ([segmentation_val(4, 0.5)], "finished"),  # an older version wrote no more
        ([], "unfinished"),
    ],
)
def test_states(run: Run, lines: list[dict[str, Any]], state: str) -> None:
    write_lines(run.metrics, lines)
    assert listed(run)["state"] == state


def test_run_in_training_is_running(run: Run) -> None:
    words = [sys.executable, "-c", TRAINING, str(run.folder)]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as training:
        assert training.stdout is not None
        assert training.stdout.readline() == b"claimed\n"
        assert listed(run)["state"] == "running"
        training.communicate()
    assert listed(run)["state"] == "finished"


@pytest.mark.parametrize(
    ("rest", "step"),
    [
        ('{"kind": "train", "step": 2, "ep', 1),
        (json.dumps(train_line(2)), 1),  # a line that only lacks its end may be half of a number
        ('\0\n[1]\n{"kind": "train"}\n' + json.dumps(train_line(3)) + "\n", 3),
    ],
)
def test_damaged_lines_are_left_out(run: Run, rest: str, step: int) -> None:
    write_lines(run.metrics, [train_line(1)])
    with run.metrics.open("a") as file:
        file.write(rest)
    assert listed(run)["step"] == step


def test_last_finite_loss_and_first_of_equal_bests(run: Run) -> None:
    vals = [segmentation_val(epoch, miou) for epoch, miou in ((1, 0.3), (2, 0.4), (3, 0.4))]
    write_lines(run.metrics, [*vals, train_line(31, loss=0.5), train_line(32, loss=None)])
    with run.metrics.open("a") as file:
        for step, loss in ((33, "NaN"), (34, "true"), (35, f"1{'0' * 400}")):
            file.write(f'{{"kind":"train","step":{step},"loss":{loss}}}\n')
    found = listed(run)
    assert (found["step"], found["loss"], found["best_epoch"]) == (35, 0.5, 2)


# A file of a run, its content, and the problem that is named; None if it can be read.
DAMAGED = [
    ("recipe.yaml", DEEP, ""),
    ("recipe.yaml", GARBAGE, ""),
    ("recipe.yaml", "", ""),
    ("recipe.yaml", "a: b\n  c: [", ":2:4: not valid YAML"),
    ("recipe.yaml", "- a\n- b\n", ":1: should be a mapping"),
    ("recipe.yaml", "task: segmentation", ": model.arch: expected a name, found nothing"),
    ("recipe.yaml", f"{HEAD[:-3]}{DIGITS}}}", ""),
    ("recipe.yaml", f"{HEAD[:-3]}.nan}}", ": train.epochs: expected a number, found nan"),
    ("recipe.yaml", f"{HEAD[:-3]}many}}", ": train.epochs: expected a number, found 'many'"),
    ("recipe.yaml", "task: segmentation\nmodel: {arch: a}\ntrain: 7", ": train.epochs: expected"),
    (
        "recipe.yaml",
        HEAD.replace("segmentation", "3"),
        ": task: expected segmentation or classification",
    ),
    ("recipe.yaml", "task: [x]\nmodel: {arch: a}", ": task: expected segmentation or"),
    ("recipe.yaml", HEAD.replace("a}", "[a]}"), ": model.arch: expected a name, found ['a']"),
    ("recipe.yaml", HEAD + BOMB, ""),
    ("recipe.yaml", f"{HEAD}notes: {'x' * 300_000}\n", ""),
    ("environment.json", DEEP, ""),
    ("environment.json", f'{{"seed": {DIGITS}}}', ""),
    ("environment.json", GARBAGE, ""),
    ("environment.json", "[]", ": expected an object"),
    ("environment.json", '{"started": "0001-01-01T00:00:00+14:00"}', None),
    ("environment.json", '{"started": {"a": NaN}, "cores": Infinity, "command": [1]}', None),
    ("metrics.jsonl", f"{DEEP}\n{LINE}", None),
    ("metrics.jsonl", f'{{"kind": "train", "step": {DIGITS}}}\n{LINE}', None),
    ("metrics.jsonl", f'{{"kind": "val", "step": 1{"0" * 400}}}\n{LINE}', None),
    ("metrics.jsonl", f'{{"kind": "val", "step": 9, "epoch": NaN, "miou": NaN}}\n{LINE}', None),
    ("metrics.jsonl", f'{{"kind": ["val"], "step": 9, "miou": 1{"0" * 400}}}\n{LINE}', None),
    ("metrics.jsonl", GARBAGE + b"\n" + LINE.encode(), None),
    ("best.json", DEEP, None),
    ("best.json", GARBAGE, None),
    ("best.json", "[1]", None),
    ("best.json", '{"iou": {"a": "b", "c": [1]}, "confusion_matrix": [[1, 2], ["x"]]}', None),
    ("best.json", '{"iou": "x", "category_iou": 3, "confusion_matrix": {}}', None),
]


@pytest.mark.parametrize(("name", "content", "problem"), DAMAGED)
def test_damaged_file_affects_its_run_only(run: Run, name, content, problem) -> None:
    """The list stays complete and valid JSON; a report is written, or refused in one line."""
    bad = write_run(Path("runs/bad"), recipe(Path()), [segmentation_val(1, 0.5)]).folder
    (bad / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    rows = json.loads(drn("runs", "--json").stdout, parse_constant=pytest.fail)
    assert {row["run"] for row in rows} == {"runs/a", "runs/bad"}
    [row] = [row for row in rows if row["run"] == "runs/bad"]
    assert drn("runs").exit_code == 0
    done = drn("report", bad, "--images", 0, "--figures", "figures")
    if problem is None:
        assert "error" not in row
        assert done.exit_code == 0, done.output
        assert (bad / "report.html").is_file()
    else:
        assert row["error"].startswith(f"runs/bad/{name}{problem}")
        assert "\n" not in row["error"]
        assert isinstance(done.exception, DrnError)
        assert str(done.exception).startswith(f"runs/bad/{name}")


@pytest.mark.parametrize("name", ["recipe.yaml", "environment.json", "metrics.jsonl"])
def test_pipe_or_dead_link_instead_of_a_file(run: Run, name: str) -> None:
    for make in (os.mkfifo, lambda path: path.symlink_to("nowhere")):
        file = write_run(Path(f"runs/bad_{make.__name__}"), recipe(Path()), []).folder / name
        file.unlink()
        make(file)
    rows = json.loads(drn("runs", "--json").stdout)
    problems = [row["error"] for row in rows if row["run"].startswith("runs/bad_")]
    assert len(problems) == 2
    assert all(problem.startswith("runs/bad_") for problem in problems)


def test_damaged_lines_give_one_warning_everywhere(run: Run) -> None:
    run.metrics.write_text("\n".join(["{", "[1]", DEEP, LINE]))
    report = ["report", run.folder, "--images", 0]
    [warning] = json.loads(drn(*report, "--json").stdout)["warnings"]
    assert warning.startswith("runs/a/metrics.jsonl: 3 of 4 lines cannot be read (left out; ")
    for done in (drn("runs"), drn("runs", "--json"), drn(*report)):
        assert done.exit_code == 0, done.output
        assert warning in done.stderr


@pytest.mark.parametrize(
    ("written", "started"),
    [("", None), ("yesterday", None), ("2026-01-31T12:00:00", "2026-01-31T12:00:00+00:00")],
)
def test_unmeasured_run_and_its_start(run: Run, written: str, started: str | None) -> None:
    run.metrics.unlink()
    run.environment.unlink()
    if written:
        run.environment.write_text(json.dumps({"started": written}))
    found = listed(run)
    assert found["state"] == "unfinished"
    assert (found["step"], found["epoch"], found["started"]) == (0, 0, started)
    assert [found[key] for key in ("best", "best_epoch", "loss", "seconds")] == [None] * 4


@pytest.mark.parametrize(
    ("answer", "words", "kept"),
    [("n\n", (), True), ("", (), True), ("y\n", (), False), ("", ("--yes",), False)],
)
def test_removing_a_run_asks_first(run: Run, answer: str, words: tuple[str], kept: bool) -> None:
    done = drn("runs", "--remove", run.folder, *words, input=answer)
    assert run.folder.exists() == kept, done.output
    assert ("removed runs/a" in done.stderr) != kept


def test_listing_imports_neither_torch_nor_numpy(run: Run) -> None:
    script = (
        "import sys; from drn_cli.cli import app; sys.argv = ['drn', 'runs', '--json']\n"
        "try: app.main()\nfinally: print('torch' in sys.modules, 'numpy' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], check=False, capture_output=True, text=True
    )
    assert done.stdout.splitlines()[-1] == "False False", done.stderr

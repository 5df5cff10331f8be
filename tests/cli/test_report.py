"""`drn report` on a run that was really trained: mostly in this process, which is quicker."""

import json
import os
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from drn_cli.cli.app import app
from drn_cli.errors import DrnError


def report(*words: str | Path) -> Result:
    return CliRunner(env={"COLUMNS": "200"}).invoke(app, ["report", *map(str, words)])


@pytest.fixture
def here(trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with two runs, the second of which measured last."""
    for name, time in (("first", 2_000_000_000), ("second", 2_000_000_100)):
        folder = tmp_path / "runs" / "easy" / name
        shutil.copytree(trained.folder, folder)
        os.utime(folder / "metrics.jsonl", (time, time))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_process_writes_the_page_of_the_run_that_measured_last(drn, here: Path) -> None:
    done = drn("report")
    assert done.returncode == 0, done.stderr
    page = Path("runs/easy/second/report.html")
    assert done.stdout == f"{page}\n"
    html = (here / page).read_text()
    assert "easy/second" in html
    assert html.count("<img ") == 5 * 4
    assert "warning" not in done.stderr
    assert not (here / "runs/easy/first/report.html").exists()


def test_json_says_what_was_written(here: Path) -> None:
    done = report("runs/easy/first", "--out", "made/page.html", "--pictures", "2", "--json")
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout) == {
        "run": "runs/easy/first",
        "page": "made/page.html",
        "pictures": 2,
        "missing": [],
    }
    assert (here / "made" / "page.html").is_file()


def test_without_its_data_the_page_is_made_and_a_warning_given(drn, here: Path) -> None:
    done = drn("report", "runs/easy/first", "--data", "absent", "--json")
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert said["pictures"] == 0
    assert said["missing"] == ["no pictures: absent: no such data folder"]
    assert done.stderr == "warning: no pictures: absent: no such data folder\n"
    html = Path(said["page"]).read_text()
    assert "No pictures: absent: no such data folder." in html
    assert "<svg" in html


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["nowhere"], "nowhere: no such run folder"),
        (["runs"], r"runs: no run folder, it has no recipe\.yaml"),
        (["runs/easy/first", "--out", "runs/easy"], "runs/easy: cannot be written"),
    ],
)
def test_mistakes(here: Path, words: list[str], said: str) -> None:
    done = report(*words)
    assert isinstance(done.exception, DrnError), done.output
    with pytest.raises(DrnError, match=said):
        raise done.exception


def test_without_any_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    done = report()
    assert isinstance(done.exception, DrnError)
    assert "no run here has measured anything yet" in str(done.exception)

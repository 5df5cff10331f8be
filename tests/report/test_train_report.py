"""The report that `drn train` writes at its end."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from drn_cli.cli.app import app

from .pages import Page


def test_a_training_ends_with_a_report_or_a_warning(
    recipe_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    short = ("train", str(recipe_file), "model.width=0.0625", "train.epochs=1")
    for name in ("blocked", "without"):
        Path(name).mkdir()
    Path("blocked/report.html").mkdir()
    for name, option, page in (
        ("a", [], "a/report.html"),
        ("blocked", [], None),
        ("without", ["--no-report"], None),
    ):
        done = CliRunner().invoke(app, [*short, "--run-dir", name, "--json", *option])
        assert done.exit_code == 0, done.output
        assert json.loads(done.stdout)["report"] == page
        assert ("warning: no report: blocked/report.html: " in done.stderr) == (name == "blocked")
        assert Path(name, "report.html").is_file() == (page is not None)
    page = Page(Path("a/report.html"))
    assert "✓ finished" in page.text
    assert len(page.images["prediction"]) == 5
    assert len(page.images["crop"]) == 18

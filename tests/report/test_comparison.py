"""`drn report RUN RUN ...`, and figures for papers."""

import json
import re
import shutil
from pathlib import Path
from xml.etree import ElementTree

import pytest

from drn_cli.runs import Run

from .conftest import Command, segmentation_val, train_line, write_lines
from .pages import Page

NETWORK = "drn_a_18 (width 0.0625)"
FIGURES = ("loss", "score", "learning_rate", "throughput", "gradient_norm", "waiting")


@pytest.fixture
def runs(segmentation_run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """runs/easy/first and runs/easy/second, which differ, in the current folder."""
    monkeypatch.chdir(tmp_path)
    folders = [Path("runs/easy/first"), Path("runs/easy/second")]
    for folder in folders:
        shutil.copytree(segmentation_run.folder, folder)
    second = Run(folders[1])
    lines = [train_line(step, loss=3.0) for step in range(1, 21)]
    write_lines(second.metrics, [*lines, segmentation_val(2, 0.75)])
    text = second.recipe.read_text().replace("lr: 0.01", "lr: 0.02").replace("seed: 0", "seed: 7")
    second.recipe.write_text(text + "new_key: [1, a]\n")
    iou = {"red": 0.1, "green": 0.9, "blue": None, "extra": 0.2496}
    second.scores.write_text(json.dumps({"iou": iou, "confusion_matrix": [[1, 0, 0, 0]] * 4}))
    first = json.loads(Run(folders[0]).scores.read_text())
    first["iou"] = {"red": 0.25, "green": 0.25, "extra": 0.25}
    Run(folders[0]).scores.write_text(json.dumps(first))
    return folders


def test_comparison_shows_differences(runs: list[Path], drn_report: Command) -> None:
    done = drn_report(*runs)
    assert done.stdout == "report.html\n"
    page = Page(Path("report.html"))
    assert page.tables[""][1:] == [
        ["first", "✓ finished", NETWORK, "50.00 %", "3", "4 of 4", "0.2222", "101", "1 h 6 min"],
        ["second", "… unfinished", NETWORK, "75.00 %", "2", "2 of 4", "3", "101", ""],
    ]
    assert page.tables["recipe"] == [
        ["key", "first", "second"],
        ["train.lr", "0.01", "0.02"],
        ["train.seed", "0", "7"],
        ["new_key", "null", '[1, "a"]'],
    ]
    assert page.tables["classes"] == [
        ["class", "first", "second"],
        ["red", "25.0 %", "10.0 % -15.0"],
        ["green", "25.0 %", "90.0 % +65.0"],
        ["extra", "25.0 %", "25.0 % +0.0"],
        ["blue", "", ""],
    ]
    assert tuple(page.curves) == FIGURES
    assert [(name, color) for name, color, _ in page.curves["loss"]] == [
        *(("first, training", 0), ("first, validation", 0), ("second, training", 1))
    ]
    assert [len(points) for *_, points in page.curves["learning_rate"]] == [40, 20]


def test_equal_runs_have_unique_names(runs: list[Path], drn_report: Command) -> None:
    shutil.copytree(runs[0], "other/first")
    drn_report(runs[0], "other/first", "--out", "made/both.html")
    page = Page(Path("made/both.html"))
    assert "The recipes are equal." in page.text
    assert page.tables["classes"][0] == ["class", "easy/first", "other/first"]


def test_runs_of_an_older_version_without_scores(runs: list[Path], drn_report: Command) -> None:
    text = "task: segmentation\nmodel: {arch: drn_x}\ntrain: {epochs: 3, new: 1}"
    Run(runs[1]).recipe.write_text(text)
    for folder in runs:
        Run(folder).scores.unlink()
        Run(folder).metrics.unlink()
    assert drn_report(*runs).exit_code == 0
    page = Page(Path("report.html"))
    assert "Nothing was measured yet." in page.text
    assert "classes" not in page.tables
    assert ["train.epochs", "4", "3"] in page.tables["recipe"]
    assert ["augment.crop", "32", "null"] in page.tables["recipe"]


def test_figures_are_vector_text_in_column_width(runs: list[Path], drn_report: Command) -> None:
    words = (runs[0], "--images", 0, "--figures", "figures", "--json")
    done = drn_report(*words)
    names = [*FIGURES, "class_iou", "confusion"]
    written = [f"figures/{name}.{kind}" for name in names for kind in ("pdf", "svg")]
    assert json.loads(done.stdout)["figures"] == written
    expected = {
        "loss": {"epoch", "Loss", "training", "validation"},
        "class_iou": {"red", "green", "extra", "IoU, %"},
        "confusion": {"Prediction", "Label", "33", "67"},
    }
    for name in names:
        drawing = ElementTree.parse(f"figures/{name}.svg").getroot()
        assert drawing.attrib["width"] == "234pt"  # 3.25 inches
        nodes = drawing.iter("{http://www.w3.org/2000/svg}text")
        assert expected.get(name, {"epoch"}) <= {"".join(node.itertext()) for node in nodes}
        assert b"<image" not in Path(f"figures/{name}.svg").read_bytes() or name == "confusion"
        pdf = Path(f"figures/{name}.pdf").read_bytes()
        assert b"/Subtype /TrueType" in pdf or b"/CIDFontType2" in pdf
        assert b"/Subtype /Type3" not in pdf
        assert re.search(rb"/MediaBox \[ 0 0 234 ", pdf)
    before = {path: path.read_bytes() for path in Path("figures").iterdir()}
    drn_report(*words)
    assert before == {path: path.read_bytes() for path in Path("figures").iterdir()}


def test_figures_of_several_runs(runs: list[Path], drn_report: Command) -> None:
    done = drn_report(*runs, "--figures", "figures")
    made = {Path(line).name for line in done.stdout.splitlines()}
    assert {"report.html", "loss.pdf", "class_iou.svg", "confusion_second.pdf"} <= made
    svg = Path("figures/class_iou.svg").read_text()
    assert ">first</text>" in svg
    assert ">blue</text>" in svg

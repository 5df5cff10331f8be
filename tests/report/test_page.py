"""Whole pages of runs in every state that a run can be in."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from drn_cli.errors import DrnError
from drn_cli.report.page import write_report
from drn_cli.runs import Run

from .folders import (
    classification_recipe,
    segmentation_recipe,
    segmentation_val,
    train_line,
    val_line,
    whole_history,
    write_lines,
    write_run,
)
from .outline import Outline, read_page


def test_a_finished_run(segmentation_run: Run, page: Path) -> None:
    html, text = read_page(page)
    scores = json.loads(segmentation_run.scores.read_text())
    assert "easy/ 2026-01-31_12-00-00 ✓ finished" in text
    assert f"mIoU {100 * scores['miou']:.2f} %" in text
    assert "Epochs 4 of 4" in text
    assert "Wall time 1 h 6 min" in text
    for name, iou in scores["iou"].items():
        assert f"{name} {100 * iou:.1f} %" in text
    assert "all 5 validation pictures" in text
    assert "NVIDIA H200" in text
    assert "arch: drn_a_18" in text
    assert html.count("<svg") == 6
    assert len(html) < 300_000
    assert [path.name for path in page.parent.iterdir()] == ["page.html"]


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        (None, "Nothing was measured yet."),
        ([train_line(1)], "mIoU not validated yet"),
        ([train_line(1, loss=None, skipped=1)], "Epochs 0.1 of 4"),
        ([train_line(1), segmentation_val(1, 0.5)], "Best at epoch 1"),
        (whole_history("interrupted"), "❚❚ interrupted"),
        ([train_line(1)], "… unfinished"),
    ],
)
def test_runs_of_all_ages(
    tmp_path: Path, data_folder: Path, lines: list[dict[str, Any]] | None, said: str
) -> None:
    run = write_run(tmp_path / "run", segmentation_recipe(data_folder), lines)
    made = write_report(run, tmp_path / "page.html")
    _, text = read_page(made.path)
    assert said in text
    assert "not there yet" in text
    assert made.pictures == 0
    assert [line for line in made.missing if "no pictures" in line]


def test_a_run_without_best_json_shows_the_best_line(segmentation_run: Run, tmp_path: Path) -> None:
    run = Run(Path(shutil.copytree(segmentation_run.folder, tmp_path / "run")))
    run.scores.unlink()
    made = write_report(run, tmp_path / "page.html", pictures=0)
    _, text = read_page(made.path)
    assert "mIoU 50.00 %" in text
    assert "kept no confusion matrix" in text
    assert "No pictures: none were asked for." in text
    assert made.missing == ()


def test_what_is_broken_is_said_and_the_page_made(segmentation_run: Run, tmp_path: Path) -> None:
    run = Run(Path(shutil.copytree(segmentation_run.folder, tmp_path / "run")))
    run.scores.write_text('{"miou": 0.')
    write_lines(run.metrics, [train_line(1), segmentation_val(1, 0.25)])
    with run.metrics.open("a") as file:
        file.write('gibberish\n{"kind": "train", "st')
    made = write_report(run, tmp_path / "page.html", data=tmp_path / "absent")
    _, text = read_page(made.path)
    assert "mIoU 25.00 %" in text
    assert "best.json:1: not valid JSON" in text
    assert "metrics.jsonl: 1 line cannot be read (it is left out; " in text
    assert "absent: no such data folder" in text
    assert len(made.missing) == 3


def test_a_classification_run(classification_run: Run, tmp_path: Path) -> None:
    made = write_report(classification_run, tmp_path / "page.html", pictures=4)
    html, text = read_page(made.path)
    assert made.pictures == 4
    assert "4, evenly spaced, of the 6 validation pictures" in text
    assert "Top-1 accuracy 25.00 % Top-5 accuracy 75.00 %" in text
    assert "true wren predicted" in text
    assert text.count("✓ right") + text.count("✗ wrong") == 4
    assert 'id="classes"' not in html
    assert 'name="shown"' not in html


def test_a_thousand_classes(tmp_path: Path) -> None:
    lines = [train_line(10), val_line(1, top1=0.7, top5=0.9)]
    recipe = classification_recipe(tmp_path / "imagenet", 1000)
    run = write_run(tmp_path / "run", recipe, lines)
    _, text = read_page(write_report(run, tmp_path / "page.html").path)
    assert "Top-1 accuracy 70.00 %" in text


def test_nothing_from_the_files_is_taken_for_html(tmp_path: Path, data_folder: Path) -> None:
    evil = "</script></style><script>alert(1)</script><img src=http://x.example/>\"'&"
    environment = {"device": evil, evil: evil, "data": {evil: evil}, "command": [evil], "drn": 1}
    best = {"epoch": 1, "step": 3, "iou": {evil: 0.5, "b": 0.25}, "miou": 0.375}
    best["confusion_matrix"] = [[1, 2], [3, 4]]
    lines = [train_line(1, odd=evil), segmentation_val(1, 0.375)]
    run = write_run(tmp_path / "<b>&", segmentation_recipe(data_folder), lines, environment)
    run.scores.write_text(json.dumps(best))
    run.recipe.write_text(run.recipe.read_text() + f"# {evil}\n")
    made = write_report(run, tmp_path / "page.html")
    html = made.path.read_text()
    outline = Outline(html)
    assert html.count("<script") == 1
    assert outline.sources == ["data:,"]
    assert "".join(outline.text).count(evil) > 6
    assert "b" not in outline.open


def test_no_run_folder_and_no_place_to_write(segmentation_run: Run, tmp_path: Path) -> None:
    with pytest.raises(DrnError, match="no run folder"):
        write_report(Run(tmp_path), tmp_path / "page.html")
    (tmp_path / "file").touch()
    with pytest.raises(DrnError, match="cannot be written"):
        write_report(segmentation_run, tmp_path / "file" / "page.html", pictures=0)

"""Pages of `drn eval --report` and `drn localize --eval --report`."""

import csv
import json
import re
from collections.abc import Callable
from html import unescape
from pathlib import Path
from typing import Any

import colour_classifier
import numpy as np
import pytest
from colour_classifier import draw, save
from typer.testing import CliRunner

from drn_cli.cli.app import app
from drn_cli.runs import Run

from .pages import Page

EVIL = "<script>alert(1)<&\"'.png"
BOXES = {"red.png": ("red", (20, 8, 59, 47)), "blue.png": ("blue", (50, 10, 90, 55))}
RECT = 'class="over {}" x="(.*?)" y="(.*?)" width="(.*?)" height="(.*?)"'


@pytest.fixture
def drn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., dict[str, Any]]:
    """Run a command in a temporary folder; return its JSON."""
    monkeypatch.chdir(tmp_path)
    runner = CliRunner()

    def run(*words: object) -> dict[str, Any]:
        done = runner.invoke(app, [*map(str, words), "--json"])
        assert done.exit_code == 0, done.output
        return dict(json.loads(done.stdout))

    return run


@pytest.fixture
def maps(drn: object, tmp_path: Path) -> tuple[Path, Path]:
    """Predictions and labels of two classes: c.png is all void, a.png better than the other."""
    folders = tmp_path / "made", tmp_path / "gt"
    label = np.repeat([[0] * 8 + [1] * 8], 12, axis=0).astype(np.uint8)
    for folder in folders:
        folder.mkdir()
    for name, wrong in (("a.png", 1), ("b.png", 4), (EVIL, 2), ("c.png", 0)):
        prediction = label.copy()
        prediction[:wrong] = 1 - prediction[:wrong]
        save(folders[0] / name, prediction)
        save(folders[1] / name, np.full_like(label, 255) if name == "c.png" else label)
    return folders


def shown(page: Page) -> list[tuple[str, str]]:
    """Return name and score of the segmented images, in their order."""
    found = re.findall(r'<figcaption>(.*?)\n+<span class="name">(.*?)</span>', page.html)
    return [(unescape(name), text) for text, name in found]


def test_segmentation_network(
    drn: Callable[..., Any], segmentation_run: Run, data_folder: Path
) -> None:
    scores = drn("eval", segmentation_run.folder, "--data", data_folder, "--report", "e.html")
    page = Page(Path("e.html"))
    assert f"mIoU {100 * scores['miou']:.2f} %" in page.text
    assert f"Pixel accuracy {100 * scores['pixel_accuracy']:.2f} %" in page.text
    assert "Images 5 Scales 1" in page.text
    assert "5 of 5 images by mIoU, the worst first." in page.text
    for row, (name, iou) in zip(page.tables["classes"][1:], scores["iou"].items(), strict=True):
        assert row[0] == name
        assert row[2] == f"{100 * iou:.1f} %"
    mious = [float(re.findall(r"mIoU ([\d.]+) %", text)[0]) for _, text in shown(page)]
    assert mious == sorted(mious)
    assert "Protocol" not in page.text


def test_saved_predictions_are_ranked(drn: Callable[..., Any], maps: tuple[Path, Path]) -> None:
    words = ("--predictions", "made", "--labels", "gt", "--classes", 2, "--report", "e.html")
    scores = drn("eval", *words)
    page = Page(Path("e.html"))
    assert shown(page) == [
        ("b.png", "mIoU 50.0 %, 66.7 % of pixels right"),
        (EVIL, "mIoU 71.4 %, 83.3 % of pixels right"),
        ("a.png", "mIoU 84.6 %, 91.7 % of pixels right"),
    ]
    assert "3 of 3 images by mIoU, the worst first. Not scored, all void: 1." in page.text
    assert f"Protocol {scores['protocol']['text']}" in page.text
    assert "made against gt" in page.text
    assert set(page.images) == {"prediction", "label", "difference"}
    assert "Images 4" in page.text
    drn("eval", *words, "--report-images", 2)
    page = Page(Path("e.html"))
    assert [name for name, _ in shown(page)] == ["b.png", "a.png"]
    assert page.text.index("The worst") < page.text.index("The best")
    drn("eval", *words, "--report-images", 1)
    assert [name for name, _ in shown(Page(Path("e.html")))] == ["b.png"]
    drn("eval", *words, "--report-images", 0)
    assert "No images: none were asked for." in Page(Path("e.html")).text


def test_absent_classes_and_categories(drn: Callable[..., Any], maps: tuple[Path, Path]) -> None:
    words = ("--predictions", "made", "--labels", "gt", "--report", "e.html")
    scores = drn("eval", *words, "--classes", 19, "--labels-hold", "train-ids")
    page = Page(Path("e.html"))
    assert "Absent classes, not in the mean building, wall" in page.text
    assert f"mIoU of categories {100 * scores['category_miou']:.2f} %" in page.text
    assert ["flat", "", "100.0 %"] in page.tables["classes"]
    assert ["building", "", "absent", "0.0 %"] in page.tables["classes"]


def test_classifier(drn: Callable[..., Any], classification_run: Run, birds: Path) -> None:
    words = ("eval", classification_run.folder, "--data", birds, "--csv", "e.csv")
    scores = drn(*words, "--report", "e.html", "--report-images", 4)
    page = Page(Path("e.html"))
    assert f"Top-1 accuracy {100 * scores['top1']:.2f} %" in page.text
    assert "View 1-crop" in page.text
    assert "4 of 6 images by rank of the true class, the worst first." in page.text
    assert len(page.images["image"]) == 4
    worst = next(csv.DictReader(Path("e.csv").read_text().splitlines()))
    assert f"✗ wrong label {worst['class']} prediction {worst['class_1']}" in page.text


@pytest.fixture
def localized(drn: Callable[..., Any]) -> dict[str, Any]:
    """The page e.html of two images of which one box is right."""
    run = colour_classifier.write_run(Path("colors"), side=64, resize=64)
    save(Path("photos/red.png"), draw(64, 96, {"red": BOXES["red.png"][1]}, 1))
    save(Path("photos/blue.png"), draw(64, 96, {"blue": (4, 10, 45, 55)}, 2))
    with Path("boxes.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(("image", "class", "xmin", "ymin", "xmax", "ymax"))
        for name, (kind, corners) in BOXES.items():
            table.writerow((name, kind, *corners))
    words = ("localize", "photos", "--eval", "--boxes", "boxes.csv", "--weights", run)
    return drn(*words, "--thresholds", "0,1000", "--csv", "e.csv", "--report", "e.html")


def test_localization(localized: dict[str, Any]) -> None:
    page = Page(Path("e.html"))
    assert "Localization: colors/checkpoints/best.safetensors" in page.text
    assert f"Top-1 error {100 * localized['top1_error']:.2f} %" in page.text
    assert [row[0] for row in page.tables["thresholds"]][:2] == ["threshold", "0 (best)"]
    assert page.tables["thresholds"][2] == ["1000", "100.00 %", "100.00 %"]
    assert "2 of 2 images by overlap of the top-1 box, the worst first." in page.text
    assert "The threshold was chosen on these images." in page.text
    figures = page.html.split("<figure")[1:]
    assert len(figures) == 2
    rows = list(csv.DictReader(Path("e.csv").read_text().splitlines()))
    for figure, row, verdict in zip(figures, rows, ("✗ wrong", "✓ right"), strict=True):
        assert verdict in figure
        assert f"overlap {100 * float(row['iou']):.0f} %" in figure
        assert row["image"] in figure
        corners = [float(row[name]) for name in ("xmin", "ymin", "xmax", "ymax")]
        [found, again] = re.findall(RECT.format("found"), figure)
        assert found == again  # over the image, and over the heat map
        x, y, width, height = map(float, found)
        assert [x, y, x + width - 1, y + height - 1] == pytest.approx(corners, abs=0.11)
        [true, _] = re.findall(RECT.format("true"), figure)
        left, top, right, bottom = BOXES[Path(row["image"]).name][1]
        assert list(map(float, true)) == [left, top, right - left + 1, bottom - top + 1]
    assert len(page.images["heat"]) == 2
    assert page.images["heat"][0] == "Activation of blue"


def test_large_images_are_shrunk(
    drn: Callable[..., Any], tmp_path: Path, data_folder: Path
) -> None:
    for folder in ("made", "gt"):
        save(tmp_path / folder / "wide.png", np.zeros((16, 1120), np.uint8))
        save(tmp_path / folder / "small.png", np.ones((16, 48), np.uint8))
    drn("eval", "--predictions", "made", "--labels", "gt", "--classes", 2, "--report", "e.html")
    html = Path("e.html").read_text()
    sizes = re.findall(r'class="label".*?width="(\d+)" height="(\d+)"', html)
    assert set(sizes) == {("560", "8"), ("48", "16")}

"""`drn report RUN`: pages of runs in every state; and the page that `drn train` writes."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from drn_cli.cli.app import app
from drn_cli.data.augment import Augmentation
from drn_cli.data.images import read_image, read_label
from drn_cli.inference.loading import load_predictor
from drn_cli.report.page import write_report
from drn_cli.runs import Run

from .conftest import (
    Command,
    recipe,
    segmentation_val,
    train_line,
    val_line,
    whole_history,
    write_lines,
    write_run,
)
from .pages import Page


def iou(label: np.ndarray, prediction: np.ndarray) -> list[float]:
    valid = label != 255
    pairs = [((label == k) & valid, (prediction == k) & valid) for k in range(3)]
    return [(a & b).sum() / (a | b).sum() for a, b in pairs if (a | b).any()]


@pytest.fixture(scope="module")
def page(segmentation_run: Run, tmp_path_factory: pytest.TempPathFactory) -> Page:
    return Page(write_report([segmentation_run], tmp_path_factory.mktemp("page") / "a.html").page)


def test_head_and_order_of_the_page(page: Page) -> None:
    assert "easy/ first ✓ finished" in page.text
    head = "Task segmentation Network drn_a_18 (width 0.0625) mIoU 25.00 % Best at epoch 3 Epochs"
    assert f"{head} 4 of 4 Training loss 0.2222 Images per second 101 Wall time 1 h" in page.text
    order = re.findall('<section id="(.*?)"', page.html)
    assert order == [
        *("predictions", "crops", "curves", "classes", "confusion"),
        *("throughput", "reproduce", "environment"),
    ]
    assert len(page.html) < 400_000


def test_predictions_beside_labels(page: Page, segmentation_run: Run, data_folder: Path) -> None:
    assert "5 of 5 validation images, evenly spaced, the worst first." in page.text
    predictor = load_predictor(segmentation_run.best, torch.device("cpu"))
    found = []
    for number in range(100, 105):
        label = read_label(data_folder / "labels" / f"{number}.png")
        prediction = predictor(read_image(data_folder / "images" / f"{number}.png")).numpy()
        accuracy = (label == prediction)[label != 255].mean()
        found.append((np.mean(iou(label, prediction)), accuracy, number, prediction))
    for place, (miou, accuracy, number, prediction) in enumerate(sorted(found)):
        text = f"mIoU {100 * miou:.1f} %, {100 * accuracy:.1f} % of pixels right "
        assert f"{text}images/{number}.png" in page.text
        assert page.images["image"][place] == f"images/{number}.png"
        colors = np.array(predictor.class_set.colours)[prediction]
        assert np.array_equal(page.pixels("prediction")[place], colors)
    assert re.search("Label: (red|green|blue) [0-9]+ %, ", page.images["label"][0])


def test_difference_shows_wrong_pixels(page: Page) -> None:
    images = zip(*map(page.pixels, ("image", "prediction", "label", "difference")), strict=True)
    for image, prediction, label, difference in images:
        right = (prediction == label).all(-1)
        assert difference[right].mean() < 0.5 * image[right].mean()
        yellow = difference[~right].astype(int)
        assert (yellow[:, 0] - yellow[:, 2]).mean() > 50


def test_training_crops_are_those_of_the_run(page: Page, data_folder: Path) -> None:
    assert len(page.images["crop"]) == 18
    image = read_image(data_folder / "images" / "0.png")
    label = read_label(data_folder / "labels" / "0.png")
    augmentation = Augmentation(32, 1.0, 5, True)
    draw = augmentation.draw(0, 1, 0)
    flipped = ", flipped" if draw.mirrored else ""
    alt = f"Training crop of images/0.png, epoch 2: {draw.angle}°, 1.00x{flipped}"
    assert page.images["crop"][1] == alt
    shown = page.pixels("crop")[1].astype(int)
    crop = augmentation.apply(image, label, draw)[0]
    assert np.median(np.abs(shown - crop)) < 12  # JPEG, and the borders of the classes


def test_curves_hold_what_was_measured(page: Page) -> None:
    assert [name for name, *_ in page.curves["loss"]] == ["training", "validation"]
    training, validation = (points for *_, points in page.curves["loss"])
    assert (len(training), len(validation)) == (40, 4)
    assert validation[0][2:] == ["1", "2"]
    assert training[-1][2:] == ["4", "0.2222"]
    xs, ys = [p[0] for p in training], [p[1] for p in training]
    assert xs == sorted(xs)
    assert all(0 <= x <= 420 for x in xs)
    assert ys == sorted(ys)  # the loss falls, and y grows downwards
    assert [p[3] for p in page.curves["score"][0][2]] == ["20", "30", "50", "40"]
    assert "training from 1.667 to 0.2222; validation from 2 to 0.5" in page.html
    assert page.html.count("<svg") == 6
    assert "var(--line0)" in page.html.partition("<svg")[2]
    assert page.tables["curves"][3] == ["3", "0.6667", "50.00 %", "70.00 %", "60.00 %"]


def test_long_curves_are_averaged(own_run: Run, drn_report: Command) -> None:
    lines = [train_line(step, loss=1000 if step == 7 else 1.0) for step in range(1, 1201)]
    write_lines(own_run.metrics, lines)
    assert drn_report(own_run.folder, "--images", 0).exit_code == 0
    [[_, _, points]] = Page(own_run.folder / "report.html").curves["loss"]
    assert len(points) == 300
    assert points[1][3] == "250.8"  # the mean of four
    assert points[1][1] < 0 < points[2][1] < 236  # the axis ends below the peak


def scored(run: Run, drn_report: Command, scores: dict[str, Any]) -> Page:
    run.scores.write_text(json.dumps(scores))
    assert drn_report(run.folder, "--images", 0).exit_code == 0
    return Page(run.folder / "report.html")


def test_classes_and_confusion(own_run: Run, drn_report: Command) -> None:
    scores = {"iou": {"road": 0.5, "<car>": 0.25, "sky": None}, "predicted_void": [20, 0, 0]}
    scores |= {"confusion_matrix": [[50, 30, 0], [30, 10, 0], [0, 0, 0]]}
    scores["category_iou"] = {"flat": 1.0}
    page = scored(own_run, drn_report, scores)
    assert page.tables["classes"][1:] == [
        ["road", "", "50.0 %", "71.4 %"],
        ["<car>", "", "25.0 %", "28.6 %"],
        ["sky", "", "absent", "0.0 %"],
        ["class", "", "IoU"],
        ["flat", "", "100.0 %"],
    ]
    assert page.tables["confusion"] == [
        ["label ↓ prediction →", "road", "<car>", "sky"],
        ["road", "50", "30", "·"],  # of 100 pixels, 20 of them predicted as void
        ["<car>", "75", "25", "·"],
        ["sky", "·", "·", "·"],
        ["label", "predicted as", "of the label", "pixels"],
        ["<car>", "road", "75.0 %", "30"],
        ["road", "<car>", "30.0 %", "30"],
    ]
    assert "&lt;car&gt; predicted as road: 75.00 %, 30 pixels" in page.html
    scores["confusion_matrix"] = [[3, 0, 0], [0, 4, 0], [0, 0, 0]]
    assert "No pixel was predicted as another" in scored(own_run, drn_report, scores).text


@pytest.mark.parametrize("matrix", [None, [[1]], [["x", 1, 1]] * 3, "x", [[1, 2], [3]]])
def test_bars_without_a_valid_matrix(own_run: Run, drn_report: Command, matrix: Any) -> None:
    scores = {"iou": {"a": 0.5, "b": 0.25, "c": 1}, "confusion_matrix": matrix}
    page = scored(own_run, drn_report, scores)
    assert "No confusion matrix was saved." in page.text
    assert page.tables["classes"][2] == ["b", "", "25.0 %"]


def test_matrix_shows_the_worst_of_many_classes(own_run: Run, drn_report: Command) -> None:
    matrix = np.eye(200, dtype=int) * 5
    matrix[3, 7] = 15
    iou = {f"class {n}": n / 200 for n in range(200)}
    page = scored(own_run, drn_report, {"iou": iou, "confusion_matrix": matrix.tolist()})
    assert [row[0] for row in page.tables["classes"]] == ["class", *iou]
    assert "(40 of 200 classes, those with the lowest IoU)" in page.text
    assert len(page.tables["confusion"][0]) == 41
    assert page.tables["confusion"][-1] == ["class 3", "class 7", "75.0 %", "15"]


def test_throughput_environment_and_reproduction(page: Page, data_folder: Path) -> None:
    for text in (
        "Images per second, median 101",
        "Time waiting for data, median 2.0 %",
        "GPU memory, peak 6.4 GB",
        "One validation, median 2.5 s",
        "compiled: true",
        "weights: file: start.pth verified: false",
        "command: drn train easy.yaml 'data.root=/data/my images'",
        "pip install torch==2.15.0 torchvision==0.30.0 # drn 1.2.3",
        f"sha256sum {data_folder}/*_*.txt",
        "recipe.yaml --gpus 2",
        "arch: drn_a_18",
        "data: train_images.txt: 0123456789abcdef",
        "resumed: - at: '2026-01-31T13:00:00+00:00' step: 20",
    ):
        assert text in page.text
    assert "revision" not in page.text


@pytest.mark.parametrize(
    ("lines", "text"),
    [
        (None, "Nothing was measured yet."),
        ([train_line(1)], "mIoU not validated yet"),
        ([train_line(1, loss=None, skipped=3)], "Steps skipped, loss or gradient not finite 3"),
        ([train_line(1), segmentation_val(1, 0.5)], "Best at epoch 1"),
        (whole_history("interrupted"), "❚❚ interrupted"),
        ([train_line(1)], "No end marker: the run was killed, or is running on another host."),
        ([train_line(1), val_line(1, miou=0.5)], "epoch mIoU 1 50.00 %"),  # no validation loss
    ],
)
def test_runs_in_every_state(
    tmp_path: Path, drn_report: Command, lines: list[dict[str, Any]] | None, text: str
) -> None:
    run = write_run(tmp_path / "run", recipe(tmp_path / "gone"), lines)
    done = drn_report(run.folder, "--json")
    assert text in Page(run.folder / "report.html").text
    written = json.loads(done.stdout)
    assert written["images"] == 0
    assert [line.partition(":")[0] for line in written["warnings"]] == [
        *("no predictions", "no training crops")
    ]


def test_damaged_files_are_named_on_the_page(own_run: Run, drn_report: Command) -> None:
    own_run.scores.write_text('{"miou": 0.')
    write_lines(own_run.metrics, [train_line(1), segmentation_val(1, 0.25)])
    with own_run.metrics.open("a") as file:
        file.write('gibberish\n{"kind": "train", "st')
    done = drn_report(own_run.folder, "--data", "absent")
    page = Page(own_run.folder / "report.html")
    assert "mIoU 25.00 %" in page.text
    for text in (
        "best.json:1: not valid JSON",
        "metrics.jsonl: 1 of 3 lines cannot be read (left out; ",
        "no predictions: absent: no such data folder",
        "no training crops: absent: no such data folder",
    ):
        assert text in page.text
        assert text in done.stderr


def test_run_without_best_json(own_run: Run, drn_report: Command) -> None:
    own_run.scores.unlink()
    drn_report(own_run.folder, "--images", 0)
    page = Page(own_run.folder / "report.html")
    assert "mIoU 50.00 %" in page.text
    assert "No images: none were asked for." in page.text
    assert "crops" not in re.findall('<section id="(.*?)"', page.html)


def test_classification_run(classification_run: Run, tmp_path: Path, drn_report: Command) -> None:
    out = tmp_path / "made" / "birds.html"
    done = drn_report(classification_run.folder, "--images", 4, "--out", out, "--json")
    assert json.loads(done.stdout)["images"] == 4
    page = Page(out)
    assert "4 of 6 validation images by rank of the true class, the worst" in page.text
    shown = [f"Image of: {bird}" for bird in ("wren", "tit", "robin", "robin")]
    assert page.images["image"] == shown  # images 5, 3, 1 and 0
    assert page.text.index("The worst") < page.text.index("The best")
    assert "Top-1 accuracy 25.00 % Best at epoch 1" in page.text
    assert "Top-5 accuracy 75.00 %" in page.text
    assert re.search("label wren prediction (robin|tit|wren) [0-9]+ %", page.text)
    assert len(page.images["crop"]) == 18
    assert "epoch 3: from " in page.text
    assert [name for name, *_ in page.curves["score"]] == ["top-1", "top-5"]


def test_other_classes_leave_no_predictions(
    classification_run: Run, birds: Path, tmp_path: Path, drn_report: Command
) -> None:
    other = Path(shutil.copytree(birds, tmp_path / "birds"))
    (other / "train" / "robin").rename(other / "train" / "owl")
    done = drn_report(classification_run.folder, "--data", other, "--out", tmp_path / "a.html")
    assert done.exit_code == 0
    assert "no predictions: " in done.stderr


def test_text_of_files_is_escaped(tmp_path: Path, drn_report: Command) -> None:
    evil = "</script></style><script>alert(1)</script><img src=http://x.example/>\"'& $x$ {{ 1 }}"
    environment = {"device": evil, evil: [evil], "data": {evil: evil}, "command": [evil], "drn": 1}
    environment["resumed"] = [{"at": evil, "changes": {"a": evil}}, 3]
    best = {"epoch": 1, "iou": {evil: 0.5, "b": 0.25}, "confusion_matrix": [[1, 2], [3, 4]]}
    lines = [train_line(1, odd=evil), segmentation_val(1, 0.375)]
    run = write_run(tmp_path / "<b>&$a$", recipe(tmp_path), lines)
    run.environment.write_text(json.dumps(environment))
    run.scores.write_text(json.dumps(best))
    run.recipe.write_text(run.recipe.read_text() + f"# {evil}\n")
    assert drn_report(run.folder, "--figures", tmp_path / "figures").exit_code == 0
    page = Page(run.folder / "report.html")
    assert page.text.count(evil) > 6
    assert "<img" not in page.html
    assert (tmp_path / "figures" / "class_iou.pdf").is_file()


def test_training_ends_with_a_report_or_a_warning(
    recipe_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    short = ("train", str(recipe_file), "model.width=0.0625", "train.epochs=1")
    Path("blocked/report.html").mkdir(parents=True)
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
    shown = Page(Path("a/report.html"))
    assert "✓ finished" in shown.text
    assert "5 of 5 validation images by mIoU, the worst first." in shown.text
    assert (len(shown.images["prediction"]), len(shown.images["crop"])) == (5, 18)

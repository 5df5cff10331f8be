"""`drn report RUN`: pages of runs in every state."""

import json
import os
import re
import shutil
from base64 import b64decode
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from drn_cli.data.augment import Augmentation
from drn_cli.data.images import read_image, read_label
from drn_cli.errors import DrnError
from drn_cli.inference.loading import load_predictor
from drn_cli.runs import Run

from .conftest import Command
from .pages import Page
from .runs import (
    ENVIRONMENT,
    recipe,
    segmentation_val,
    train_line,
    val_line,
    whole_history,
    write_lines,
    write_run,
)


def iou(label: np.ndarray, prediction: np.ndarray) -> list[float]:
    valid = label != 255
    pairs = [((label == k) & valid, (prediction == k) & valid) for k in range(3)]
    return [(a & b).sum() / (a | b).sum() for a, b in pairs if (a | b).any()]


def contents(html: str, kind: str) -> list[np.ndarray]:
    """Decode the images of one class."""
    found = re.findall(rf'<img class="{kind}" src="data:image/\w+;base64,([^"]*)"', html)
    return [np.asarray(Image.open(BytesIO(b64decode(text))).convert("RGB")) for text in found]


@pytest.fixture(scope="module")
def page(segmentation_run: Run, tmp_path_factory: pytest.TempPathFactory) -> Page:
    from drn_cli.report.page import write_report

    return Page(write_report(segmentation_run, tmp_path_factory.mktemp("page") / "a.html").page)


def test_head_and_order_of_the_page(page: Page, segmentation_run: Run) -> None:
    scores = json.loads(segmentation_run.scores.read_text())
    assert "easy/ first ✓ finished" in page.text
    assert f"mIoU {100 * scores['miou']:.2f} %" in page.text
    for text in ("Epochs 4 of 4", "Best at epoch 3", "Wall time 1 h 6 min", "Network drn_a_18"):
        assert text in page.text
    order = re.findall('<section id="(.*?)"', page.html)
    assert order == [
        *("predictions", "crops", "curves", "classes", "confusion"),
        *("throughput", "reproduce", "environment"),
    ]
    assert len(page.html) < 400_000


def test_predictions_stand_beside_labels(
    page: Page, segmentation_run: Run, data_folder: Path
) -> None:
    assert "All 5 validation images by mIoU, the worst first." in page.text
    predictor = load_predictor(segmentation_run.best, torch.device("cpu"))
    found = []
    for number in range(100, 105):
        label = read_label(data_folder / "labels" / f"{number}.png")
        prediction = predictor(read_image(data_folder / "images" / f"{number}.png")).numpy()
        accuracy = (label == prediction)[label != 255].mean()
        found.append((np.mean(iou(label, prediction)), accuracy, number, prediction))
    for place, (miou, accuracy, number, prediction) in enumerate(sorted(found)):
        text = f"mIoU {100 * miou:.1f} %, {100 * accuracy:.1f} % of pixels right "
        text += f"images/{number}.png"
        assert text in page.text
        assert page.images["image"][place] == f"images/{number}.png"
        colors = np.array(predictor.class_set.colours)[prediction]
        assert np.array_equal(contents(page.html, "prediction")[place], colors)
    for kind in ("image", "prediction", "label", "difference"):
        assert len(page.images[kind]) == 5
    assert re.search("Label: (red|green|blue) [0-9]+ %, ", page.images["label"][0])


def test_the_difference_shows_what_is_wrong(page: Page) -> None:
    images, predictions, labels, differences = (
        contents(page.html, kind) for kind in ("image", "prediction", "label", "difference")
    )
    for image, prediction, label, difference in zip(
        images, predictions, labels, differences, strict=True
    ):
        right = (prediction == label).all(-1)
        assert difference[right].mean() < 0.5 * image[right].mean()
        yellow = difference[~right].astype(int)
        assert (yellow[:, 0] - yellow[:, 2]).mean() > 50


def test_training_crops_are_those_of_the_run(
    page: Page, data_folder: Path, segmentation_run: Run
) -> None:
    assert len(page.images["crop"]) == 18
    image = read_image(data_folder / "images" / "0.png")
    label = read_label(data_folder / "labels" / "0.png")
    augmentation = Augmentation(32, 1.0, 5, True)
    draw = augmentation.draw(0, 1, 0)
    flipped = ", flipped" if draw.mirrored else ""
    alt = f"Training crop of images/0.png, epoch 2: {draw.angle}°, 1.00x{flipped}"
    assert page.images["crop"][1] == alt
    shown = contents(page.html, "crop")[1].astype(int)
    crop = augmentation.apply(image, label, draw)[0]
    assert np.median(np.abs(shown - crop)) < 12  # JPEG, and the borders of the classes


def test_curves_hold_what_was_measured(page: Page) -> None:
    curves = {name: json.loads(text) for name, text in page.curves.items()}
    assert list(curves) == [
        *("loss", "score", "learning_rate", "throughput", "gradient_norm", "waiting")
    ]
    assert [name for name, *_ in curves["loss"]] == ["training", "validation"]
    training, validation = (points for *_, points in curves["loss"])
    assert (len(training), len(validation)) == (40, 4)
    assert validation[0][2:] == ["1", "2"]
    assert training[-1][2:] == ["4", "0.2222"]
    xs, ys = [p[0] for p in training], [p[1] for p in training]
    assert xs == sorted(xs)
    assert all(0 <= x <= 420 for x in xs)
    assert ys == sorted(ys)  # the loss falls, and y grows downwards
    assert [p[3] for p in curves["score"][0][2]] == ["20", "30", "50", "40"]
    assert "training from 1.667 to 0.2222, between 0.2222 and 1.667" in page.html
    assert page.html.count("<svg") == 6
    assert "var(--line0)" in page.html.partition("<svg")[2]
    assert page.tables["curves"][3] == ["3", "0.6667", "50.00 %", "70.00 %", "60.00 %"]


def test_long_runs_are_thinned_and_peaks_cut(own_run: Run, drn_report: Command) -> None:
    lines = [train_line(step, loss=1000 if step == 7 else 1.0) for step in range(1, 1201)]
    write_lines(own_run.metrics, lines)
    assert drn_report(own_run.folder, "--images", 0).exit_code == 0
    page = Page(own_run.folder / "report.html")
    [[_, _, points]] = json.loads(page.curves["loss"])
    assert len(points) == 300
    assert points[1][3] == "250.8"  # the mean of four
    assert "Peaks up to 250.8 are cut off." in page.text


def test_classes_and_confusion(own_run: Run, drn_report: Command) -> None:
    scores = {"step": 30, "epoch": 3, "images": 5, "miou": 0.375}
    scores |= {"iou": {"road": 0.5, "<car>": 0.25, "sky": None}, "predicted_void": [20, 0, 0]}
    scores |= {"confusion_matrix": [[50, 30, 0], [30, 10, 0], [0, 0, 0]]}
    own_run.scores.write_text(json.dumps(scores))
    drn_report(own_run.folder, "--images", 0)
    page = Page(own_run.folder / "report.html")
    assert "in the best validation, epoch 3, step 30, 5 images" in page.text
    assert page.tables["classes"][1:] == [
        ["road", "", "50.0 %", "71.4 %"],
        ["<car>", "", "25.0 %", "28.6 %"],
        ["sky", "", "absent", "0.0 %"],
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
    own_run.scores.write_text(json.dumps(scores))
    drn_report(own_run.folder, "--images", 0)
    assert "No pixel was predicted as another" in Page(own_run.folder / "report.html").text


@pytest.mark.parametrize("matrix", [None, [[1]], [["x", 1, 1]] * 3, "x", [[1, 2], [3]]])
def test_without_a_matrix_of_the_classes_the_bars_remain(
    own_run: Run, drn_report: Command, matrix: Any
) -> None:
    iou = {"a": 0.5, "b": 0.25, "c": 1}
    own_run.scores.write_text(json.dumps({"iou": iou, "confusion_matrix": matrix}))
    drn_report(own_run.folder, "--images", 0)
    page = Page(own_run.folder / "report.html")
    assert "kept no confusion matrix" in page.text
    assert page.tables["classes"][2] == ["b", "", "25.0 %"]


def test_of_many_classes_the_worst_are_in_the_matrix(own_run: Run, drn_report: Command) -> None:
    matrix = np.eye(200, dtype=int) * 5
    matrix[3, 7] = 15
    iou = {f"class {n}": n / 200 for n in range(200)}
    own_run.scores.write_text(json.dumps({"iou": iou, "confusion_matrix": matrix.tolist()}))
    drn_report(own_run.folder, "--images", 0)
    page = Page(own_run.folder / "report.html")
    assert [row[0] for row in page.tables["classes"]] == ["class", *iou]
    assert "Of 200 classes, the 40 with the lowest IoU are shown." in page.text
    assert len(page.tables["confusion"][0]) == 41
    assert page.tables["confusion"][-1] == ["class 3", "class 7", "75.0 %", "15"]


def test_throughput_environment_and_reproduction(page: Page, data_folder: Path) -> None:
    for text in (
        "Images per second, median 101",
        "Time waiting for data, median 2.0 %",
        "GPU memory, peak 6.4 GB",
        "One validation, median 2.5 s",
        "GPU memory 150.8 GB",
        "Compiled yes",
        "Parameters 11,179,074",
        'Initial weights {"file": "start.pth", "verified": false}',
        "Command drn train easy.yaml 'data.root=/data/my images'",
        "pip install torch==2.15.0 torchvision==0.30.0 # drn 1.2.3",
        f"sha256sum {data_folder}/*_*.txt",
        "recipe.yaml --gpus 2",
        "arch: drn_a_18",
    ):
        assert text in page.text
    assert "Git commit" not in page.text
    assert page.tables["environment"][1] == ["train_images.txt", "0123456789abcdef" * 4]
    assert page.tables["environment"][-1] == [
        *("2026-01-31T13:00:00+00:00", "20", "1", "drn train --resume runs/easy"),
        '{"train.lr": [0.01, 0.02]}',
    ]


@pytest.mark.parametrize(
    ("lines", "text"),
    [
        (None, "Nothing was measured yet."),
        ([train_line(1)], "mIoU not validated yet"),
        ([train_line(1, loss=None, skipped=3)], "Steps skipped, loss or gradient not finite 3"),
        ([train_line(1), segmentation_val(1, 0.5)], "Best at epoch 1"),
        (whole_history("interrupted"), "❚❚ interrupted"),
        ([train_line(1)], "… unfinished"),
        ([train_line(1)], "No end marker: the run was killed, or is running on another host."),
    ],
)
def test_runs_in_every_state(
    tmp_path: Path, drn_report: Command, lines: list[dict[str, Any]] | None, text: str
) -> None:
    run = write_run(Run(tmp_path / "run"), recipe(tmp_path / "gone"), lines)
    done = drn_report(run.folder, "--json")
    assert text in Page(run.folder / "report.html").text
    said = json.loads(done.stdout)
    assert said["images"] == 0
    assert [line.partition(":")[0] for line in said["warnings"]] == [
        *("no predictions", "no training crops")
    ]


def test_damaged_files_are_named_and_the_page_written(own_run: Run, drn_report: Command) -> None:
    own_run.scores.write_text('{"miou": 0.')
    write_lines(own_run.metrics, [train_line(1), segmentation_val(1, 0.25)])
    with own_run.metrics.open("a") as file:
        file.write('gibberish\n{"kind": "train", "st')
    done = drn_report(own_run.folder, "--data", "absent")
    page = Page(own_run.folder / "report.html")
    assert "mIoU 25.00 %" in page.text
    for text in (
        "best.json:1: not valid JSON",
        "metrics.jsonl: 1 line cannot be read (it is left out; ",
        "no predictions: absent: no such data folder",
        "no training crops: absent: no such data folder",
    ):
        assert text in page.text
        assert text in done.stderr


def test_a_run_without_best_json_shows_its_best_line(own_run: Run, drn_report: Command) -> None:
    own_run.scores.unlink()
    drn_report(own_run.folder, "--images", 0)
    page = Page(own_run.folder / "report.html")
    assert "mIoU 50.00 %" in page.text
    assert "kept no confusion matrix" in page.text
    assert "No images: none were asked for." in page.text
    assert "crops" not in re.findall('<section id="(.*?)"', page.html)


def test_a_classification_run(classification_run: Run, tmp_path: Path, drn_report: Command) -> None:
    out = tmp_path / "made" / "birds.html"
    done = drn_report(classification_run.folder, "--images", 4, "--out", out, "--json")
    assert json.loads(done.stdout)["images"] == 4
    page = Page(out)
    assert "Of 6 validation images the 2 worst and the 2 best by the place of" in page.text
    shown = [f"Image of: {bird}" for bird in ("wren", "tit", "robin", "robin")]
    assert page.images["image"] == shown  # images 5, 3, 1 and 0
    assert "Top-1 accuracy 25.00 % Top-5 accuracy 75.00 %" in page.text
    assert re.search("label wren prediction (robin|tit|wren) [0-9]+ %", page.text)
    assert len(page.images["crop"]) == 18
    assert "epoch 3: from " in page.text
    assert [name for name, *_ in json.loads(page.curves["score"])] == ["top-1", "top-5"]


def test_a_network_of_other_classes_leaves_no_predictions(
    classification_run: Run, birds: Path, tmp_path: Path, drn_report: Command
) -> None:
    other = Path(shutil.copytree(birds, tmp_path / "birds"))
    (other / "train" / "robin").rename(other / "train" / "owl")
    done = drn_report(classification_run.folder, "--data", other, "--out", tmp_path / "a.html")
    assert done.exit_code == 0
    assert "no predictions: " in done.stderr


def test_nothing_from_the_files_is_taken_for_html(tmp_path: Path, drn_report: Command) -> None:
    evil = "</script></style><script>alert(1)</script><img src=http://x.example/>\"'& $x$ {{ 1 }}"
    environment = {"device": evil, evil: [evil], "data": {evil: evil}, "command": [evil], "drn": 1}
    environment["resumed"] = [{"at": evil, "changes": {"a": evil}}, 3]
    best = {"epoch": 1, "step": 3, "iou": {evil: 0.5, "b": 0.25}, "miou": 0.375}
    best["confusion_matrix"] = [[1, 2], [3, 4]]
    lines = [train_line(1, odd=evil), segmentation_val(1, 0.375)]
    run = write_run(Run(tmp_path / "<b>&$a$"), recipe(tmp_path), lines, environment)
    run.scores.write_text(json.dumps(best))
    run.recipe.write_text(run.recipe.read_text() + f"# {evil}\n")
    figures = tmp_path / "figures"
    assert drn_report(run.folder, "--figures", figures).exit_code == 0
    page = Page(run.folder / "report.html")
    assert page.text.count(evil) > 6
    assert "<img" not in page.html
    assert "http:" not in page.html.replace(evil.replace("<", "&lt;"), "").partition("<body>")[0]
    assert (figures / "class_iou.pdf").is_file()


def test_the_run_that_measured_last_is_the_default(
    own_run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, drn_report: Command
) -> None:
    for name, time in (("first", 2_000_000_000), ("second", 2_000_000_100)):
        folder = shutil.copytree(own_run.folder, tmp_path / "runs" / "easy" / name)
        os.utime(Path(folder) / "metrics.jsonl", (time, time))
    monkeypatch.chdir(tmp_path)
    done = drn_report("--images", 0)
    assert done.stdout == "runs/easy/second/report.html\n"
    assert "run: runs/easy/second (the one that measured last)" in done.stderr
    assert not Path("runs/easy/first/report.html").exists()


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["nowhere"], "nowhere: no such run folder"),
        (["."], r"\.: no run folder, it has no recipe\.yaml"),
        (["own/run", "--out", "own", "--images", 0], "own: cannot be written"),
        (["own/run", "own/run"], "a run is named twice"),
        (["own/run", "nowhere"], "nowhere: no such run folder"),
    ],
)
def test_mistakes(
    own_run: Run, monkeypatch: pytest.MonkeyPatch, drn_report: Command, words: list[Any], text: str
) -> None:
    monkeypatch.chdir(own_run.folder.parents[1])
    done = drn_report(*words)
    assert done.exit_code == 1
    with pytest.raises(DrnError, match=text):
        raise done.exception or AssertionError


def test_a_missing_validation_loss_is_no_curve(tmp_path: Path, drn_report: Command) -> None:
    lines = [train_line(1), val_line(1, miou=0.5)]
    run = write_run(Run(tmp_path / "old"), recipe(tmp_path), lines, ENVIRONMENT)
    drn_report(run.folder, "--images", 0)
    page = Page(run.folder / "report.html")
    assert [name for name, *_ in json.loads(page.curves["loss"])] == ["training"]
    assert page.tables["curves"] == [["epoch", "mIoU"], ["1", "50.00 %"]]


def test_validation_images_without_a_record_are_evenly_spaced(
    segmentation_run: Run, tmp_path: Path, drn_report: Command
) -> None:
    drn_report(segmentation_run.folder, "--images", 3, "--out", tmp_path / "a.html")
    page = Page(tmp_path / "a.html")
    assert "3 of 5 validation images, evenly spaced, the worst first." in page.text
    assert sorted(page.images["image"]) == [f"images/{n}.png" for n in (100, 102, 104)]

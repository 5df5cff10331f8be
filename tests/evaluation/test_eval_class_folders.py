"""`drn eval` of a classifier on class folders."""

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import colour_classifier
import pytest
import torch
from colour_classifier import NAMES, WNIDS, draw, save
from typer.testing import CliRunner

from drn_cli.cli.app import app
from drn_cli.data.class_folders import ClassSample
from drn_cli.data.classification import View
from drn_cli.distributed.group import Group
from drn_cli.errors import DrnError
from drn_cli.evaluation.classification import TopKScores, score, worst_images
from drn_cli.inference.loading import load_classifier

CPU = torch.device("cpu")
SIDE, RESIZE = 64, 72
BOX = (12, 12, 59, 59)  # of the color, in images of 72x96
PAINTED = {  # color of the images by folder; one image is in a wrong folder
    "red": ["red", "red"],
    "blue": ["blue", "blue"],
    "green": ["green", "blue"],
}


@pytest.fixture(scope="module")
def classes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six validation images and a training image in folders of three of the five classes."""
    root = tmp_path_factory.mktemp("classes")
    for folder, painted in PAINTED.items():
        wnid = WNIDS[NAMES.index(folder)]
        for number, colour in enumerate(painted):
            image = draw(72, 96, {colour: BOX, "yellow": (80, 2, 93, 15)}, number)
            save(root / "val" / wnid / f"{number}.png", image)
        (root / "train" / wnid).mkdir(parents=True)
    save(root / "train" / WNIDS[0] / "a.png", draw(72, 96, {"red": BOX}))
    return root


@pytest.fixture(scope="module")
def run(classes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run") / "colours"
    return colour_classifier.write_run(folder, side=SIDE, resize=RESIZE, data=classes)


@pytest.fixture
def evaluate(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., Any]:
    monkeypatch.chdir(tmp_path)
    return lambda *words: CliRunner().invoke(app, ["eval", *map(str, words)])


def expected(run: Path, classes: Path, view: View) -> TopKScores:
    """Score without the command line, with the class indices of the network."""
    best = run / "checkpoints" / "best.safetensors"
    found = load_classifier(best, CPU, crop=SIDE, resize=RESIZE, view=view)
    samples = [
        ClassSample(path, WNIDS.index(path.parent.name))
        for path in sorted((classes / "val").rglob("*.png"))
    ]
    scores = score(found, samples, Group(0, 1, CPU), per_image=True)
    assert scores is not None
    return scores


@pytest.mark.parametrize(("words", "view"), [([], "1-crop"), (["--ten-crop"], "10-crop")])
def test_json_and_csv(
    evaluate: Callable[..., Any], run: Path, classes: Path, words: list[str], view: View
) -> None:
    result = evaluate(run, "--json", "--csv", "out/images.csv", *words)
    assert result.exit_code == 0, result.output
    scores = expected(run, classes, view)
    assert json.loads(result.stdout) == {
        "checkpoint": str(run / "checkpoints" / "best.safetensors"),
        "run": str(run),
        "verified": True,
        "mean": [0.45, 0.5, 0.4],
        "std": [0.25, 0.2, 0.3],
        "mean_std_source": "file",
        "split": "val",
        "view": view,
        "partial": False,
        "expected": scores.images,
        "failed": [],
        **scores.to_json(),
    }
    assert f"classes, {view}" in result.stderr and "written: out/images.csv" in result.stderr
    with Path("out/images.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    for row, one in zip(rows, worst_images(scores.per_image), strict=True):
        assert (row["image"], row["class"], int(row["rank"])) == (
            one.image,
            NAMES[one.target],
            one.rank,
        )
        for place, (kind, share) in enumerate(zip(one.best, one.probabilities, strict=True), 1):
            assert row[f"class_{place}"] == NAMES[kind]
            assert float(row[f"probability_{place}"]) == pytest.approx(share, abs=1e-6)
    assert rows[0]["class"] == "green" and rows[0]["class_1"] == "blue", "worst first"


def test_ten_crops_give_other_probabilities(run: Path, classes: Path) -> None:
    one, ten = (expected(run, classes, view) for view in ("1-crop", "10-crop"))
    for single, averaged in zip(one.per_image, ten.per_image, strict=True):
        assert single.probabilities != pytest.approx(averaged.probabilities, rel=1e-3)


def test_folders_of_unknown_classes_are_an_error(evaluate: Callable[..., Any], run: Path) -> None:
    for name in (WNIDS[0], "n09999999"):
        save(Path("other/val") / name / "a.png", draw(20, 20, {}))
    error = evaluate(run, "--data", "other").exception
    assert isinstance(error, DrnError)
    assert error.message == "other: 1 of 2 classes unknown to the network: n09999999"


@pytest.mark.parametrize(
    ("place", "link", "reason"),
    [
        (f"{WNIDS[0]}/b.png", "nothing", "broken link"),
        (f"{WNIDS[0]}/b.png", "b.png", "unreadable"),
        (f"{WNIDS[0]}/b.png", "/dev/null", "not a regular file"),
        ("b.png", f"{WNIDS[0]}/a.png", "image outside class folders"),
        (f"{WNIDS[0]}/b", "/", "folder in a class folder"),
    ],
)
def test_files_left_out_are_an_error_without_partial(
    evaluate: Callable[..., Any], run: Path, place: str, link: str, reason: str
) -> None:
    save(Path("part/val") / WNIDS[0] / "a.png", draw(72, 96, {"red": BOX}))
    Path("part/val", place).symlink_to(link)
    error = evaluate(run, "--data", "part").exception
    assert isinstance(error, DrnError)
    assert error.message.startswith(f"part/val: left out: {reason} 1 (")
    assert error.hint == "--partial scores 1 of 2"
    result = evaluate(run, "--data", "part", "--partial", "--json")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert (found["partial"], found["images"], found["expected"]) == (True, 1, 2)
    assert "partial: 1 of 2 scored: 1 of 2 left out" in result.stderr

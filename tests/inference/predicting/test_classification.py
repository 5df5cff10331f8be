"""Classification with `drn predict`: table, CSV and JSON."""

import csv
import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from torch import Tensor

from drn_cli.data.classes import ClassSet, generic
from drn_cli.data.folders import ChannelStats
from drn_cli.data.images import read_image
from drn_cli.data.resized_crop import center_crop, ten_crops
from drn_cli.errors import DrnError
from drn_cli.files import csv_text
from drn_cli.inference.growing_table import csv_lock
from drn_cli.inference.metadata import to_metadata
from drn_cli.networks import create_model
from drn_cli.networks.checkpoints import save_weights
from drn_cli.networks.models import DRN

NAMES = ("cat", "=dog()", "tea pot", "crane, bird")
CROP, RESIZE = 64, 72
STATISTICS = ChannelStats((0.4, 0.5, 0.6), (0.3, 0.25, 0.2))
IMAGES = ("photos/a.png", "photos/b.jpg", "photos/c.png", "photos/deep/d.png")


@pytest.fixture(scope="session")
def model() -> DRN:
    torch.manual_seed(0)
    model = create_model("drn_a_18", "classification", len(NAMES)).eval()
    with torch.no_grad():
        model.head.weight /= 100  # so that no class is certain
    return model


@pytest.fixture(scope="session")
def classifier(model: DRN, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Run folder of the classifier, with a recipe for small images."""
    folder = tmp_path_factory.mktemp("classifier")
    class_set = ClassSet(NAMES, generic(len(NAMES)).colours)
    weights = folder / "checkpoints" / "best.safetensors"
    save_weights(weights, model, to_metadata(model, STATISTICS, class_set))
    recipe = {
        "task": "classification",
        "model": {"arch": "drn_a_18"},
        "data": {"root": "nowhere", "classes": len(NAMES)},
        "augment": {"crop": CROP},
        "eval": {"resize": RESIZE},
        "train": {"epochs": 1, "batch_size": 1, "lr": 0.1},
    }
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    return folder


@pytest.fixture(scope="session")
def other(classifier: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights of another classifier with the same classes."""
    torch.manual_seed(1)
    model = create_model("drn_a_18", "classification", len(NAMES))
    weights = tmp_path_factory.mktemp("other") / "net.safetensors"
    save_weights(
        weights, model, to_metadata(model, STATISTICS, ClassSet(NAMES, generic(len(NAMES)).colours))
    )
    return weights


@pytest.fixture
def classify(predict: Callable[..., Any], classifier: Path) -> Callable[..., Any]:
    return lambda *words, weights=classifier, **given: predict(*words, weights=weights, **given)


@pytest.fixture(scope="session")
def expected(model: DRN) -> Callable[..., Tensor]:
    """Probabilities of some crops, computed with plain torch."""

    @torch.no_grad()
    def probabilities(
        path: str | Path,
        crops: Callable[..., Any] = center_crop,
        side: int = CROP,
        to: int = RESIZE,
    ) -> Tensor:
        pixels = np.asarray(crops(read_image(Path(path)), side, to), np.float64)
        normal = (pixels.reshape(-1, side, side, 3) / 255 - STATISTICS.mean) / STATISTICS.std
        logits = model(torch.from_numpy(normal.astype(np.float32)).permute(0, 3, 1, 2))
        return logits.double().softmax(1).mean(0)

    return probabilities


def rows(path: str) -> list[list[str]]:
    with Path(path).open(newline="") as file:
        return [[csv_text(cell) for cell in row] for row in csv.reader(file)]


def assert_classes(
    classes: list[dict[str, Any]], probabilities: Tensor, within: float = 1e-4
) -> None:
    order = probabilities.argsort(descending=True)[: len(classes)].tolist()
    assert [one["class"] for one in classes] == [NAMES[k] for k in order]
    found = [one["probability"] for one in classes]
    assert found == pytest.approx([float(probabilities[k]) for k in order], abs=within)


def test_json(classify, classifier, photos, expected):
    (photos / "aa.png").write_bytes(b"broken")
    result = classify("photos", "--json")
    assert result.exit_code == 1  # of the broken one
    found = json.loads(result.stdout)
    assert list(found) == [
        "checkpoint", "run", "verified", "mean", "std", "mean_std_source", "view", "results",
        "skipped", "failed", "seconds", "images_per_second",
    ]  # fmt: skip
    assert (found["checkpoint"], found["view"]) == (
        str(classifier / "checkpoints" / "best.safetensors"),
        "1-crop",
    )
    assert [entry["image"] for entry in found["results"]] == list(IMAGES)
    for entry in found["results"]:
        assert len(entry["classes"]) == len(NAMES)  # the five that are shown by default
        assert_classes(entry["classes"], expected(entry["image"]))
    assert found["skipped"] == 0
    (failed,) = found["failed"]
    assert failed["image"] == "photos/aa.png"
    assert "not an image" in failed["error"]
    assert found["images_per_second"] == pytest.approx(4 / found["seconds"], rel=0.01)
    assert "1 of 5 images failed" in result.stderr


def test_ten_crops_are_averaged(classify, photos, expected):
    result = classify("photos/b.jpg", "--ten-crop", "--json", "--top-k", "4")
    found = json.loads(result.stdout)
    assert found["view"] == "10-crop"
    ten = expected("photos/b.jpg", ten_crops)
    assert_classes(found["results"][0]["classes"], ten)
    assert (ten - expected("photos/b.jpg")).abs().max() > 1e-3


@pytest.mark.parametrize("name", ["classes.csv", f"{'c' * 251}.csv"])
def test_skip_existing_classifies_missing_rows(classify, photos, name):
    classify("photos/c.png", "photos/a.png", "--csv", name)
    header, *lines = rows(name)
    Path(name).write_text(
        "\n".join([",".join(header), *(",".join([line[0], *["mine"] * 8]) for line in lines)])
        + "\n"
    )
    (photos / "b.jpg").unlink()
    result = classify("photos", "--csv", name, "--skip-existing", "--json")
    found = json.loads(result.stdout)
    assert [entry["image"] for entry in found["results"]] == ["photos/deep/d.png"]
    assert found["skipped"] == 2
    assert [line[0] for line in rows(name)] == [
        "image", "photos/a.png", "photos/c.png", "photos/deep/d.png",
    ]  # fmt: skip
    assert [line[1] == "mine" for line in rows(name)] == [False, True, True, False]
    again = classify("photos", "--csv", name, "--skip-existing")
    assert "0 images classified" in again.stdout
    assert "3 skipped (already exist)" in again.stdout


def test_names_like_formulas_are_escaped(classify, photos):
    names = ["=1+1.png", "-a.png", "'@b.png", os.fsdecode(b"caf\xe9.png")]
    for name in names:
        shutil.copy(photos / "a.png", name)
    words = [f"./{name}" if name.startswith("-") else name for name in names]
    assert classify(*words, "--csv", "a.csv", "--json").exit_code == 0
    lines = Path("a.csv").read_text().splitlines()[1:]
    assert [line.split(",")[0] for line in lines] == [
        "'=1+1.png", "'-a.png", "''@b.png", "caf\\udce9.png",
    ]  # fmt: skip
    assert all("'=dog()" in line for line in lines)
    again = json.loads(classify(*words[:3], "--csv", "a.csv", "--skip-existing", "--json").stdout)
    assert (again["results"], again["skipped"]) == ([], 3)
    assert Path("a.csv").read_text().splitlines()[1:] == lines


@pytest.mark.parametrize("part", [False, True])
def test_csv_without_matching_record_is_refused(classify, photos, part):
    classify("photos/a.png", "--csv", "classes.csv")
    Path(".classes.csv.json").unlink()
    if part:  # of a run that was killed
        Path(".classes.csv.000000.part").write_text(Path("classes.csv").read_text())
        Path("classes.csv").unlink()
    refused = classify("photos", "--csv", "classes.csv", "--skip-existing")
    assert isinstance(refused.exception, DrnError)
    assert re.match(
        r"classes\.csv: \.classes\.csv\.json, the provenance of its \d existing rows, "
        r"is missing \(.*leave out --skip-existing",
        str(refused.exception),
    )
    assert classify("photos", "--csv", "classes.csv").exit_code == 0
    assert classify("photos", "--csv", "classes.csv", "--skip-existing").exit_code == 0
    Path(".classes.csv.json").write_text("[]")
    refused = classify("photos", "--csv", "classes.csv", "--skip-existing")
    assert re.match(r"\.classes\.csv\.json: not a manifest .*another --csv", str(refused.exception))


def stop(*_: Any, **__: Any) -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("finished", "stopped", "resumed", "expected"),
    [
        (None, "first", "first", "0 of 4 rows"),
        ("first", "first", "first", "4 of 4 rows"),
        ("first", "other", "other", "their provenance is unknown"),
        ("first", "other", "first", "their provenance is unknown"),
        ("unrecorded", "first", "first", "their provenance is unknown"),
        ("damaged", "first", "first", "their provenance is unknown"),
        ("first", "first", "other", "made with different weights"),
    ],
)
def test_csv_of_interrupted_run(
    classify, classifier, other, photos, monkeypatch, finished, stopped, resumed, expected
):
    weights = {"other": other}
    table = ("--csv", "classes.csv")
    record = Path(".classes.csv.json")
    if finished:
        classify("photos", *table)
        before = Path("classes.csv").read_bytes()
        if finished == "unrecorded":
            record.unlink()
        if finished == "damaged":
            record.write_text("half of a rec")
    by = weights.get(stopped, classifier)
    with monkeypatch.context() as reading:
        reading.setattr(Image, "open", stop)  # while the first image is read
        assert classify("photos", *table, weights=by).exit_code == 130
    if finished:
        assert Path("classes.csv").read_bytes() == before

    by = weights.get(resumed, classifier)
    result = classify("photos", *table, "--skip-existing", "--json", weights=by)
    if expected.endswith("rows"):
        assert f"{json.loads(result.stdout)['skipped']} of 4 rows" == expected
    else:
        assert isinstance(result.exception, DrnError)
        assert expected in str(result.exception)
        assert "leave out --skip-existing" in str(result.exception)
        assert classify("photos", *table, weights=by).exit_code == 0  # as that says
        again = classify("photos", *table, "--skip-existing", "--json", weights=by)
        assert json.loads(again.stdout)["skipped"] == 4


def test_rows_of_another_network_are_refused(classify, other, photos):
    """Otherwise a run with their columns would keep them as rows of the run in between."""
    classify("photos", "--csv", "classes.csv", "--top-k", "1", weights=other)
    Path("classes.csv").rename(".classes.csv.0.part")  # as a run leaves it that was killed
    refused = classify("photos", "--csv", "classes.csv", "--skip-existing")
    assert isinstance(refused.exception, DrnError)
    assert "made with different weights" in str(refused.exception)


def test_csv_locked_by_another_run_is_refused(classify, photos):
    with csv_lock(Path("out/classes.csv")):
        Path("out/.classes.csv.0.part").write_text("photos/a.png\n")
        refused = classify("photos", "--csv", "out/classes.csv")
        assert Path("out/.classes.csv.0.part").read_text() == "photos/a.png\n"
    assert re.match(
        r"out/classes\.csv: another process is writing it \(wait", str(refused.exception)
    )
    assert classify("photos", "--csv", "out/classes.csv").exit_code == 0


def test_long_table_is_not_printed(classify, photos):
    for number in range(38):
        shutil.copy(photos / "a.png", photos / f"more{number}.png")
    result = classify("photos")
    assert result.stdout.startswith("42 images classified")
    assert "more than 40 images: use --csv" in result.stderr


def test_stdin_and_checkpoint_outside_of_run(classify, classifier, photos, expected, tmp_path):
    """Without a recipe crop and resize are those of ImageNet."""
    alone = tmp_path / "alone.safetensors"
    alone.symlink_to(classifier / "checkpoints" / "best.safetensors")
    result = classify("-", "--json", stdin=(photos / "a.png").read_bytes(), weights=alone)
    (entry,) = json.loads(result.stdout)["results"]
    assert_classes(entry["classes"], expected("photos/a.png", center_crop, 224, 256))
    assert entry["image"] == "-"

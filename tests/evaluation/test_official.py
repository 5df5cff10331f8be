"""Scores compared with the official Cityscapes evaluation script."""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from drn_cli.cli.app import app
from drn_cli.data.classes import cityscapes, cityscapes_train_ids
from drn_cli.distributed.group import Group
from drn_cli.evaluation.folder_pairs import pair_folders
from drn_cli.evaluation.label_maps import MapReader
from drn_cli.evaluation.segmentation import compare

ALONE = Group(0, 1, torch.device("cpu"))
IDS = 34
EVALUATED = np.flatnonzero(cityscapes_train_ids() < 19)  # label ids of the classes
IGNORED_IDS = np.setdiff1d(np.arange(IDS), EVALUATED)
BY_TRAIN_ID = EVALUATED[np.argsort(cityscapes_train_ids()[EVALUATED])]

Maps = tuple[np.ndarray, np.ndarray]  # prediction and label, in label ids


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    return tmp_path / "results", tmp_path / "gtFine" / "val"


def write(folders: tuple[Path, Path], pairs: Sequence[Maps]) -> None:
    """Write predictions as they are submitted, and labels as they are released."""
    for number, (prediction, label) in enumerate(pairs):
        city = ("lindau", "ulm")[number % 2]
        frame = f"{city}_{number:06}_000019"
        for path, values in (
            (folders[0] / f"{frame}_leftImg8bit.png", prediction),
            (folders[1] / city / f"{frame}_gtFine_labelIds.png", label),
        ):
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(values.astype(np.uint8)).save(path)


def ours(predictions: Path, labels: Path) -> dict[str, Any]:
    samples = pair_folders(predictions, labels).samples
    read = MapReader(19, "label-ids", "label-ids")
    return compare(samples, 19, ALONE, read=read).to_json(cityscapes())


def assert_equal(found: dict[str, Any], official: dict[str, Any]) -> None:
    """Check that all scores equal the official ones."""

    def same(one: float | None, other: float) -> bool:
        return math.isnan(other) if one is None else math.isclose(one, other, abs_tol=1e-12)

    counts = np.array(official["confMatrix"])[BY_TRAIN_ID]
    assert np.array_equal(found["confusion_matrix"], counts[:, BY_TRAIN_ID])
    assert np.array_equal(found["predicted_void"], counts[:, IGNORED_IDS].sum(1))
    assert len(found["iou"]) == 19
    for name, iou in found["iou"].items():
        assert same(iou, official["classScores"][name]), name
    assert same(found["miou"], official["averageScoreClasses"])
    categories = official["categoryScores"]
    assert set(found["category_iou"]) == set(categories) - {"void"}
    for name, iou in found["category_iou"].items():
        assert same(iou, categories[name]), name
    assert same(found["category_miou"], official["averageScoreCategories"])


def flat(*columns: tuple[int, int, int]) -> Maps:
    """Draw a pair of maps of three rows from columns of predicted id, label id and width."""
    both = np.array([(p, t) for p, t, width in columns for _ in range(width)], np.uint8).T
    return both[0][None].repeat(3, 0), both[1][None].repeat(3, 0)


ROAD, SIDEWALK, PARKING, BUILDING, BRIDGE, CAR, TRUCK, CARAVAN = 7, 8, 9, 11, 15, 26, 27, 29
CORNERS = [
    # Road predicted as road, within its category, and as ignored ids of its and another category.
    flat((ROAD, ROAD, 9), (SIDEWALK, ROAD, 4), (PARKING, ROAD, 3), (BRIDGE, ROAD, 2)),
    # Void labels, predicted as classes of their category and of others.
    flat((ROAD, PARKING, 5), (CAR, PARKING, 7), (TRUCK, 0, 6), (CAR, CAR, 8), (CARAVAN, CAR, 1)),
    # All labels void; truck is predicted on void pixels only.
    flat((TRUCK, 4, 11), (SIDEWALK, 1, 5)),
    # A class that is only predicted, and one that is never predicted correctly.
    flat((BUILDING, CAR, 2), (0, SIDEWALK, 12), (CAR, SIDEWALK, 1)),
]


def test_corner_cases_equal_the_official_scores(
    folders: tuple[Path, Path], official_scorer: Any
) -> None:
    write(folders, CORNERS)
    assert_equal(ours(*folders), official_scorer(*folders))


def test_corner_cases(folders: tuple[Path, Path]) -> None:
    """The official scores, without the official script."""
    write(folders, CORNERS)
    found = ours(*folders)
    known = {"road": 9 / 18, "car": 8 / 12, "sidewalk": 0, "building": 0}
    assert {name: iou for name, iou in found["iou"].items() if iou is not None} == known
    assert found["miou"] == pytest.approx(sum(known.values()) / 4)
    assert found["category_iou"]["flat"] == pytest.approx(13 / 31)
    assert found["category_miou"] == pytest.approx((13 / 31 + 8 / 12 + 0) / 3)
    assert sum(found["predicted_void"]) == 3 * (3 + 2 + 1 + 12)


def random_pair(random: np.random.Generator) -> Maps:
    """Draw maps of random size with a few random ids that partly agree."""
    size = random.integers(1, 60, 2)
    ids = [random.choice(IDS, random.integers(1, 9), replace=False) for _ in range(2)]
    label = random.choice(ids[0], size)
    agreeing = random.random(size) < random.random()
    return np.where(agreeing, label, random.choice(ids[1], size)), label


@pytest.mark.parametrize(("images", "seed"), [(20, 0), (3, 1)])
def test_random_maps_equal_the_official_scores(
    folders: tuple[Path, Path], official_scorer: Any, images: int, seed: int
) -> None:
    random = np.random.default_rng(seed)
    write(folders, [random_pair(random) for _ in range(images)])
    official = official_scorer(*folders)
    assert_equal(ours(*folders), official)
    words = ["eval", "--predictions", folders[0], "--labels", folders[1], "--json"]
    result = CliRunner().invoke(app, list(map(str, words)))
    assert result.exit_code == 0, result.output
    assert_equal(json.loads(result.stdout), official)
    absent = sum(math.isnan(official["classScores"][name]) for name in cityscapes().names)
    assert (absent > 0) == (images < 20), "one set has all classes, one has not"

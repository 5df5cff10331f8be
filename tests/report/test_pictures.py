"""What a page shows of a picture: the files, and the numbers beside them."""

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from drn_cli.data.classes import ClassSet
from drn_cli.data.images import Pixels
from drn_cli.evaluation.classification import ranked
from drn_cli.report.pictures import (
    SegmentedPicture,
    classified_picture,
    name_below,
    segmented_picture,
)

from .seeing import PAINT, colour_classifier, painted

CLASSES = ClassSet(("road", "car", "sky"), ((10, 20, 30), (200, 0, 0), (0, 0, 250)))
VOID = 255


def opened(content: bytes) -> Pixels:
    return np.asarray(Image.open(io.BytesIO(content)).convert("RGBA"))


def shown(label: Pixels, prediction: Pixels, image: Pixels | None = None) -> SegmentedPicture:
    return segmented_picture("a/b.png", image, label, prediction, CLASSES)


def counted(label: Pixels, prediction: Pixels) -> tuple[float, float]:
    """Give mIoU and accuracy, counted pixel by pixel."""
    pairs = [pair for pair in zip(label.flat, prediction.flat, strict=True) if pair[0] != VOID]
    ious = []
    for number in range(len(CLASSES)):
        either = sum(number in pair for pair in pairs)
        if either:
            ious.append(sum(pair == (number, number) for pair in pairs) / either)
    return sum(ious) / len(ious), sum(a == b for a, b in pairs) / len(pairs)


@pytest.fixture
def pair() -> tuple[Pixels, Pixels]:
    """A label map with some void, and a prediction without the last class; 40x30."""
    random = np.random.default_rng(1)
    label = random.choice(np.array([0, 1, VOID], np.uint8), (30, 40))
    return label, random.integers(0, 2, label.shape, np.uint8)


def test_the_scores_are_those_of_a_count(pair: tuple[Pixels, Pixels]) -> None:
    made = shown(*pair)
    miou, right = counted(*pair)
    assert made.miou == pytest.approx(miou)
    assert made.right == pytest.approx(right)
    assert 0.1 < miou < right < 0.9


def test_a_void_prediction_is_a_miss_and_no_void_label_counts() -> None:
    label = np.array([[0, 0, 0, 1, VOID]], np.uint8)
    made = shown(label, np.array([[0, VOID, 1, 1, 0]], np.uint8))
    assert made.right == pytest.approx(2 / 4)
    assert made.miou == pytest.approx((1 / 3 + 1 / 2) / 2)


def test_the_classes_are_named_by_their_share_the_largest_first() -> None:
    label = np.array([[2, 2, 0, VOID, VOID]], np.uint8)
    made = shown(label, np.array([[1, 1, 1, 1, 0]], np.uint8))
    assert made.label_classes == (("sky", 2 / 3), ("road", 1 / 3))
    assert made.predicted_classes == (("car", 0.8), ("road", 0.2))


def test_shares_of_a_prediction_are_of_all_pixels() -> None:
    made = shown(np.zeros((1, 4), np.uint8), np.array([[1, VOID, VOID, VOID]], np.uint8))
    assert made.predicted_classes == (("car", 0.25),)


def test_the_files_are_of_one_size_and_hold_what_was_given(pair: tuple[Pixels, Pixels]) -> None:
    label, prediction = pair
    image = np.full((30, 40, 3), (90, 150, 30), np.uint8)
    made = shown(label, prediction, image)
    assert (made.name, made.size) == ("a/b.png", (40, 30))
    assert Image.open(io.BytesIO(made.picture)).format == "JPEG"
    assert np.abs(opened(made.picture)[..., :3].astype(int) - image).max() < 5
    for content, values in ((made.label, label), (made.prediction, prediction)):
        pixels = opened(content)
        assert np.array_equal(pixels[..., 3] == 0, values == VOID)
        for number, colour in enumerate(CLASSES.colours):
            assert (pixels[values == number] == (*colour, 255)).all()
    dimmed = (opened(made.error) == (0, 0, 0, 160)).all(axis=2)
    assert np.array_equal(dimmed, (label == prediction) & (label != VOID))


def test_large_pictures_shrink_but_are_scored_as_they_are() -> None:
    label = np.zeros((600, 1280), np.uint8)
    prediction = label.copy()
    prediction[:, 1::2] = 1  # half of it, in columns that a small picture may not have
    made = shown(label, prediction, np.zeros((600, 1280, 3), np.uint8))
    assert made.size == (640, 300)
    for content in (made.picture, made.label, made.prediction, made.error):
        assert Image.open(io.BytesIO(content)).size == made.size
    assert (made.right, made.miou) == (0.5, 0.25)


def test_a_label_of_void_alone_has_nothing_to_score() -> None:
    void = np.full((8, 8), VOID, np.uint8)
    made = shown(void, np.zeros_like(void))
    assert (made.miou, made.right, made.label_classes) == (None, None, ())
    assert made.predicted_classes == (("road", 1.0),)
    assert len(np.unique(opened(made.error).reshape(-1, 4), axis=0)) == 1


def test_where_there_is_no_picture_it_is_grey(pair: tuple[Pixels, Pixels]) -> None:
    made = shown(*pair)
    assert made.size == (40, 30)
    assert np.abs(opened(made.picture)[..., :3].astype(int) - 128).max() < 3


def test_maps_that_cannot_be_written_to_or_lie_otherwise(pair: tuple[Pixels, Pixels]) -> None:
    label, prediction = pair
    label.flags.writeable = False
    mirrored = prediction[:, ::-1]  # the same memory, from its end
    assert shown(label, mirrored) == shown(label.copy(), mirrored.copy())


CENTRE = {"blue": (32, 0, 63, 31)}  # of a picture of 96x32, whose left is red and right green
SIDES = {"red": (0, 0, 31, 31), "green": (64, 0, 95, 31)}


def softmax(scores: Sequence[float]) -> np.ndarray:
    powers = np.exp(np.array(scores))
    return powers / powers.sum()


def test_one_crop_is_shown_and_judged() -> None:
    classifier = colour_classifier(crop=32, resize=32)
    made = classified_picture("x", painted(32, 96, **CENTRE, **SIDES), 2, classifier)
    assert (made.name, made.truth, made.is_right) == ("x", "blue", True)
    expected = softmax([-8, -8, 8])
    assert [name for name, _ in made.guesses] == ["blue", "red", "green"]
    assert [share for _, share in made.guesses] == pytest.approx(sorted(expected, reverse=True))
    assert made.size == (32, 32)
    assert np.abs(opened(made.picture)[..., :3].astype(int) - PAINT["blue"]).max() < 5


def test_of_ten_crops_the_centre_is_shown_and_all_are_judged() -> None:
    classifier = colour_classifier(crop=32, resize=32, view="10-crop")
    made = classified_picture("x", painted(32, 96, **CENTRE, **SIDES), 2, classifier)
    # As the picture is no higher than a crop, four are of the left, four of the right, two between.
    expected = (4 * softmax([8, -8, -8]) + 4 * softmax([-8, 8, -8]) + 2 * softmax([-8, -8, 8])) / 10
    assert {name for name, _ in made.guesses[:2]} == {"red", "green"}
    assert [share for _, share in made.guesses] == pytest.approx(sorted(expected, reverse=True))
    assert made.is_right is False
    assert made.size == (32, 32)
    assert np.abs(opened(made.picture)[..., :3].astype(int) - PAINT["blue"]).max() < 5


def test_a_large_crop_is_shrunk() -> None:
    made = classified_picture("x", painted(800, 900), 0, colour_classifier(crop=800, resize=800))
    assert made.size == Image.open(io.BytesIO(made.picture)).size == (640, 640)


@pytest.mark.parametrize(("classes", "named"), [(1, 1), (2, 2), (100, 3)])
def test_three_guesses_are_named_at_most(classes: int, named: int) -> None:
    names = tuple(f"class {n}" for n in range(classes))
    scores = torch.arange(classes, dtype=torch.float32)
    classifier = colour_classifier(names, network=lambda images: scores.expand(len(images), -1))
    made = classified_picture("x", painted(64, 64), classes - 1, classifier)
    assert [name for name, _ in made.guesses] == list(names[::-1][:named])
    assert made.is_right


@pytest.mark.parametrize(
    ("classes", "value", "truth"),
    [(50, 0.0, 0), (50, 0.0, 7)],
    ids=["the first of equals", "another of equals"],
)
def test_a_picture_is_right_where_it_is_scored_so(classes: int, value: float, truth: int) -> None:
    """Of equal classes the first wins."""
    names = tuple(f"class {n}" for n in range(classes))
    scores = torch.full((1, classes), value)
    classifier = colour_classifier(names, network=lambda images: scores.expand(len(images), -1))
    made = classified_picture("x", painted(64, 64), truth, classifier)
    rank = ranked(scores.double().log_softmax(1), torch.tensor([truth])).rank.item()
    assert made.is_right is (rank == 1)


def test_names_are_below_the_folder_or_whole(tmp_path: Path) -> None:
    assert name_below(tmp_path / "val" / "a.png", tmp_path) == "val/a.png"
    assert name_below(tmp_path / "a.png", tmp_path / "other") == str(tmp_path / "a.png")
    assert name_below(Path("x/../a.png"), Path("y")) == "x/../a.png"

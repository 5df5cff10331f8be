"""Localization error: which boxes are correct, and independence of the number of processes."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import colour_classifier
import numpy as np
import pytest
import torch
from colour_classifier import NAMES, WNIDS, draw, save

from drn_cli.data.boxes import Box
from drn_cli.data.images import read_image
from drn_cli.distributed.group import Group
from drn_cli.errors import DrnError
from drn_cli.evaluation.localization import (
    ImageBoxes,
    Localization,
    LocalizationScores,
    compare,
    iou,
    is_correct,
    localize,
    match_boxes,
    worst_boxes,
)
from drn_cli.inference.activation import ClassActivationMap, class_activation_map
from drn_cli.inference.classifier import ClassificationPredictor
from drn_cli.inference.loading import load_classifier

CPU = torch.device("cpu")
ALONE = Group(0, 1, CPU)
NONE = float("-inf")
LIMITS = (NONE, 0.5, 2.0, 4.0, 5.5, 20.0)


def pixels(xmin: float, ymin: float, xmax: float, ymax: float) -> set[tuple[int, int]]:
    return {
        (x, y) for x in range(int(xmin), int(xmax) + 1) for y in range(int(ymin), int(ymax) + 1)
    }


@pytest.mark.parametrize(
    "found",
    [
        (3, 4, 12, 9),  # the same
        (5, 5, 8, 7),  # inside
        (0, 0, 20, 20),  # around
        (10, 2, 15, 6),
        (12, 9, 18, 18),  # a pixel in common
        (13, 4, 18, 9),  # beside
        (0, 0, 2, 3),  # far
        (3, 4, 3, 4),  # a pixel
    ],
)
def test_iou_equals_counted_pixels(found: tuple[int, ...]) -> None:
    true = (3, 4, 12, 9)
    one, other = pixels(*found), pixels(*true)
    result = iou(np.array(found, float), Box("", *true))
    assert float(result) == pytest.approx(len(one & other) / len(one | other))


def test_iou_of_no_box_is_zero() -> None:
    boxes = np.array([[[np.nan] * 4, [0, 0, 9, 9]], [[5, 0, 14, 9], [np.nan] * 4]])
    assert iou(boxes, Box("", 0, 0, 9, 9)).tolist() == [[0, 1], [pytest.approx(1 / 3), 0]]


def activation(*boxes: tuple[int, int, int, int] | None, likely: list[float]) -> ClassActivationMap:
    """Return the map of an 80x80 image in which each class wins a box of positions.

    The last class wins everywhere else.
    """
    maps = torch.zeros(len(boxes) + 1, 10, 10)
    maps[-1] = 1
    for kind, box in enumerate(boxes):
        if box is not None:
            xmin, ymin, xmax, ymax = box
            maps[kind, ymin : ymax + 1, xmin : xmax + 1] = 2
    probabilities = torch.tensor(likely, dtype=torch.float64)
    return ClassActivationMap(maps, probabilities, (80, 80), (0, 0, 80, 80), (80, 80))


def true(*boxes: tuple[int, tuple[int, int, int, int]]) -> Localization:
    """Return an image with true boxes, given as class and box of positions."""
    made = [
        Box("", 8 * xmin, 8 * ymin, 8 * xmax + 7, 8 * ymax + 7)
        for _, (xmin, ymin, xmax, ymax) in boxes
    ]
    return Localization(Path("a.png"), tuple(made), tuple(kind for kind, _ in boxes))


def correctness(found: ClassActivationMap, truth: Localization, *limits: float) -> list[list[bool]]:
    one = compare(found, truth, limits or (NONE,), 0)
    return is_correct(one).tolist()


def test_iou_of_exactly_half_is_incorrect() -> None:
    found = activation((0, 0, 3, 3), None, likely=[0.6, 0.1, 0.3])
    assert compare(found, true((0, (0, 0, 3, 7))), (NONE,), 0).iou[0, 0] == 0.5
    assert correctness(found, true((0, (0, 0, 3, 7)))) == [[False], [False]]
    assert correctness(found, true((0, (0, 0, 3, 6)))) == [[True], [True]]


def test_top_1_uses_the_most_probable_class_and_top_5_the_first_five() -> None:
    box = (2, 2, 6, 6)
    probabilities = [0.05, 0.2, 0.3, 0.15, 0.08, 0.12, 0.1]
    found = activation(box, None, None, None, None, None, likely=probabilities)
    assert correctness(found, true((0, box))) == [[False], [False]], "class 0 ranks seventh"
    for some, correct in (([0.31, 0.2, 0.3], True), ([0.25, 0.2, 0.3], False)):
        found = activation(box, None, likely=some)
        assert correctness(found, true((0, box))) == [[correct], [True]]
    sixth = activation(box, None, None, None, None, None, likely=[0.09, *probabilities[1:]])
    fifth = activation(box, None, None, None, None, None, likely=[0.11, *probabilities[1:]])
    assert correctness(sixth, true((0, box)))[1] == correctness(fifth, true((0, box)))[0] == [False]
    assert correctness(fifth, true((0, box)))[1] == [True]


def test_box_of_another_class_is_incorrect() -> None:
    box = (2, 2, 6, 6)
    found = activation(box, None, likely=[0.6, 0.1, 0.3])
    assert correctness(found, true((1, box))) == [[False], [False]]


def test_any_true_box_of_the_class_makes_it_correct() -> None:
    one, other, far = (0, 0, 3, 3), (5, 5, 9, 9), (9, 0, 9, 0)
    found = activation(one, other, likely=[0.3, 0.6, 0.1])
    assert correctness(found, true((1, far), (1, other))) == [[True], [True]]
    assert correctness(found, true((1, far), (0, one))) == [[False], [True]]
    assert correctness(found, true((1, one), (0, other))) == [[False], [False]], (
        "boxes of another class do not count"
    )
    best = compare(found, true((1, far), (1, other), (1, (4, 4, 9, 9))), (NONE,), 3)
    assert best.iou.tolist() == [[1], [0], [0]]
    assert (best.number, best.classes, best.probabilities) == (3, (1, 0, 2), (0.6, 0.3, 0.1))


def test_each_threshold_has_a_box() -> None:
    found = activation((0, 0, 3, 3), None, likely=[0.6, 0.1, 0.3])
    found.maps[0, 0, 0] = 3
    truth = true((0, (0, 0, 3, 3)))
    assert correctness(found, truth, NONE, 1.5, 2.5, 3.5) == [[True, True, False, False]] * 2


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> ClassificationPredictor:
    path = colour_classifier.write(tmp_path_factory.mktemp("colours") / "colours.safetensors")
    return load_classifier(path, CPU, crop=64, resize=64)


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> list[Localization]:
    """Rectangles of four colours, most of them with their true box; seven images."""
    folder = tmp_path_factory.mktemp("images")
    random = np.random.default_rng(5)
    made = []
    for number in range(7):
        kind = int(random.integers(4))
        left, top = random.integers(0, 30, 2).tolist()
        box = (left, top, left + int(random.integers(25, 40)), top + int(random.integers(20, 33)))
        path = save(folder / f"{number}.png", draw(64, 80, {NAMES[kind]: box}, number))
        # The true box of every third image is elsewhere; number 3 has another class.
        shift = 25 if number % 3 == 1 else 0
        label = (kind + 1) % 4 if number == 3 else kind
        corners = (box[0] + shift, box[1] + shift, box[2] + shift, box[3] + shift)
        made.append(Localization(path, (Box(WNIDS[label], *corners),), (label,)))
    return made


def test_sweep_equals_single_thresholds(
    classifier: ClassificationPredictor, images: list[Localization]
) -> None:
    seen: list[int] = []
    scores = localize(
        classifier, images, ALONE, LIMITS, per_image=True, step=lambda: seen.append(1)
    )
    assert len(seen) == scores.images == 7
    assert scores.thresholds == LIMITS
    alone = [localize(classifier, images, ALONE, [limit]) for limit in LIMITS]
    assert scores.top1 == tuple(one.top1[0] for one in alone)
    assert scores.top5 == tuple(one.top5[0] for one in alone)
    assert {one.top1_classification for one in alone} == {scores.top1_classification}
    for found, image in zip(scores.per_image, images, strict=True):
        here = class_activation_map(classifier, read_image(image.image))
        for place, kind in enumerate(here.topk(5)):
            for n, limit in enumerate(LIMITS):
                [[box]] = here.boxes([kind], [limit])
                assert np.array_equal(found.boxes[place, n], box, equal_nan=True)


def test_errors_are_fractions_of_the_images(
    classifier: ClassificationPredictor, images: list[Localization]
) -> None:
    """Of seven images, 1 and 4 have a true box elsewhere, and 3 has another class."""
    scores = localize(classifier, images, ALONE, [0.5, 20])
    assert scores.top1 == pytest.approx((3 / 7, 1))
    assert scores.top5 == pytest.approx((3 / 7, 1))
    assert scores.top1_classification == pytest.approx(1 / 7)
    assert scores.top5_classification == 0, "the network has five classes"
    assert scores.per_image == ()


@pytest.mark.parametrize(("others", "error"), [([], 0), ([1], 0), ([1, 2], 0), (None, 1)])
def test_any_class_of_the_true_boxes_is_a_correct_classification(
    classifier: ClassificationPredictor,
    images: list[Localization],
    others: list[int] | None,
    error: int,
) -> None:
    far = Box("", 0, 0, 1, 1)
    [kind] = images[0].classes
    classes = [(kind + step) % 4 for step in ([1] if others is None else [*others, 0])]
    image = Localization(images[0].image, (far,) * len(classes), tuple(classes))
    scores = localize(classifier, [image], ALONE, [NONE])
    assert (scores.top1, scores.top1_classification) == ((1,), error)


def test_see_and_kind_are_applied(
    classifier: ClassificationPredictor, images: list[Localization]
) -> None:
    small, image = replace(classifier, crop=24), read_image(images[0].image)
    settings: list[Any] = [("whole", "score"), ("whole", "probability"), ("centre", "score")]
    found = set()
    for see, kind in settings:
        [one] = localize(
            small, images[:1], ALONE, [1.0], see=see, kind=kind, per_image=True
        ).per_image
        here = class_activation_map(small, image, see, kind)
        assert np.array_equal(one.boxes, here.boxes(here.topk(5), [1.0]), equal_nan=True)
        found.add(str(one.boxes))
    assert len(found) == 3, "equal boxes would prove little"


def swept(group: Group, checkpoint: Path, images: list[Localization]) -> Any:
    seen: list[int] = []
    colours = load_classifier(checkpoint, CPU, crop=64, resize=64)
    scores = localize(colours, images, group, LIMITS, per_image=True, step=lambda: seen.append(1))
    boxes = [one.boxes for one in scores.per_image]
    plain = [(one.number, one.classes, one.probabilities) for one in scores.per_image]
    return replace(scores, per_image=()), plain, boxes, len(seen)


def test_two_processes_give_the_same_boxes(
    images: list[Localization], tmp_path: Path, spawn: Any
) -> None:
    """Seven images: shards of unequal size; results in list order."""
    checkpoint = colour_classifier.write(tmp_path / "colours.safetensors")
    alone = swept(ALONE, checkpoint, images)
    first, second = spawn(swept, 2, checkpoint, images)
    for one in (first, second):
        assert one[:2] == alone[:2]
        for found, right in zip(one[2], alone[2], strict=True):
            assert np.array_equal(found, right, equal_nan=True)
    assert (first[3], second[3]) == (4, 3)


def test_broken_image_is_an_error_with_its_name(
    classifier: ClassificationPredictor, images: list[Localization], tmp_path: Path
) -> None:
    (tmp_path / "cut.png").write_bytes(images[0].image.read_bytes()[:90])
    with pytest.raises(DrnError, match=r"cut\.png: broken image"):
        localize(classifier, [replace(images[0], image=tmp_path / "cut.png")], ALONE, [NONE])


def scores_of(top1: list[float], top5: list[float]) -> LocalizationScores:
    limits = (NONE, *map(float, range(1, len(top1))))
    return LocalizationScores(limits, tuple(top1), tuple(top5), 0.1, 0.05, 8)


def test_best_threshold_has_the_lowest_top_1_then_top_5_error() -> None:
    assert scores_of([0.5, 0.25, 0.5], [0.1, 0.25, 0.1]).best == 1
    assert scores_of([0.5, 0.25, 0.25, 0.25], [0, 0.25, 0.125, 0.125]).best == 2


def test_json_has_null_for_no_threshold() -> None:
    found = scores_of([0.25, 0.5], [0.125, 0.5]).to_json()
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert found == {
        "images": 8,
        "threshold": None,
        "top1_error": 0.25,
        "top5_error": 0.125,
        "top1_classification_error": 0.1,
        "top5_classification_error": 0.05,
        "sweep": [
            {"threshold": None, "top1_error": 0.25, "top5_error": 0.125},
            {"threshold": 1, "top1_error": 0.5, "top5_error": 0.5},
        ],
    }


def test_worst_boxes_overlap_least_at_the_best_threshold() -> None:
    def image(number: int, *overlap: float) -> ImageBoxes:
        no_boxes = np.full((2, 2, 4), np.nan)
        return ImageBoxes(number, (0, 1), (0.6, 0.4), no_boxes, np.array([overlap, (1, 1)]))

    scores = replace(
        scores_of([0.5, 0.25], [0.5, 0.25]),
        per_image=(image(0, 0, 0.9), image(1, 1, 0.2), image(2, 1, 0), image(3, 1, 0.2)),
    )
    assert [one.number for one in worst_boxes(scores)] == [2, 1, 3, 0]


def test_match_boxes_by_name() -> None:
    images = [Path(f"a/{name}") for name in ("one.JPEG", "two.png", "three.png", "four.png")]
    truth = {
        "one": [Box("n1", 0, 0, 1, 1), Box("n9", 2, 2, 3, 3), Box("n2", 4, 4, 5, 5)],
        "two": [Box("n9", 0, 0, 1, 1)],
        "four": [Box("n2", 0, 0, 1, 1)],
        "unseen": [Box("n1", 0, 0, 1, 1)],
    }
    found, without, unseen = match_boxes(images, truth, {"n1": 4, "n2": 7})
    assert without == images[1:3], "one has a box of an unknown class only, one has no box"
    assert unseen == [Path("unseen")]
    assert found == [
        Localization(images[0], (truth["one"][0], truth["one"][2]), (4, 7)),
        Localization(images[3], (truth["four"][0],), (7,)),
    ]

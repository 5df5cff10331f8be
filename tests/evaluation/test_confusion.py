"""Confusion matrix and scores, against loops over pixels and values computed by hand."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from drn_cli.data.classes import IGNORED, camvid, cityscapes, cityscapes_categories, generic
from drn_cli.errors import DrnError
from drn_cli.evaluation.confusion import (
    ImageScores,
    Matrix,
    NothingToScoreError,
    SegmentationScores,
    class_iou,
    confusion,
    worst_first,
)

NAME = Path("labels") / "a.png"


def counted(prediction: np.ndarray, label: np.ndarray, classes: int) -> Matrix:
    matrix = np.zeros((classes, classes + 1), np.int64)
    for y in range(label.shape[0]):
        for x in range(label.shape[1]):
            if label[y, x] != IGNORED:
                matrix[label[y, x], min(int(prediction[y, x]), classes)] += 1
    return matrix


def maps(classes: int, present: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Draw a prediction of all classes and a label map of the first ones, some void in both."""
    random = np.random.default_rng(seed)
    label = random.integers(0, present, (23, 31)).astype(np.uint8)
    prediction = np.where(
        random.random(label.shape) < 0.5, label, random.integers(0, classes, label.shape)
    ).astype(np.uint8)
    label[random.random(label.shape) < 0.3] = IGNORED
    prediction[random.random(label.shape) < 0.2] = IGNORED
    return prediction, label


def matrix_of(prediction: np.ndarray, label: np.ndarray, classes: int) -> Matrix:
    return confusion(torch.from_numpy(prediction), torch.from_numpy(label), classes).numpy()


def with_void(*rows: list[int]) -> Matrix:
    """Append a zero column of void predictions to a square matrix."""
    return np.pad(np.array(rows, np.int64), ((0, 0), (0, 1)))


@pytest.mark.parametrize(("classes", "seed"), [(1, 0), (2, 1), (11, 2), (19, 3), (255, 4)])
def test_matrix_equals_a_loop_over_pixels(classes: int, seed: int) -> None:
    prediction, label = maps(classes, max(1, classes - 3), seed)  # the last are predicted only
    matrix = confusion(torch.from_numpy(prediction), torch.from_numpy(label), classes)
    assert matrix.dtype == torch.int64
    assert matrix.shape == (classes, classes + 1)
    assert np.array_equal(matrix.numpy(), counted(prediction, label, classes))
    assert matrix[:, classes].sum() > 0, "some predictions are void"


def test_label_out_of_range_is_an_error_with_file_and_value() -> None:
    label = torch.tensor([[0, 7], [255, 9]], dtype=torch.uint8)
    with pytest.raises(
        DrnError, match=r"label 7 is out of range \(labels are 0 to 5, and 255"
    ) as caught:
        confusion(torch.zeros_like(label), label, 6, NAME)
    assert str(NAME) in str(caught.value)


def test_label_equal_to_the_number_of_classes_is_out_of_range() -> None:
    with pytest.raises(DrnError, match="label 5 is out of range"):
        confusion(
            torch.zeros(1, 1, dtype=torch.uint8), torch.tensor([[5]], dtype=torch.uint8), 5, NAME
        )


@pytest.mark.parametrize(("wide", "predicted"), [(4, 3), (3, 4)])
def test_different_sizes_are_an_error_with_file_and_both_sizes(wide: int, predicted: int) -> None:
    prediction = torch.zeros(2, predicted, dtype=torch.uint8)
    text = f"label map is {wide}x2, prediction is {predicted}x2"
    with pytest.raises(DrnError, match=text) as caught:
        confusion(prediction, torch.zeros(2, wide, dtype=torch.uint8), 5, NAME)
    assert str(NAME) in str(caught.value)


def test_scores_of_two_classes() -> None:
    # Class 0: 5 of 6 correct, 1 predicted as class 1; class 1: 2 of 4 correct.
    scores = SegmentationScores.of(with_void([5, 1], [2, 2]), images=1)
    assert scores.iou == pytest.approx((5 / 8, 2 / 5))
    assert scores.miou == pytest.approx((5 / 8 + 2 / 5) / 2)
    assert scores.pixel_accuracy == pytest.approx(7 / 10)
    assert scores.mean_accuracy == pytest.approx((5 / 6 + 2 / 4) / 2)
    assert scores.frequency_weighted_iou == pytest.approx(0.6 * 5 / 8 + 0.4 * 2 / 5)
    assert scores.images == 1
    assert scores.per_image == ()


def test_predicted_void_is_a_false_negative_and_no_false_positive() -> None:
    # Class 0: 3 pixels correct, 1 void; class 1: 2 correct, 4 void.
    scores = SegmentationScores.of(np.array([[3, 0, 1], [0, 2, 4]], np.int64), images=1)
    assert scores.iou == pytest.approx((3 / 4, 2 / 6))
    assert scores.pixel_accuracy == pytest.approx(5 / 10)
    assert scores.mean_accuracy == pytest.approx((3 / 4 + 2 / 6) / 2)
    assert scores.frequency_weighted_iou == pytest.approx(0.4 * 3 / 4 + 0.6 * 2 / 6)


def test_predictions_on_void_labels_are_ignored() -> None:
    label = np.array([[0, 0, 1, IGNORED, IGNORED]], np.uint8)
    scores = SegmentationScores.of(
        matrix_of(np.array([[0, 0, 1, 1, 2]], np.uint8), label, 3), images=1
    )
    assert scores.iou == (1, 1, None)


def test_absent_class_is_excluded_from_the_means() -> None:
    scores = SegmentationScores.of(with_void([3, 1, 0], [2, 2, 0], [0, 0, 0]), images=1)
    assert scores.iou[2] is None
    assert scores.miou == pytest.approx((3 / 6 + 2 / 5) / 2)
    assert scores.mean_accuracy == pytest.approx((3 / 4 + 2 / 4) / 2)
    assert scores.frequency_weighted_iou == pytest.approx((3 / 6 + 2 / 5) / 2)


def test_class_that_is_only_predicted_has_zero_iou() -> None:
    scores = SegmentationScores.of(with_void([3, 1], [0, 0]), images=1)
    assert scores.iou == pytest.approx((3 / 4, 0))
    assert scores.miou == pytest.approx(3 / 8)
    assert scores.mean_accuracy == pytest.approx(3 / 4)
    assert scores.frequency_weighted_iou == pytest.approx(3 / 4)


def test_counts_above_32_bits() -> None:
    many = 2**40
    scores = SegmentationScores.of(with_void([3 * many, many], [0, 4 * many]), images=2)
    assert scores.iou == pytest.approx((3 / 4, 4 / 5))
    assert scores.by_category(["a", "b"]) == pytest.approx({"a": 3 / 4, "b": 4 / 5})


def test_all_void_labels_are_an_error() -> None:
    label = torch.full((2, 2), IGNORED, dtype=torch.uint8)
    matrix = confusion(torch.zeros_like(label), label, 3)
    assert not matrix.any()
    with pytest.raises(NothingToScoreError, match="nothing to score"):
        SegmentationScores.of(matrix.numpy(), images=1)


def iou_by_pixels(prediction: np.ndarray, label: np.ndarray, group: list[bool]) -> float | None:
    """Return the IoU of a group of classes by a loop over pixels."""
    both = either = 0
    for p, t in zip(prediction.flat, label.flat, strict=True):
        if t != IGNORED:
            predicted, true = p != IGNORED and group[p], group[t]
            both += predicted and true
            either += predicted or true
    return both / either if either else None


@pytest.mark.parametrize(("present", "seed"), [(19, 0), (13, 1), (2, 2)])
def test_categories_equal_a_loop_over_pixels(present: int, seed: int) -> None:
    prediction, label = maps(19, present, seed)
    prediction[prediction >= 18] = IGNORED
    if present == 2:  # only "flat": the other categories are absent
        prediction[prediction > 1] = IGNORED
    found = SegmentationScores.of(matrix_of(prediction, label, 19), images=1).categories(
        cityscapes()
    )
    categories = cityscapes_categories()
    assert list(found) == list(dict.fromkeys(categories))
    for name, iou in found.items():
        group = [category == name for category in categories]
        assert iou == iou_by_pixels(prediction, label, group)
    assert (None in found.values()) == (present == 2)


def test_confusion_within_a_category_is_correct() -> None:
    # A void prediction (of the third class) is an error in its category too.
    matrix = np.array([[1, 3, 0, 0], [0, 2, 1, 0], [0, 0, 4, 1]], np.int64)
    found = SegmentationScores.of(matrix, images=1).by_category(["near", "near", "far"])
    assert found == pytest.approx({"near": 6 / 7, "far": 4 / 6})


def test_only_the_classes_of_cityscapes_have_categories() -> None:
    for classes, expected in ((camvid(), 0), (generic(19), 7)):
        matrix = with_void(*np.eye(len(classes), dtype=int).tolist())
        assert len(SegmentationScores.of(matrix, 1).categories(classes)) == expected


def test_image_scores_are_means_over_its_own_classes() -> None:
    one = ImageScores.of(np.array([[3, 1, 0, 1], [0] * 4, [0] * 4], np.int64), 4, "a.png", "l.png")
    assert (one.number, one.image, one.label) == (4, "a.png", "l.png")
    assert one.iou == (pytest.approx(3 / 5), 0, None)
    assert one.miou == pytest.approx(3 / 10)
    assert one.pixel_accuracy == pytest.approx(3 / 5)


def test_image_with_all_void_labels_has_no_scores() -> None:
    one = ImageScores.of(np.zeros((2, 3), np.int64), 0, "a.png", "l.png")
    assert (one.iou, one.miou, one.pixel_accuracy) == ((None, None), None, None)


def test_worst_first_puts_images_without_scores_last() -> None:
    void = np.zeros((2, 3), np.int64)
    matrices = [void, with_void([4, 0], [0, 4]), with_void([0, 4], [4, 0]), void]
    matrices += [with_void([3, 1], [1, 3]), with_void([4, 0], [0, 4])]
    images = [ImageScores.of(m, n, f"{n}.png", "l.png") for n, m in enumerate(matrices)]
    assert [one.number for one in worst_first(images)] == [2, 4, 1, 5, 0, 3]
    assert [one.number for one in worst_first(images[::-1])] == [2, 4, 1, 5, 0, 3]


def test_class_iou_is_nan_for_absent_classes() -> None:
    iou = class_iou(np.array([[3, 0, 1], [0, 0, 0]], np.int64))
    assert iou[0] == pytest.approx(3 / 4)
    assert np.isnan(iou[1])


KEYS = [
    "images",
    "miou",
    "pixel_accuracy",
    "mean_accuracy",
    "frequency_weighted_iou",
    "iou",
    "absent_classes",
    "confusion_matrix",
    "predicted_void",
]


def test_json_has_class_names_and_null_for_absent_classes() -> None:
    matrix = np.zeros((11, 12), np.int64)
    matrix[0, 0], matrix[3, 3], matrix[3, 0], matrix[3, 11] = 6, 4, 2, 4
    matrix[0, 1] = 2  # Building is predicted only, hence not absent
    scores = SegmentationScores.of(matrix, images=5)
    value = json.loads(json.dumps(scores.to_json(camvid()), allow_nan=False))
    assert list(value) == KEYS
    assert value["images"] == 5
    assert list(value["iou"]) == list(camvid().names)
    assert value["iou"]["Road"] == pytest.approx(4 / 10)
    assert value["iou"]["Sky"] == pytest.approx(6 / 10)
    assert value["iou"]["Building"] == 0
    assert value["iou"]["Car"] is None
    present = {"Sky", "Road", "Building"}
    assert value["absent_classes"] == [name for name in camvid().names if name not in present]
    assert value["miou"] == pytest.approx((4 / 10 + 6 / 10 + 0) / 3)
    assert value["pixel_accuracy"] == pytest.approx(10 / 18)
    assert value["mean_accuracy"] == pytest.approx((6 / 8 + 4 / 10) / 2)
    assert value["frequency_weighted_iou"] == pytest.approx((8 * 6 / 10 + 10 * 4 / 10) / 18)
    assert value["confusion_matrix"] == matrix[:, :11].tolist()
    assert value["predicted_void"] == matrix[:, 11].tolist()


def test_json_of_cityscapes_has_categories() -> None:
    matrix = np.zeros((19, 20), np.int64)
    matrix[0, 0], matrix[0, 1], matrix[13, 14], matrix[13, 13], matrix[10, 19] = 3, 1, 2, 5, 1
    value = json.loads(json.dumps(SegmentationScores.of(matrix, images=1).to_json(cityscapes())))
    assert set(value) == {*KEYS, "category_miou", "category_iou"}
    assert value["category_iou"] == {
        "flat": 1,
        "construction": None,
        "object": None,
        "nature": None,
        "sky": 0,
        "human": None,
        "vehicle": 1,
    }
    assert value["category_miou"] == pytest.approx(2 / 3)


def test_json_with_another_number_of_class_names_is_an_error() -> None:
    with pytest.raises(ValueError, match="zip"):
        SegmentationScores.of(with_void([1]), images=1).to_json(generic(4))

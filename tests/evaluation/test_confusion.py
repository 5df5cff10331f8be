import json
from pathlib import Path

import numpy as np
import pytest
import torch

from drn_cli.data.classes import camvid, generic
from drn_cli.errors import DrnError
from drn_cli.evaluation.confusion import Scores, confusion

NAME = Path("labels") / "a.png"


def counted(prediction: np.ndarray, label: np.ndarray, classes: int) -> np.ndarray:
    matrix = np.zeros((classes, classes), np.int64)
    for y in range(label.shape[0]):
        for x in range(label.shape[1]):
            if label[y, x] != 255:
                matrix[label[y, x], prediction[y, x]] += 1
    return matrix


@pytest.mark.parametrize(("classes", "seed"), [(1, 0), (2, 1), (11, 2), (19, 3), (255, 4)])
def test_matrix_is_that_of_a_double_loop(classes: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    present = max(1, classes - 3)  # the last classes occur in predictions only
    label = random.integers(0, present, (23, 31)).astype(np.uint8)
    label[random.random(label.shape) < 0.3] = 255
    prediction = random.integers(0, classes, label.shape).astype(np.uint8)
    matrix = confusion(torch.from_numpy(prediction), torch.from_numpy(label), classes)
    assert matrix.dtype == torch.int64
    assert np.array_equal(matrix.numpy(), counted(prediction, label, classes))


def test_label_out_of_range_is_an_error_with_file_and_value() -> None:
    label = torch.tensor([[0, 7], [255, 9]], dtype=torch.uint8)
    with pytest.raises(DrnError, match="has the label 7; labels are 0 to 4") as caught:
        confusion(torch.zeros_like(label), label, 5, NAME)
    assert str(NAME) in str(caught.value)


def test_first_label_beyond_the_classes_is_out_of_range() -> None:
    with pytest.raises(DrnError, match="has the label 5"):
        confusion(
            torch.zeros(1, 1, dtype=torch.uint8), torch.tensor([[5]], dtype=torch.uint8), 5, NAME
        )


def test_sizes_that_differ_are_an_error_with_file_and_both_sizes() -> None:
    prediction = torch.zeros(2, 3, dtype=torch.uint8)
    with pytest.raises(DrnError, match="the label is 4x2, the prediction 3x2") as caught:
        confusion(prediction, torch.zeros(2, 4, dtype=torch.uint8), 5, NAME)
    assert str(NAME) in str(caught.value)


def test_scores_of_two_classes_by_hand() -> None:
    # Class 0: 3 right of 4, 1 taken for class 1; class 1: 2 right of 4.
    scores = Scores.of(np.array([[3, 1], [2, 2]], np.int64), images=1)
    assert scores.iou == pytest.approx((3 / 6, 2 / 5))
    assert scores.miou == pytest.approx((3 / 6 + 2 / 5) / 2)
    assert scores.pixel_accuracy == pytest.approx(5 / 8)
    assert scores.mean_accuracy == pytest.approx((3 / 4 + 2 / 4) / 2)
    assert scores.images == 1


def test_class_in_neither_labels_nor_predictions_is_left_out_of_the_mean() -> None:
    scores = Scores.of(np.array([[3, 1, 0], [2, 2, 0], [0, 0, 0]], np.int64), images=1)
    assert scores.iou[2] is None
    assert scores.miou == pytest.approx((3 / 6 + 2 / 5) / 2)
    assert scores.mean_accuracy == pytest.approx((3 / 4 + 2 / 4) / 2)


def test_class_in_predictions_only_counts_as_zero_in_the_mean() -> None:
    scores = Scores.of(np.array([[3, 1], [0, 0]], np.int64), images=1)
    assert scores.iou == pytest.approx((3 / 4, 0))
    assert scores.miou == pytest.approx(3 / 8)
    assert scores.mean_accuracy == pytest.approx(3 / 4)


def test_counts_beyond_32_bits_keep_their_value() -> None:
    many = 2**40
    scores = Scores.of(np.array([[3 * many, many], [0, 4 * many]], np.int64), images=2)
    assert scores.iou == pytest.approx((3 / 4, 4 / 5))


def test_labels_that_are_all_ignored_are_an_error() -> None:
    label = torch.full((2, 2), 255, dtype=torch.uint8)
    matrix = confusion(torch.zeros_like(label), label, 3)
    assert not matrix.any()
    with pytest.raises(DrnError, match="nothing to score"):
        Scores.of(matrix.numpy(), images=1)


def test_json_has_class_names_and_null_for_absent_classes() -> None:
    matrix = np.zeros((11, 11), np.int64)
    matrix[0, 0], matrix[3, 3], matrix[3, 0] = 6, 4, 2
    value = json.loads(json.dumps(Scores.of(matrix, images=5).to_json(camvid())))
    assert set(value) == {
        "images",
        "miou",
        "pixel_accuracy",
        "mean_accuracy",
        "iou",
        "confusion_matrix",
    }
    assert value["images"] == 5
    assert list(value["iou"]) == list(camvid().names)
    assert value["iou"]["Road"] == pytest.approx(4 / 6)
    assert value["iou"]["Sky"] == pytest.approx(6 / 8)
    assert value["iou"]["Car"] is None
    assert value["confusion_matrix"] == matrix.tolist()


def test_json_with_class_names_of_another_number_is_refused() -> None:
    with pytest.raises(ValueError, match="zip"):
        Scores.of(np.eye(3, dtype=np.int64), images=1).to_json(generic(4))

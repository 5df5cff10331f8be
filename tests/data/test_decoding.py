from pathlib import Path

import numpy as np
import pytest

from drn_cli.data.decoding import check_labels, read_pair
from drn_cli.data.folders import Sample
from drn_cli.data.images import write_png
from drn_cli.errors import DrnError

CLASSES = 5


def written(folder: Path, name: str, image: np.ndarray, label: np.ndarray) -> Sample:
    sample = Sample(folder / f"{name}.png", folder / f"{name}_label.png")
    write_png(sample.image, image)
    write_png(sample.label, label)
    return sample


def test_pair_round_trip(tmp_path: Path) -> None:
    image = np.arange(36, dtype=np.uint8).reshape(3, 4, 3)
    label = np.array([[0, 1, 2, 3], [4, 255, 255, 0], [0, 0, 0, 0]], np.uint8)
    read = read_pair(written(tmp_path, "a", image, label), CLASSES)
    assert np.array_equal(read[0], image)
    assert np.array_equal(read[1], label)


def test_different_sizes_are_an_error_with_both_files_and_sizes(tmp_path: Path) -> None:
    sample = written(tmp_path, "a", np.zeros((3, 4, 3), np.uint8), np.zeros((4, 3), np.uint8))
    with pytest.raises(DrnError, match="3x4") as caught:
        read_pair(sample, CLASSES)
    assert f"{sample.label}: is 3x4" in str(caught.value)
    assert f"{sample.image} is 4x3" in str(caught.value)


def test_label_outside_the_classes_is_an_error_with_file_value_and_count(tmp_path: Path) -> None:
    label = np.array([[0, 33, 33], [4, 7, 255]], np.uint8)
    sample = written(tmp_path, "a", np.zeros((2, 3, 3), np.uint8), label)
    with pytest.raises(DrnError) as caught:
        read_pair(sample, CLASSES)
    assert caught.value.message.startswith(f"{sample.label}: 2 pixels have the label 33;")
    assert "0 to 4" in caught.value.message
    assert "data.classes" in str(caught.value.hint)


def test_first_label_beyond_the_classes_is_an_error(tmp_path: Path) -> None:
    label = np.full((2, 3), CLASSES, np.uint8)
    sample = written(tmp_path, "a", np.zeros((2, 3, 3), np.uint8), label)
    with pytest.raises(DrnError, match="6 pixels have the label 5"):
        read_pair(sample, CLASSES)
    read_pair(sample, CLASSES + 1)


@pytest.mark.parametrize("classes", [1, 19, 253, 254, 255])
def test_every_value_is_a_class_or_ignored_or_an_error(classes: int) -> None:
    for value in range(256):
        label = np.zeros((4, 5), np.uint8)
        label[3, 4] = value
        if value < classes or value == 255:
            check_labels(label, classes, Path("a.png"))
        else:
            with pytest.raises(DrnError, match=f"a.png: 1 pixels have the label {value};"):
                check_labels(label, classes, Path("a.png"))


def test_only_the_view_of_a_label_is_checked() -> None:
    label = np.full((6, 6), 200, np.uint8)
    label[2:4, 2:4] = 0
    check_labels(label[2:4, 2:4], 1, None)

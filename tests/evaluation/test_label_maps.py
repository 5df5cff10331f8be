"""Detecting the ids of label maps; reading images and maps at one size."""

import re
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from drn_cli.data.classes import camvid, cityscapes
from drn_cli.data.folders import Sample
from drn_cli.data.images import colored_png
from drn_cli.errors import DrnError
from drn_cli.evaluation.label_maps import (
    SAMPLED,
    MapReader,
    PairReader,
    Size,
    detect_ids,
    read_map,
    resize_map,
)

CITYSCAPES = len(cityscapes())


def save(path: Path, values: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(values, np.uint8)).save(path)
    return path


def saved(folder: Path, maps: Iterable[list[int]], ending: str = "") -> list[Path]:
    return [save(folder / f"{n:03}{ending}.png", [values]) for n, values in enumerate(maps)]


@pytest.mark.parametrize(
    ("ending", "ids"),
    [
        ("_gtFine_labelIds", "label-ids"),
        ("_gtFine_trainIds", "train-ids"),
        ("_gtFine_labelTrainIds", "train-ids"),
        ("_LABELIDS", "label-ids"),
    ],
)
def test_cityscapes_file_names_decide_the_ids(tmp_path: Path, ending: str, ids: str) -> None:
    other_values = [7, 255] if ids == "label-ids" else [7, 33]
    assert detect_ids(saved(tmp_path, [other_values] * 2, ending), CITYSCAPES) == ids


@pytest.mark.parametrize(
    ("maps", "ids"),
    [
        ([[0, 18, 255]], "train-ids"),
        ([[0, 7, 33]], "label-ids"),
        ([[0, 7, 19]], "label-ids"),
        ([[7, 255], [26, 7]], "label-ids"),
        ([[7, 8, 11], [8, 18]], "train-ids"),
        ([[34, 200]], "train-ids"),  # neither; reading them is an error
    ],
)
def test_values_decide_the_ids_otherwise(tmp_path: Path, maps: list[list[int]], ids: str) -> None:
    assert detect_ids(saved(tmp_path, maps), CITYSCAPES) == ids


def test_mixed_file_names_do_not_decide(tmp_path: Path) -> None:
    paths = [
        save(tmp_path / "a_trainIds.png", [[0, 255]]),
        save(tmp_path / "b_labelIds.png", [[7, 8]]),
    ]
    assert detect_ids(paths, CITYSCAPES) == "train-ids"
    save(paths[1], [[7, 26]])
    assert detect_ids(paths, CITYSCAPES) == "label-ids"


def test_all_maps_are_read_if_the_sample_is_ambiguous(tmp_path: Path) -> None:
    maps = [[7, 8, 11]] * (3 * SAMPLED)
    paths = saved(tmp_path, [*maps[:1], [7, 26], *maps])
    assert detect_ids(paths, CITYSCAPES) == "label-ids"


def test_only_a_sample_is_read_if_it_decides(tmp_path: Path) -> None:
    paths = saved(tmp_path, [[0, 5, 255]] * (3 * SAMPLED))
    paths[1].write_bytes(b"not in the sample")
    assert detect_ids(paths, CITYSCAPES) == "train-ids"


@pytest.mark.parametrize("classes", [2, 11, 18, 20, 34])
def test_other_numbers_of_classes_are_class_ids(tmp_path: Path, classes: int) -> None:
    assert detect_ids(saved(tmp_path, [[7, 26]], "_labelIds"), classes) == "class-ids"


def test_label_ids_are_read_as_train_ids(tmp_path: Path) -> None:
    path = save(tmp_path / "a.png", [[*range(34), 255]])
    found = read_map(path, "label-ids", CITYSCAPES)
    assert found.dtype == np.uint8
    expected = np.full((1, 35), 255)
    counted = [7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33]
    expected[0, counted] = range(19)
    assert np.array_equal(found, expected)


@pytest.mark.parametrize("ids", ["train-ids", "class-ids"])
def test_train_ids_and_class_ids_are_read_unchanged(tmp_path: Path, ids: str) -> None:
    path = save(tmp_path / "a.png", [[*range(19), 255]])
    assert read_map(path, ids, 19).tolist() == [[*range(19), 255]]


def test_palette_is_ignored(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(colored_png(np.array([[0, 10, 255]], np.uint8), camvid()))
    assert read_map(tmp_path / "a.png", "class-ids", 11).tolist() == [[0, 10, 255]]


@pytest.mark.parametrize(
    ("ids", "classes", "value"),
    [("label-ids", 19, 77), ("label-ids", 19, 34), ("train-ids", 19, 19), ("class-ids", 11, 11)],
)
def test_value_out_of_range_is_an_error_with_the_file(
    tmp_path: Path, ids: str, classes: int, value: int
) -> None:
    path = save(tmp_path / "odd.png", [[0, 1], [value, 255]])
    with pytest.raises(DrnError, match=f"1 pixels have the label {value}") as caught:
        read_map(path, ids, classes)
    assert caught.value.message.startswith(f"{path}: ")


def noise(height: int, width: int, classes: int = 3) -> np.ndarray:
    random = np.random.default_rng(height * 1000 + width)
    return random.choice([*range(classes), 255], (height, width)).astype(np.uint8)


def by_pillow(
    values: np.ndarray, size: tuple[int, int], resampling: Image.Resampling
) -> np.ndarray:
    return np.asarray(Image.fromarray(values).resize(size, resampling))


@pytest.mark.parametrize(
    "size", [(64, 48), (32, 24), (128, 96), (51, 37), (97, 131), (1, 1), (640, 5)]
)
def test_resize_map_equals_pillow(size: tuple[int, int]) -> None:
    values = noise(48, 64, 200)
    found = resize_map(values, size[1], size[0])
    assert found.dtype == np.uint8
    assert np.array_equal(found, by_pillow(values, size, Image.Resampling.NEAREST))


IMAGE, LABEL, OTHER = (40, 30), (64, 48), (23, 57)  # width and height


@pytest.fixture
def pair(tmp_path: Path) -> Sample:
    """An image and a label map of different sizes; smooth, so that resampling methods differ."""
    y, x = np.mgrid[0:30, 0:40]
    image = np.stack([6 * x, 8 * y, 120 + 100 * np.sin(x * y / 40)], 2)
    save(tmp_path / "label.png", noise(48, 64))
    return Sample(save(tmp_path / "image.png", image), tmp_path / "label.png")


@pytest.mark.parametrize(
    ("size", "expected"), [("label", LABEL), ("none", IMAGE), (OTHER, OTHER), (IMAGE, IMAGE)]
)
def test_image_and_label_are_resized_to_one_size(
    pair: Sample, size: Size, expected: tuple[int, int]
) -> None:
    image, label = PairReader(3, "class-ids", size)(pair)
    assert image.dtype == label.dtype == np.uint8
    assert (image.shape, label.shape) == ((*expected[::-1], 3), expected[::-1])
    whole, values = (np.asarray(Image.open(path)) for path in (pair.image, pair.label))
    bicubic = by_pillow(whole, expected, Image.Resampling.BICUBIC).astype(int)
    assert np.abs(image - bicubic).max() <= (0 if expected == IMAGE else 1)
    assert np.array_equal(label, by_pillow(values, expected, Image.Resampling.NEAREST))
    if expected != IMAGE:
        bilinear = by_pillow(whole, expected, Image.Resampling.BILINEAR)
        assert np.abs(image - bilinear.astype(int)).max() > 1


def test_images_are_resized_to_their_label_maps_by_default(pair: Sample) -> None:
    image, label = PairReader(3, "class-ids")(pair)
    assert image.shape[:2] == label.shape == LABEL[::-1]


def test_label_ids_of_a_pair_are_mapped(tmp_path: Path) -> None:
    label = save(tmp_path / "label.png", [[7, 33, 0]])
    image = save(tmp_path / "image.png", np.zeros((1, 3, 3)))
    assert PairReader(19, "label-ids")(Sample(image, label))[1].tolist() == [[0, 18, 255]]
    with pytest.raises(DrnError, match=r"label\.png: 1 pixels have the label 33"):
        PairReader(19, "train-ids")(Sample(image, label))


def test_predictions_and_labels_may_hold_different_ids(tmp_path: Path) -> None:
    sample = Sample(
        save(tmp_path / "prediction.png", [[0, 18, 255, 2]]),
        save(tmp_path / "label.png", [[7, 33, 9, 11]]),
    )
    prediction, label = MapReader(19, "label-ids", "train-ids")(sample)
    assert prediction.tolist() == label.tolist() == [[0, 18, 255, 2]]
    swapped = Sample(sample.label, sample.image)
    prediction, label = MapReader(19, "train-ids", "label-ids")(swapped)
    assert prediction.tolist() == label.tolist() == [[0, 18, 255, 2]]


@pytest.fixture
def maps(tmp_path: Path) -> Sample:
    return Sample(
        save(tmp_path / "prediction.png", noise(30, 40)),
        save(tmp_path / "label.png", noise(48, 64)),
    )


def test_prediction_of_another_size_is_an_error_with_a_hint(maps: Sample) -> None:
    message = f"{maps.image}: is 40x30, its label map {maps.label} is 64x48"
    with pytest.raises(DrnError, match=re.escape(message)) as caught:
        MapReader(3, "class-ids", "class-ids")(maps)
    assert "--resize-to label" in str(caught.value.hint)


@pytest.mark.parametrize(("size", "expected"), [("label", LABEL), ("none", IMAGE), (OTHER, OTHER)])
def test_prediction_and_label_are_resized_to_one_size(
    maps: Sample, size: Size, expected: tuple[int, int]
) -> None:
    found = MapReader(3, "class-ids", "class-ids", size)(maps)
    for values, path in zip(found, (maps.image, maps.label), strict=True):
        whole = np.asarray(Image.open(path))
        assert np.array_equal(values, by_pillow(whole, expected, Image.Resampling.NEAREST))

"""Contact sheets of list folders."""

import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from drn_cli.data.augment import Augmentation
from drn_cli.data.batches import TrainDataset
from drn_cli.data.classes import generic
from drn_cli.data.folders import ListDataset
from drn_cli.data.images import read_image, read_label
from drn_cli.data.order import SampleKey
from drn_cli.data.showing.contact_sheet import label_thumbnail, thumbnail
from drn_cli.data.showing.label_paint import colorize, outline, overlay
from drn_cli.data.showing.pairs import default_augmentation, list_folder_sheet
from drn_cli.data.showing.samples import SampleSelection
from drn_cli.errors import DrnError

AUGMENTATION = Augmentation(40, scale=1.4, rotate=10)


def is_on(sheet: np.ndarray, tile: np.ndarray) -> bool:
    """Whether a cell is on the sheet: compare its first pixels, then the rest."""
    height, width = tile.shape[:2]
    starts = np.lib.stride_tricks.sliding_window_view(sheet, (16, 3), axis=(1, 2))[:, :, 0]
    found = np.argwhere((starts == tile[0, :16]).all(axis=(-1, -2)))
    return any(
        (sheet[top : top + height, left : left + width] == tile).all() for top, left in found
    )


def test_training_samples_show_the_crops_of_training(data_folder: Path) -> None:
    folder = ListDataset.open(data_folder)
    sheet = list_folder_sheet(folder, "train", SampleSelection(2, seed=3, epoch=5), AUGMENTATION)
    assert sheet.images == 12
    assert sheet.classes == ("red", "green", "blue")
    assert sheet.settings == asdict(AUGMENTATION)
    assert [facts["sample"] for facts in sheet.samples] == [0, 11]
    samples, classes = folder.samples("train"), folder.class_set(3)
    training = TrainDataset(samples, 3, AUGMENTATION, seed=3)
    for facts in sheet.samples:
        sample = samples[facts["sample"]]
        image, label = read_image(sample.image), read_label(sample.label)
        assert is_on(sheet.pixels, thumbnail(image))
        assert is_on(sheet.pixels, colorize(label_thumbnail(label), classes))
        assert is_on(sheet.pixels, overlay(thumbnail(image), label_thumbnail(label), classes))
        assert [crop["epoch"] for crop in facts["crops"]] == [5, 6, 7]
        for epoch in (5, 6, 7):
            crop, crop_label = training[SampleKey(epoch, facts["sample"])]
            tile = outline(thumbnail(crop), label_thumbnail(crop_label), classes)
            assert is_on(sheet.pixels, tile)
        other, other_label = training[SampleKey(8, facts["sample"])]
        assert not is_on(
            sheet.pixels, outline(thumbnail(other), label_thumbnail(other_label), classes)
        )


def test_facts_describe_sample_and_augmentation(data_folder: Path) -> None:
    folder = ListDataset.open(data_folder)
    sheet = list_folder_sheet(folder, "train", SampleSelection(1, seed=3), AUGMENTATION)
    (facts,) = sheet.samples
    label = read_label(data_folder / "labels" / "0.png")
    assert facts["image"] == str(data_folder / "images" / "0.png")
    assert facts["label"] == str(data_folder / "labels" / "0.png")
    assert (facts["width"], facts["height"]) == (64, 48)
    assert facts["ignored"] == pytest.approx((label == 255).mean())
    assert facts["class_names"] == [
        ("red", "green", "blue")[n] for n in np.unique(label[label < 255])
    ]
    expected = [{"epoch": n, **asdict(AUGMENTATION.draw(3, n, 0))} for n in range(3)]
    assert facts["crops"] == expected
    json.dumps(facts)


def test_samples_are_evenly_spaced(data_folder: Path) -> None:
    folder = ListDataset.open(data_folder)

    def numbers(count: int) -> list[int]:
        sheet = list_folder_sheet(folder, "val", SampleSelection(count))
        return [facts["sample"] for facts in sheet.samples]

    assert numbers(1) == [0]
    assert numbers(2) == [0, 4]
    assert numbers(3) == [0, 2, 4]
    assert numbers(5) == numbers(99) == [0, 1, 2, 3, 4]


def test_other_splits_are_not_augmented(data_folder: Path) -> None:
    sheet = list_folder_sheet(
        ListDataset.open(data_folder), "val", SampleSelection(2), AUGMENTATION
    )
    assert sheet.settings is None
    assert all("crops" not in facts for facts in sheet.samples)
    assert all(facts["label"] for facts in sheet.samples)


def test_split_without_labels_shows_images(own_data_folder: Path) -> None:
    (own_data_folder / "val_labels.txt").unlink()
    (own_data_folder / "val_images.txt").rename(own_data_folder / "test_images.txt")
    sheet = list_folder_sheet(ListDataset.open(own_data_folder), "test", SampleSelection(2))
    assert (sheet.images, sheet.classes, sheet.settings) == (5, (), None)
    assert all(facts["label"] is None for facts in sheet.samples)
    assert is_on(sheet.pixels, thumbnail(read_image(own_data_folder / "images" / "104.png")))


def test_default_augmentation_depends_on_image_size(data_folder: Path) -> None:
    sheet = list_folder_sheet(ListDataset.open(data_folder), "train", SampleSelection(1))
    assert sheet.settings == asdict(default_augmentation(48, 64))
    assert default_augmentation(48, 64) == default_augmentation(64, 48)
    assert default_augmentation(48, 64).crop == 32  # 36, down to a multiple of 8
    assert default_augmentation(1024, 2048).crop == 768
    assert default_augmentation(3, 900).crop == 8


def test_progress_is_reported(data_folder: Path) -> None:
    calls: list[tuple[int, int]] = []
    folder = ListDataset.open(data_folder)
    list_folder_sheet(
        folder, "val", SampleSelection(3), progress=lambda done, total: calls.append((done, total))
    )
    assert calls == [(1, 3), (2, 3), (3, 3)]


def test_classes_are_counted_in_labels_without_info(own_data_folder: Path) -> None:
    (own_data_folder / "info.json").unlink()
    folder = ListDataset.open(own_data_folder)
    sheet = list_folder_sheet(folder, "train", SampleSelection(12))
    assert sheet.classes == ("class 0", "class 1", "class 2")
    assert len(list_folder_sheet(folder, "train", SampleSelection(12), classes=5).classes) == 5


def test_split_with_void_only(own_data_folder: Path) -> None:
    (own_data_folder / "info.json").unlink()
    for path in (own_data_folder / "labels").iterdir():
        Image.fromarray(np.full((48, 64), 255, np.uint8)).save(path)
    sheet = list_folder_sheet(ListDataset.open(own_data_folder), "train", SampleSelection(1))
    assert sheet.samples[0]["class_names"] == []
    assert sheet.samples[0]["ignored"] == 1


def test_legend_of_many_classes_is_limited_to_those_shown(own_data_folder: Path) -> None:
    (own_data_folder / "info.json").unlink()
    folder = ListDataset.open(own_data_folder)
    few, many = (list_folder_sheet(folder, "val", SampleSelection(5), classes=n) for n in (40, 41))
    assert few.pixels.shape[0] > many.pixels.shape[0]
    assert len(many.classes) == 41
    bottom = many.pixels[-30:]
    in_legend = [(bottom == colour).all(axis=-1).any() for colour in generic(41).colours]
    assert in_legend == [True] * 3 + [False] * 38


@pytest.mark.parametrize("classes", [2, 4])
def test_wrong_number_of_classes(data_folder: Path, classes: int) -> None:
    with pytest.raises(DrnError, match="has 3 classes"):
        list_folder_sheet(
            ListDataset.open(data_folder), "train", SampleSelection(1), classes=classes
        )


def test_invalid_label(own_data_folder: Path) -> None:
    Image.fromarray(np.full((48, 64), 9, np.uint8)).save(own_data_folder / "labels" / "0.png")
    with pytest.raises(DrnError, match=r"0\.png: 3072 pixels have the label 9"):
        list_folder_sheet(ListDataset.open(own_data_folder), "train", SampleSelection(1))

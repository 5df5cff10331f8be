"""Contact sheets of class folders."""

import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from drn_cli.data.class_folders import FolderDataset
from drn_cli.data.classification import ClassificationSet, ClassificationTestSet
from drn_cli.data.images import read_image
from drn_cli.data.order import SampleKey
from drn_cli.data.resized_crop import ResizedCrop
from drn_cli.data.showing.classes import class_folder_sheet
from drn_cli.data.showing.contact_sheet import thumbnail
from drn_cli.data.showing.samples import SampleSelection
from drn_cli.errors import DrnError

CROP = ResizedCrop(28)


@pytest.fixture
def folder(tmp_path: Path) -> FolderDataset:
    random = np.random.default_rng(0)
    for name in ("train/wren/1.png", "train/wren/2.png", "train/robin/3.png", "val/wren/4.png"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(random.integers(0, 256, (40, 60, 3)).astype(np.uint8)).save(path)
    return FolderDataset.open(tmp_path)


def is_on(sheet: np.ndarray, tile: np.ndarray) -> bool:
    """Whether a cell is on the sheet: compare its first pixels, then the rest."""
    height, width = tile.shape[:2]
    starts = np.lib.stride_tricks.sliding_window_view(sheet, (16, 3), axis=(1, 2))[:, :, 0]
    found = np.argwhere((starts == tile[0, :16]).all(axis=(-1, -2)))
    return any(
        (sheet[top : top + height, left : left + width] == tile).all() for top, left in found
    )


def test_training_samples_show_the_crops_of_training(folder: FolderDataset) -> None:
    sheet = class_folder_sheet(folder, "train", SampleSelection(2, seed=3, epoch=5), CROP)
    assert sheet.images == 3
    assert sheet.classes == ("robin", "wren")
    assert sheet.settings == asdict(CROP)
    samples = folder.samples("train")
    training = ClassificationSet(samples, CROP, seed=3)
    for facts, number in zip(sheet.samples, (0, 2), strict=True):
        sample = samples[number]
        assert facts["sample"] == number
        assert facts["image"] == str(sample.image)
        assert facts["class"] == folder.names[sample.target]
        assert (facts["width"], facts["height"]) == (60, 40)
        expected = [{"epoch": n, **asdict(CROP.draw(3, n, number, 40, 60))} for n in (5, 6, 7)]
        assert facts["crops"] == expected
        json.dumps(facts)
        assert is_on(sheet.pixels, thumbnail(read_image(sample.image)))
        for epoch in (5, 6, 7):
            assert is_on(sheet.pixels, thumbnail(training[SampleKey(epoch, number)][0]))
        assert not is_on(sheet.pixels, thumbnail(training[SampleKey(8, number)][0]))


def test_validation_samples_show_the_evaluation_crop(folder: FolderDataset) -> None:
    sheet = class_folder_sheet(folder, "val", SampleSelection(), CROP)
    assert sheet.settings is None
    assert [facts["class"] for facts in sheet.samples] == ["wren"]
    # 32 to 28 as 256 to 224.
    tested = ClassificationTestSet(folder.samples("val"), "1-crop", size=28, resize=32)
    assert is_on(sheet.pixels, thumbnail(tested[0][0]))


def test_error_names_the_broken_image(folder: FolderDataset) -> None:
    (folder.root / "val" / "wren" / "4.png").write_bytes(b"no image")
    with pytest.raises(DrnError, match=r"4\.png: not an image"):
        class_folder_sheet(folder, "val", SampleSelection(), CROP)

import json
from pathlib import Path

import pytest

from drn_cli.data.class_folders import ClassSample, FolderDataset, is_class_folder
from drn_cli.data.folders import IMAGENET, ChannelStats
from drn_cli.errors import DrnError


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two classes; the images are empty files, which are never opened."""
    folder = tmp_path / "birds"
    for name in (
        "train/n02/b.JPEG",
        "train/n02/a.jpg",
        "train/n01/z.png",
        "train/n01/notes.txt",
        "train/n01/._z.png",
        "train/.cache/x.png",
        "train/readme.txt",
        "val/n02/v.JPEG",
    ):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


def describe(root: Path, **info: object) -> Path:
    (root / "info.json").write_text(json.dumps(info))
    return root


def test_classes_are_the_sorted_folders(root: Path) -> None:
    folder = FolderDataset.open(str(root))
    assert folder.folders == folder.names == ("n01", "n02")
    assert folder.samples("train") == [
        ClassSample(root / "train/n01/z.png", 0),
        ClassSample(root / "train/n02/a.jpg", 1),
        ClassSample(root / "train/n02/b.JPEG", 1),
    ]


def test_class_without_images_keeps_its_id(root: Path) -> None:
    assert FolderDataset.open(root).samples("val") == [ClassSample(root / "val/n02/v.JPEG", 1)]


def test_validation_split_alone_defines_classes(root: Path) -> None:
    (root / "train").rename(root / "elsewhere")
    assert FolderDataset.open(root).folders == ("n02",)


def test_info_defines_order_and_names(root: Path) -> None:
    describe(root, folders=["n02", "n01", "n00"], classes=["robin", "wren", "owl"])
    folder = FolderDataset.open(root)
    assert folder.folders == ("n02", "n01", "n00")
    assert folder.names == ("robin", "wren", "owl")
    assert [sample.target for sample in folder.samples("train")] == [0, 0, 1]


def test_info_may_list_classes_without_folders(root: Path) -> None:
    folder = FolderDataset.open(describe(root, classes=["wren", "robin"]))
    assert (folder.folders, folder.names) == (("n01", "n02"), ("wren", "robin"))


@pytest.mark.parametrize(
    ("info", "message"),
    [
        ({"classes": ["wren"]}, "has 1 classes and 2 folders"),
        ({"folders": ["n01"]}, "does not list the class folder n02"),
        ({"folders": ["n01", "n02", "n01"]}, "lists the folder n01 twice"),
        ({"folders": "n01"}, "folders has to be a list of names"),
        ({"folders": 2}, "folders has to be a list of names"),
        ({"classes": ["wren", 7]}, "classes has to be a list of names"),
        ({"classes": None}, "classes has to be a list of names"),
    ],
)
def test_info_that_does_not_match_the_folders(
    root: Path, info: dict[str, object], message: str
) -> None:
    with pytest.raises(DrnError, match=message) as caught:
        FolderDataset.open(describe(root, **info))
    assert str(root / "info.json") in caught.value.message


def test_info_that_is_not_an_object(root: Path) -> None:
    (root / "info.json").write_text("[]")
    with pytest.raises(DrnError, match="has to be a JSON object"):
        FolderDataset.open(root)


def test_statistics_default_to_imagenet(root: Path) -> None:
    folder = FolderDataset.open(root)
    assert folder.statistics() == IMAGENET
    describe(root, mean=[0.1, 0.2, 0.3], std=[0.4, 0.5, 0.6])
    assert folder.statistics() == ChannelStats((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
    describe(root, mean=[0.1, 0.2, 0.3])
    with pytest.raises(DrnError, match="std has to be three numbers"):
        folder.statistics()


def test_missing_folder_or_no_classes(root: Path, tmp_path: Path) -> None:
    with pytest.raises(DrnError, match="no such data folder"):
        FolderDataset.open(tmp_path / "nowhere")
    with pytest.raises(DrnError, match="contains no folders train/CLASS"):
        FolderDataset.open(root / "val" / "n02")


def test_missing_empty_or_unknown_split(root: Path) -> None:
    folder = FolderDataset.open(root)
    (root / "val/n02/v.JPEG").unlink()
    with pytest.raises(DrnError, match="val: contains no images in class folders"):
        folder.samples("val")
    (root / "val/n99").mkdir()
    with pytest.raises(DrnError, match=r"val/n99: is not a class of"):
        folder.samples("val")
    (root / "val/n99").rmdir()
    (root / "val/n02").rmdir()
    (root / "val").rmdir()
    with pytest.raises(DrnError, match="val: contains no images in class folders"):
        folder.samples("val")


def test_unreadable_folder(tmp_path: Path) -> None:
    with pytest.raises(DrnError, match="cannot be read: File name too long"):
        is_class_folder(tmp_path / ("x" * 300))


def test_recognizes_class_folders(root: Path, data_folder: Path, tmp_path: Path) -> None:
    assert is_class_folder(root)
    assert is_class_folder(str(root))
    assert not is_class_folder(data_folder)
    assert not is_class_folder(tmp_path / "nowhere")
    assert not is_class_folder(root / "train")
    # As in Cityscapes: a folder for each city below the split, but lists beside it.
    (root / "val_images.txt").write_text("val/n02/v.JPEG\n")
    assert not is_class_folder(root)


def test_folder_with_lists_is_not_a_class_folder(tmp_path: Path) -> None:
    (tmp_path / "train").mkdir()
    (tmp_path / "train" / "a.png").touch()
    assert not is_class_folder(tmp_path)

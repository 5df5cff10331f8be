import json
from pathlib import Path

import pytest

from drn_cli.data.classes import ClassSet, cityscapes, generic
from drn_cli.data.folders import ChannelStats, ListDataset, Sample
from drn_cli.errors import DrnError

INFO = {"mean": [0.29, 0.33, 0.287], "std": [0.18, 0.187, 0.184]}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Make a data folder in the layout of the original code."""
    folder = tmp_path / "cityscapes"
    for split, count in {"train": 3, "val": 2, "test": 1}.items():
        images = [f"leftImg8bit/{split}/a b/{n}.png" for n in range(count)]
        labels = [f"gtFine/{split}/a b/{n}_trainIds.png" for n in range(count)]
        for name in images + labels:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).touch()
        (folder / f"{split}_images.txt").write_text("".join(f"{name}\n" for name in images))
        if split != "test":
            (folder / f"{split}_labels.txt").write_text("\n".join(labels))
    (folder / "info.json").write_text(json.dumps(INFO))
    return folder


def test_reads_folder_of_the_original_code(root: Path) -> None:
    folder = ListDataset.open(root)
    assert folder.samples("train") == [
        Sample(root / f"leftImg8bit/train/a b/{n}.png", root / f"gtFine/train/a b/{n}_trainIds.png")
        for n in range(3)
    ]
    assert len(folder.samples("val")) == 2
    assert folder.samples("test", labels=False) == [
        Sample(root / "leftImg8bit/test/a b/0.png", None)
    ]
    assert folder.statistics() == ChannelStats((0.29, 0.33, 0.287), (0.18, 0.187, 0.184))
    assert folder.class_set(19) == cityscapes()


def test_samples_without_labels(root: Path) -> None:
    assert all(s.label is None for s in ListDataset.open(root).samples("val", labels=False))


def test_prediction_needs_only_test_images(root: Path) -> None:
    for path in root.glob("*_labels.txt"):
        path.unlink()
    for split in ("train", "val"):
        (root / f"{split}_images.txt").unlink()
    folder = ListDataset.open(str(root))
    assert len(folder.samples("test", labels=False)) == 1
    with pytest.raises(DrnError, match="no such list") as caught:
        folder.samples("test")
    assert str(root / "test_labels.txt") in str(caught.value)


def test_lists_in_a_separate_folder(root: Path, tmp_path: Path) -> None:
    lists = tmp_path / "lists"
    lists.mkdir()
    (lists / "val_images.txt").write_text("leftImg8bit/val/a b/1.png\n")
    (lists / "val_labels.txt").write_text("gtFine/val/a b/1_trainIds.png\n")
    (lists / "info.json").write_text('{"mean": [0, 0, 0], "std": [1, 1, 1]}')
    folder = ListDataset.open(root, lists)
    assert folder.samples("val") == [
        Sample(root / "leftImg8bit/val/a b/1.png", root / "gtFine/val/a b/1_trainIds.png")
    ]
    assert folder.statistics() == ChannelStats((0, 0, 0), (1, 1, 1))


def test_blank_lines_spaces_and_windows_line_ends_do_not_matter(root: Path) -> None:
    expected = ListDataset.open(root).samples("val")
    for name in ("val_images.txt", "val_labels.txt"):
        lines = (root / name).read_text().splitlines()
        (root / name).write_bytes("\r\n".join(["", *(f" {x}" for x in lines), "  ", ""]).encode())
    assert ListDataset.open(root).samples("val") == expected


@pytest.mark.parametrize("which", ["root", "lists"])
def test_missing_folder_is_an_error_with_its_path(root: Path, which: str) -> None:
    absent = root / "absent"
    with pytest.raises(DrnError, match="no such data folder") as caught:
        ListDataset.open(absent) if which == "root" else ListDataset.open(root, absent)
    assert str(absent) in caught.value.message
    assert caught.value.hint is not None


@pytest.mark.parametrize("text", ["", "\n\r\n  \n"])
def test_empty_list_is_an_error(root: Path, text: str) -> None:
    (root / "val_images.txt").write_text(text)
    with pytest.raises(DrnError, match="list is empty") as caught:
        ListDataset.open(root).samples("val")
    assert str(root / "val_images.txt") in str(caught.value)


def test_list_that_is_not_text_is_an_error(root: Path) -> None:
    (root / "val_images.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DrnError, match="not UTF-8 text") as caught:
        ListDataset.open(root).samples("val")
    assert str(root / "val_images.txt") in str(caught.value)


def test_lists_of_different_length_are_an_error(root: Path) -> None:
    (root / "train_labels.txt").write_text("gtFine/train/a b/0_trainIds.png\n")
    with pytest.raises(
        DrnError, match=r"train_images.txt lists 3 files, train_labels.txt 1"
    ) as caught:
        ListDataset.open(root).samples("train")
    assert str(root) in str(caught.value)


def test_missing_file_is_named_with_list_and_line(root: Path) -> None:
    path = root / "train_labels.txt"
    path.write_text("\n" + path.read_text())
    (root / "gtFine/train/a b/1_trainIds.png").unlink()
    with pytest.raises(DrnError, match=r"1_trainIds\.png does not exist") as caught:
        ListDataset.open(root).samples("train")
    assert str(caught.value).startswith(f"{path}:3: ")
    assert "more" not in str(caught.value)
    (root / "gtFine/train/a b/2_trainIds.png").unlink()
    with pytest.raises(DrnError, match=r"1_trainIds.png does not exist \(and 1 more\)"):
        ListDataset.open(root).samples("train")


def test_missing_statistics_have_a_hint(root: Path) -> None:
    (root / "info.json").unlink()
    folder = ListDataset.open(root)
    with pytest.raises(DrnError, match="no such file") as caught:
        folder.statistics()
    assert str(root / "info.json") in caught.value.message
    assert '"mean"' in str(caught.value.hint)
    assert folder.class_set(5) == generic(5)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"mean": [0.1,\n', "info.json:2: not valid JSON"),
        ("[1, 2]", "has to be a JSON object"),
        ('{"std": [1, 1, 1]}', "mean has to be three numbers in 0..1, got None"),
        ('{"mean": [0.5, 0.5], "std": [1, 1, 1]}', "mean has to be three numbers"),
        ('{"mean": [0.5, 0.5, 0.5], "std": ["a", 1, 1]}', "std has to be three numbers"),
        ('{"mean": [0.5, 0.5, 0.5], "std": 0.2}', "std has to be three numbers"),
        ('{"mean": [123.7, 116.3, 103.5], "std": [1, 1, 1]}', "mean has to be three numbers in"),
        (
            '{"mean": [0.5, 0.5, 0.5], "std": [0.2, 1e-9, 0.2]}',
            "info.json: std has to be three numbers in 1e-06",
        ),
    ],
    ids=["broken", "list", "missing", "two", "text", "scalar", "bytes", "zero"],
)
def test_wrong_info_is_an_error_with_the_file(root: Path, text: str, message: str) -> None:
    (root / "info.json").write_text(text)
    with pytest.raises(DrnError, match=message) as caught:
        ListDataset.open(root).statistics()
    assert str(root / "info.json") in str(caught.value)


def test_reads_class_names_and_colors_from_info(root: Path) -> None:
    extra = {"classes": ["cat", "dog"], "colours": [[1, 2, 3], [4, 5, 6]]}
    (root / "info.json").write_text(json.dumps(INFO | extra))
    classes = ListDataset.open(root).class_set(2)
    assert classes.names == ("cat", "dog")
    assert classes.colours == ((1, 2, 3), (4, 5, 6))


def test_class_names_without_colors_are_not_used(root: Path) -> None:
    (root / "info.json").write_text(json.dumps(INFO | {"classes": 3}))
    assert ListDataset.open(root).class_set(3) == generic(3)


def test_named_classes_need_names_and_colors(root: Path) -> None:
    folder = ListDataset.open(root)
    for extra in ({}, {"classes": ["cat"]}, {"colours": [[1, 2, 3]]}):
        (root / "info.json").write_text(json.dumps(INFO | extra))
        assert folder.named_classes() is None
    (root / "info.json").write_text('{"classes": ["cat"], "colours": [[1, 2, 3]]}')
    assert folder.named_classes() == ClassSet(("cat",), ((1, 2, 3),))
    (root / "info.json").unlink()
    assert folder.named_classes() is None


def test_wrong_number_of_colors_is_an_error(root: Path) -> None:
    extra = {"classes": ["cat", "dog"], "colours": [[1, 2, 3]] * 3}
    (root / "info.json").write_text(json.dumps(INFO | extra))
    with pytest.raises(DrnError, match="has 2 classes and 3 colours") as caught:
        ListDataset.open(root).named_classes()
    assert str(root / "info.json") in caught.value.message


def test_wrong_number_of_classes_is_an_error(root: Path) -> None:
    extra = {"classes": ["cat", "dog"], "colours": [[1, 2, 3]] * 2}
    (root / "info.json").write_text(json.dumps(INFO | extra))
    with pytest.raises(DrnError, match="has 2 classes, the network 3") as caught:
        ListDataset.open(root).class_set(3)
    assert str(root / "info.json") in caught.value.message
    assert "data.classes=2" in str(caught.value.hint)


@pytest.mark.parametrize(
    "colours",
    [{}, "red", [1, 2], [[1, 2], [3, 4]], [[1, 2, "x"], [1, 2, 3]], [[0, 0, 256], [1, 2, 3]]],
)
def test_invalid_colors_are_an_error(root: Path, colours: list[object]) -> None:
    extra = {"classes": ["cat", "dog"], "colours": colours}
    (root / "info.json").write_text(json.dumps(INFO | extra))
    with pytest.raises(DrnError, match="colours") as caught:
        ListDataset.open(root).class_set(2)
    assert str(root / "info.json") in str(caught.value)

"""Search of Cityscapes by file names; all files are empty."""

import shutil
import zipfile
from pathlib import Path

import pytest

from drn_cli.data.prepare import cityscapes_layout
from drn_cli.data.prepare.archives import Entry
from drn_cli.data.prepare.cityscapes_layout import CityscapesRoot, Frame, find_root
from drn_cli.errors import DrnError

IMAGES = {
    name: f"leftImg8bit/{name}_leftImg8bit.png"
    for name in ("train/ulm/ulm_1_2", "train/aachen/aachen_1_2", "val/lindau/l_1", "test/bonn/b_1")
}
LABELS = {name: f"gtFine/{name}_gtFine_labelIds.png" for name in IMAGES}
TRAIN_IDS = {name: f"gtFine/{name}_gtFine_trainIds.png" for name in IMAGES}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "cityscapes"
    for name in (*IMAGES.values(), *LABELS.values()):
        touch(folder / name)
    return folder


def touch(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()


def find(root: Path, zips: Path | None = None) -> CityscapesRoot:
    return find_root(root, zips, partial=True)


def fails(root: Path, message: str, zips: Path | None = None) -> str:
    """Expect an error and return its hint."""
    with pytest.raises(DrnError, match=message) as caught:
        find(root, zips)
    return str(caught.value.hint)


def write_zip(folder: Path, top: str, names: list[str]) -> Path:
    path = folder / f"{top}_trainvaltest.zip"
    folder.mkdir(exist_ok=True)
    with zipfile.ZipFile(path, "w") as archive:
        for name in names:
            archive.writestr(name, b"12345")
    return path


def test_frames_are_sorted_and_paired_with_labels(root: Path) -> None:
    copy = find(root)
    names = ("test/bonn/b_1", "train/aachen/aachen_1_2", "train/ulm/ulm_1_2", "val/lindau/l_1")
    assert [frame.image for frame in copy.frames] == [IMAGES[name] for name in names]
    assert copy.frames[0] == Frame("test", "bonn", IMAGES[names[0]], None, None)
    for frame, name in zip(copy.frames[1:], names[1:], strict=True):
        assert (frame.label, frame.label_ids) == (TRAIN_IDS[name], LABELS[name])
    cities = {"train": {"aachen": 1, "ulm": 1}, "val": {"lindau": 1}, "test": {"bonn": 1}}
    assert copy.cities() == cities
    assert (copy.left_out, copy.packed) == (0, {})


def test_follows_links_and_counts_other_files(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    before = find(root)
    train = root / "leftImg8bit" / "train"
    shutil.move(train / "ulm", root.parent / "disk2")
    (train / "ulm").symlink_to(root.parent / "disk2")
    (train / "round").symlink_to(train.parent)
    (train / "ulm" / "gone_leftImg8bit.png").symlink_to("nowhere")
    touch(train / "ulm" / "._ulm_1_2_leftImg8bit.png")
    touch(train / "ulm" / ".ipynb_checkpoints" / "ulm_1_2_leftImg8bit.png")
    touch(train / "ulm" / "ulm_1_2_rightImg8bit.png")
    for name in ("color.png", "polygons.json", "instanceIds.png", "labelTrainIds.png"):
        touch(root / "gtFine" / "test" / "bonn" / f"b_1_gtFine_{name}")
    copy = find(root)
    assert copy.frames == before.frames
    assert copy.other_files["leftImg8bit"].counts == {
        "link to a folder above (cycle)": 1,
        "broken link": 1,
        "unknown file name": 1,
    }
    assert not copy.other_files["gtFine"]
    assert "leftImg8bit: left out: link to a folder above (cycle) 1 (train/round)" in caplog.text


def test_ignores_other_files(root: Path) -> None:
    before = find(root)
    for name in (
        "leftImg8bit/train/ulm/._ulm_1_2_leftImg8bit.png",  # metadata files of macOS
        "leftImg8bit/train/ulm/ulm_1_2_rightImg8bit.png",
        "leftImg8bit/train_extra/ulm/ulm_2_2_leftImg8bit.png",
        "leftImg8bit/train/ulm_3_2_leftImg8bit.png",
        "gtFine/train/ulm/ulm_1_2_gtFine_color.png",
        "gtFine/test/bonn/b_1_gtFine_trainIds.png",
    ):
        touch(root / name)
    assert find(root) == before


def test_incomplete_copy_mentions_partial(root: Path) -> None:
    with pytest.raises(DrnError, match="Cityscapes is incomplete") as caught:
        find_root(root, None, partial=False)
    for words in ("2 train images instead of 2975", "1 val", " 500", "1 test", "1525"):
        assert words in caught.value.message
    assert "--partial" in str(caught.value.hint)


def test_incomplete_copy_lists_only_differing_splits(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cityscapes_layout, "EXPECTED", {"train": 2, "val": 1, "test": 2})
    with pytest.raises(DrnError, match=r": 1 test images instead of 2 "):
        find_root(root, None, partial=False)


def test_wrong_folder_hints(root: Path, tmp_path: Path) -> None:
    assert str(root) in fails(root / "leftImg8bit", "contains no folder leftImg8bit")
    assert str(root / "leftImg8bit") in fails(tmp_path, "contains no folder leftImg8bit")
    empty = tmp_path / "empty"
    empty.mkdir()
    assert "--zips" in fails(empty, r"no leftImg8bit_trainvaltest\.zip")
    fails(tmp_path / "absent", "absent: no such folder")
    fails(root, "absent: no such folder", tmp_path / "absent")
    (empty / "leftImg8bit" / "train").mkdir(parents=True)
    fails(empty, "contains no images")
    shutil.rmtree(root / "gtFine")
    with pytest.raises(DrnError, match="contains no folder gtFine"):
        find_root(root, None, partial=False)


def test_selects_only_needed_zip_entries(root: Path, tmp_path: Path) -> None:
    zips = tmp_path / "zips"
    images = write_zip(zips, "leftImg8bit", ["license.txt", *IMAGES.values()])
    needless = [
        LABELS["val/lindau/l_1"].replace("labelIds", kind) for kind in ("color", "trainIds")
    ]
    official = LABELS["val/lindau/l_1"].replace("labelIds", "labelTrainIds")
    labels = write_zip(zips, "gtFine", [*LABELS.values(), *needless, official])
    copy = find(tmp_path / "new", zips)
    chosen = [name for name in LABELS.values() if "/test/" not in name]
    assert copy.packed == {
        "leftImg8bit": [Entry(images, name, 5) for name in sorted(IMAGES.values())],
        "gtFine": [Entry(labels, name, 5) for name in sorted([*chosen, official])],
    }
    assert copy.frames[-1].label == official
    assert len(copy.frames) == 4
    assert find(root, zips) == find(root)  # folders that exist come first


def test_zip_with_another_layout_or_unsafe_entries(tmp_path: Path) -> None:
    new, zips = tmp_path / "new", tmp_path / "zips"
    write_zip(zips, "gtFine", list(LABELS.values()))
    name = IMAGES["val/lindau/l_1"]
    for names, message in (
        ([f"downloads/{name}"], r"expected leftImg8bit/train.* is downloads/leftImg8bit"),
        ([name, "leftImg8bit/../../l_1_leftImg8bit.png"], "points outside the folder"),
        (["readme.txt"], "it contains no images"),
    ):
        path = write_zip(zips, "leftImg8bit", names)
        with pytest.raises(DrnError, match=message) as caught:
            find(new, zips)
        assert str(path) in caught.value.message
    assert not new.exists()

import hashlib
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from drn_cli.data.classes import camvid
from drn_cli.data.folders import ListFolder
from drn_cli.data.images import read_image, read_label
from drn_cli.data.prepare.camvid import prepare_camvid
from drn_cli.errors import DrnError
from drn_cli.files import read_json

SPLITS = {"train": 3, "val": 2, "test": 1}


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Write a small CamVid; the three lists in the three ways they are found."""
    folder, random = tmp_path / "SegNet", np.random.default_rng(0)
    prefixes = {"train": "/SegNet/CamVid/", "val": "/", "test": ""}
    for split, count in SPLITS.items():
        lines = []
        for number in range(count):
            image = random.integers(0, 256, (6, 8, 3)).astype(np.uint8)
            label = random.integers(0, 12, (6, 8)).astype(np.uint8)
            for kind, pixels in {split: image, f"{split}annot": label}.items():
                path = folder / kind / f"{number}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(pixels).save(path)
            start = prefixes[split]
            lines.append(f"{start}{split}/{number}.png {start}{split}annot/{number}.png")
        end = "\n" if split == "train" else ""
        (folder / f"{split}.txt").write_text("\n".join(lines) + end)
    return folder


def state(folder: Path) -> dict[str, tuple[int, str]]:
    return {
        str(path.relative_to(folder)): (
            path.stat().st_mtime_ns,
            hashlib.sha256(path.read_bytes()).hexdigest(),
        )
        for path in folder.rglob("*")
        if path.is_file()
    }


def fails(source: Path, out: Path, message: str) -> DrnError:
    """Expect an error and nothing left of the attempt."""
    before = state(source)
    with pytest.raises(DrnError, match=message) as caught:
        prepare_camvid(source, out)
    assert sorted(path.name for path in out.parent.iterdir()) == ["SegNet"]
    assert state(source) == before
    return caught.value


def test_folder_has_all_that_training_needs(source: Path, tmp_path: Path) -> None:
    before = state(source)
    seen: list[tuple[int, int]] = []
    out = tmp_path / "camvid"
    prepared = prepare_camvid(source, out, lambda done, count: seen.append((done, count)))
    assert (prepared.out, prepared.counts, prepared.unchanged) == (out, SPLITS, False)
    assert seen == [(n, 6) for n in range(1, 7)]
    assert state(source) == before
    folder = ListFolder.open(out)
    pixels = []
    for split, count in SPLITS.items():
        samples = folder.samples(split)
        assert len(samples) == count
        for number, sample in enumerate(samples):
            image = read_image(source / split / f"{number}.png")
            label = np.asarray(Image.open(source / f"{split}annot" / f"{number}.png"))
            assert np.array_equal(read_image(sample.image), image)
            assert np.array_equal(read_label(sample.label), np.where(label == 11, 255, label))
            if split == "train":
                pixels.append(image.reshape(-1, 3) / 255)
    statistics = folder.statistics()
    assert statistics.mean == pytest.approx(np.concatenate(pixels).mean(axis=0), abs=1e-8)
    assert statistics.std == pytest.approx(np.concatenate(pixels).std(axis=0), abs=1e-8)
    assert folder.class_set(11) == camvid()
    info = read_json(out / "info.json")
    labels = np.stack([np.asarray(Image.open(source / f"trainannot/{n}.png")) for n in range(3)])
    counts = np.bincount(labels.ravel(), minlength=12).tolist()
    assert [*info["training_pixels"], info["training_pixels_void"]] == counts
    assert (out / "train_images.txt").read_text() == "train/0.png\ntrain/1.png\ntrain/2.png\n"


def test_second_run_changes_nothing_and_a_changed_source_is_refused(
    source: Path, tmp_path: Path
) -> None:
    out = tmp_path / "camvid"
    prepare_camvid(source, out)
    before = state(out)
    again = prepare_camvid(source, out)
    assert (again.counts, again.unchanged) == (SPLITS, True)
    assert state(out) == before
    changed = source / "train" / "1.png"
    os.utime(changed, (changed.stat().st_atime, changed.stat().st_mtime + 10))
    with pytest.raises(DrnError, match="made from other files") as caught:
        prepare_camvid(source, out)
    assert str(out) in caught.value.message
    assert state(out) == before


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("notes.txt", "mine", "exists already"),
        ("info.json", '{"mean": [0, 0, 0]}', "another data set"),
        ("info.json", "[1]", "another data set"),
        ("info.json", "{", "not valid JSON"),
    ],
)
def test_folder_of_someone_else_is_refused_and_left_alone(
    source: Path, tmp_path: Path, name: str, text: str, message: str
) -> None:
    out = tmp_path / "camvid"
    out.mkdir()
    (out / name).write_text(text)
    with pytest.raises(DrnError, match=message) as caught:
        prepare_camvid(source, out)
    assert str(out) in str(caught.value)
    assert [path.name for path in out.iterdir()] == [name]
    assert (out / name).read_text() == text
    assert sorted(path.name for path in tmp_path.iterdir()) == ["SegNet", "camvid"]


def test_label_value_above_void_is_an_error_with_file_and_value(
    source: Path, tmp_path: Path
) -> None:
    path = source / "valannot" / "1.png"
    Image.fromarray(np.full((6, 8), 12, np.uint8)).save(path)
    error = fails(source, tmp_path / "camvid", "has the value 12")
    assert str(path) in error.message


def test_label_of_another_size_is_an_error_with_file_and_sizes(
    source: Path, tmp_path: Path
) -> None:
    path = source / "trainannot" / "0.png"
    Image.fromarray(np.zeros((5, 8), np.uint8)).save(path)
    error = fails(source, tmp_path / "camvid", "is 8x5, its picture 8x6")
    assert str(path) in error.message


@pytest.mark.parametrize("kind", ["train", "trainannot"])
def test_broken_file_is_an_error_with_its_path(source: Path, tmp_path: Path, kind: str) -> None:
    path = source / kind / "2.png"
    path.write_bytes(path.read_bytes()[:60])
    error = fails(source, tmp_path / "camvid", "broken picture")
    assert str(path) in error.message


def test_missing_file_is_an_error_with_list_and_line(source: Path, tmp_path: Path) -> None:
    (source / "valannot" / "1.png").unlink()
    error = fails(source, tmp_path / "camvid", "does not exist")
    assert error.message.startswith(f"{source / 'val.txt'}:2: ")
    assert str(source / "valannot" / "1.png") in error.message
    (source / "train" / "0.png").unlink()
    error = fails(source, tmp_path / "camvid", "does not exist")
    assert error.message.startswith(f"{source / 'train.txt'}:1: ")


def test_line_of_another_form_is_an_error_with_list_and_line(source: Path, tmp_path: Path) -> None:
    path = source / "val.txt"
    path.write_text(path.read_text() + "\n\nval/1.png\n")
    error = fails(source, tmp_path / "camvid", "has 1 words")
    assert error.message.startswith(f"{path}:4: ")


def test_line_that_leads_out_of_the_folder_is_an_error(source: Path, tmp_path: Path) -> None:
    (source / "val.txt").write_text("../0.png valannot/0.png\n")
    fails(source, tmp_path / "out", r"val.txt:1: .*lead out")


def test_picture_that_changes_its_split_is_a_change(source: Path, tmp_path: Path) -> None:
    prepare_camvid(source, tmp_path / "out")
    train = (source / "train.txt").read_text().splitlines()
    val = (source / "val.txt").read_text().splitlines()
    (source / "train.txt").write_text("\n".join(train[:-1]))
    (source / "val.txt").write_text("\n".join([train[-1], *val]))
    with pytest.raises(DrnError, match="made from other files"):
        prepare_camvid(source, tmp_path / "out")


def test_list_that_is_no_text_is_an_error_with_its_path(source: Path, tmp_path: Path) -> None:
    (source / "val.txt").write_bytes(b"\xff\xfe")
    error = fails(source, tmp_path / "camvid", "cannot be read")
    assert str(source / "val.txt") in error.message


def test_missing_list_is_an_error_that_describes_the_layout(source: Path, tmp_path: Path) -> None:
    (source / "val.txt").unlink()
    error = fails(source, tmp_path / "camvid", "no such list")
    assert "trainannot" in str(error.hint)


def test_missing_source_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DrnError, match="no such folder") as caught:
        prepare_camvid(tmp_path / "absent", tmp_path / "camvid")
    assert str(tmp_path / "absent") in str(caught.value)


def test_test_labels_may_be_missing(source: Path, tmp_path: Path) -> None:
    (source / "testannot" / "0.png").unlink()
    out = tmp_path / "camvid"
    assert prepare_camvid(source, out).counts == SPLITS
    assert not (out / "test_labels.txt").exists()
    assert len(ListFolder.open(out).samples("test", labels=False)) == 1


def test_real_camvid_has_the_known_numbers(camvid_source: Path, tmp_path: Path) -> None:
    prepared = prepare_camvid(camvid_source, tmp_path / "camvid")
    assert prepared.counts == {"train": 367, "val": 101, "test": 233}
    folder = ListFolder.open(prepared.out)
    assert len(folder.samples("train")) == 367
    assert len(folder.samples("val")) == 101
    assert len(folder.samples("test", labels=False)) == 233
    statistics = folder.statistics()
    mean, std = (0.41189488, 0.42513280, 0.43267069), (0.30707349, 0.31161108, 0.30721843)
    assert statistics.mean == pytest.approx(mean, abs=1e-6)
    assert statistics.std == pytest.approx(std, abs=1e-6)
    info = read_json(prepared.out / "info.json")
    assert info["training_pixels"] == [
        10682767, 14750079, 623349, 20076880, 2845085, 6166762, 743859, 714595, 3719877, 405385,
        184967,
    ]  # fmt: skip
    assert info["training_pixels_void"] == 2503995

import hashlib
import logging
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from drn_cli.data.classes import camvid, camvid_colours, camvid_split
from drn_cli.data.folders import ListDataset
from drn_cli.data.images import read_image, read_label
from drn_cli.data.prepare.camvid import prepare_camvid
from drn_cli.errors import DrnError
from drn_cli.files import read_json

SPLITS = {"train": 3, "val": 2, "test": 1}


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Write a small CamVid in the SegNet layout, with three forms of paths in the lists."""
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
    """Expect an error that leaves no files."""
    before = state(source)
    with pytest.raises(DrnError, match=message) as caught:
        prepare_camvid(source, out)
    assert sorted(path.name for path in out.parent.iterdir()) == ["SegNet"]
    assert state(source) == before
    return caught.value


@pytest.mark.parametrize(
    ("value", "message"),
    [(11, "contain no class, only void"), (3, "contain only the class [Rr]oad; ")],
)
def test_labels_need_two_classes(source: Path, tmp_path: Path, value: int, message: str) -> None:
    for path in source.glob("*annot/*.png"):
        Image.fromarray(np.full((6, 8), value, np.uint8)).save(path)
    fails(source, tmp_path / "camvid", message)


def test_data_folder_is_complete(source: Path, tmp_path: Path) -> None:
    before = state(source)
    seen: list[tuple[int, int]] = []
    out = tmp_path / "camvid"
    prepared = prepare_camvid(source, out, lambda done, count: seen.append((done, count)))
    assert (prepared.out, prepared.counts, prepared.unchanged) == (out, SPLITS, False)
    assert seen == [(n, 6) for n in range(1, 7)]
    assert state(source) == before
    folder = ListDataset.open(out)
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
    assert [
        *info["class_pixels"]["train"]["pixels"],
        info["class_pixels"]["train"]["void"],
    ] == counts
    assert [*info["training_pixels"], info["training_pixels_void"]] == counts
    assert (out / "train_images.txt").read_text() == "train/0.png\ntrain/1.png\ntrain/2.png\n"


def test_second_run_is_a_no_op_unless_the_source_changed(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "camvid"
    prepare_camvid(source, out)
    before = state(out)
    again = prepare_camvid(source, out)
    assert (again.counts, again.unchanged) == (SPLITS, True)
    assert state(out) == before
    changed = source / "train" / "1.png"
    changed.unlink()  # the data folder may hold a link to it
    Image.fromarray(np.full((6, 8, 3), 7, np.uint8)).save(changed)
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
def test_folder_with_other_contents_is_refused(
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


def test_unknown_label_value(source: Path, tmp_path: Path) -> None:
    path = source / "valannot" / "1.png"
    Image.fromarray(np.full((6, 8), 12, np.uint8)).save(path)
    error = fails(source, tmp_path / "camvid", "value 12 at x 0, y 0 is not a class")
    assert str(path) in error.message


def test_label_of_another_size(source: Path, tmp_path: Path) -> None:
    path = source / "trainannot" / "0.png"
    Image.fromarray(np.zeros((5, 8), np.uint8)).save(path)
    error = fails(source, tmp_path / "camvid", r"is 8x5, its image .*train/0.png is 8x6")
    assert str(path) in error.message


@pytest.mark.parametrize("kind", ["train", "trainannot"])
def test_broken_file(source: Path, tmp_path: Path, kind: str) -> None:
    path = source / kind / "2.png"
    path.write_bytes(path.read_bytes()[:60])
    error = fails(source, tmp_path / "camvid", "broken image")
    assert str(path) in error.message


def test_missing_file_names_list_and_line(source: Path, tmp_path: Path) -> None:
    (source / "valannot" / "1.png").unlink()
    error = fails(source, tmp_path / "camvid", "does not exist")
    assert error.message.startswith(f"{source / 'val.txt'}:2: ")
    assert str(source / "valannot" / "1.png") in error.message
    (source / "train" / "0.png").unlink()
    error = fails(source, tmp_path / "camvid", "does not exist")
    assert error.message.startswith(f"{source / 'train.txt'}:1: ")


def test_invalid_list_line(source: Path, tmp_path: Path) -> None:
    path = source / "val.txt"
    path.write_text(path.read_text() + "\n\nval/1.png\n")
    error = fails(source, tmp_path / "camvid", "found 1")
    assert error.message.startswith(f"{path}:4: ")


def test_list_path_outside_the_folder(source: Path, tmp_path: Path) -> None:
    (source / "val.txt").write_text("../0.png valannot/0.png\n")
    fails(source, tmp_path / "out", r"val.txt:1: .*points outside")


def test_change_of_the_split_is_detected(source: Path, tmp_path: Path) -> None:
    prepare_camvid(source, tmp_path / "out")
    train = (source / "train.txt").read_text().splitlines()
    val = (source / "val.txt").read_text().splitlines()
    (source / "train.txt").write_text("\n".join(train[:-1]))
    (source / "val.txt").write_text("\n".join([train[-1], *val]))
    with pytest.raises(DrnError, match="made from other files"):
        prepare_camvid(source, tmp_path / "out")


def test_list_that_is_not_text(source: Path, tmp_path: Path) -> None:
    (source / "val.txt").write_bytes(b"\xff\xfe")
    error = fails(source, tmp_path / "camvid", "not UTF-8 text")
    assert str(source / "val.txt") in error.message


def test_missing_list_describes_the_layout(source: Path, tmp_path: Path) -> None:
    (source / "val.txt").unlink()
    error = fails(source, tmp_path / "camvid", "no such list")
    assert "trainannot" in str(error.hint)


def test_missing_source(tmp_path: Path) -> None:
    with pytest.raises(DrnError, match="no such folder") as caught:
        prepare_camvid(tmp_path / "absent", tmp_path / "camvid")
    assert str(tmp_path / "absent") in str(caught.value)


def test_test_labels_may_be_missing(source: Path, tmp_path: Path) -> None:
    (source / "testannot" / "0.png").unlink()
    out = tmp_path / "camvid"
    assert prepare_camvid(source, out).counts == SPLITS
    assert not (out / "test_labels.txt").exists()
    assert len(ListDataset.open(out).samples("test", labels=False)) == 1


def test_duplicate_image_in_a_list(source: Path, tmp_path: Path) -> None:
    (source / "val.txt").write_text("train/0.png trainannot/0.png\n" * 2)
    fails(source, tmp_path / "camvid", "two source files")


def test_linked_image_becomes_a_regular_file(source: Path, tmp_path: Path) -> None:
    link = source / "train" / "0.png"
    link.rename(source / "real.png")
    link.symlink_to("../real.png")
    prepare_camvid(source, tmp_path / "camvid")
    placed = tmp_path / "camvid" / "train" / "0.png"
    assert not placed.is_symlink()
    assert placed.read_bytes() == (source / "real.png").read_bytes()


def painted(label: np.ndarray) -> np.ndarray:
    """Convert class ids to colors of CamVid, alternating between the colors of an id."""
    by_id = {number: [c for _, n, c in camvid_colours() if n == number] for number in range(11)}
    colors = [by_id.get(number, [(0, 0, 0)]) for number in range(12)]
    return np.array(
        [
            [colors[value][(y + x) % len(colors[value])] for x, value in enumerate(row)]
            for y, row in enumerate(label.tolist())
        ],
        np.uint8,
    )


LABEL = np.arange(48, dtype=np.uint8).reshape(6, 8) % 12
NAMED = {color: name for name, _, color in reversed(camvid_colours())}  # each color once
CLASS_DICT = "name, r,g,b\n" + "".join(
    f" {name} ,{red}, {green},{blue}\n" for (red, green, blue), name in NAMED.items()
)


@pytest.fixture
def folders(source: Path, tmp_path: Path) -> Path:
    """Write the same CamVid as split folders, with color labels and no test labels."""
    top = tmp_path / "rgb"
    for split, count in SPLITS.items():
        shutil.copytree(source / split, top / split)
        if split != "test":
            (top / f"{split}_labels").mkdir()
            for n in range(count):
                label = painted(np.asarray(Image.open(source / f"{split}annot" / f"{n}.png")))
                Image.fromarray(label).save(top / f"{split}_labels" / f"{n}_L.png")
    for path in (source / "testannot").iterdir():
        path.unlink()
    return top


@pytest.fixture
def cambridge(source: Path, tmp_path: Path) -> Path:
    """The layout of the Cambridge release: all 701 names, tiny images, no test labels."""
    top = tmp_path / "cambridge"
    images, labels = top / "701_StillsRaw_full", top / "LabeledApproved_full"
    images.mkdir(parents=True)
    labels.mkdir()
    Image.fromarray(painted(LABEL)).save(tmp_path / "label.png")
    for stem, split in camvid_split().items():
        shutil.copy(source / "train" / "0.png", images / f"{stem}.png")
        if split != "test":
            shutil.copy(tmp_path / "label.png", labels / f"{stem}_L.png")
    return top


def content(folder: Path) -> dict[str, object]:
    """Return info.json without the fingerprint, label maps, and names of the lists."""
    info = read_json(folder / "info.json")
    del info["made_from"]
    labels = {
        path.relative_to(folder).as_posix(): read_label(path).tolist()
        for path in sorted(folder.glob("*annot/*.png"))
    }
    return {"info": info, "labels": labels, "lists": sorted(p.name for p in folder.glob("*.txt"))}


@pytest.mark.parametrize("color_file", [None, "class_dict.csv", "label_colors.txt"])
def test_split_folders_with_color_labels_equal_segnet(
    source: Path, folders: Path, tmp_path: Path, color_file: str | None
) -> None:
    if color_file == "class_dict.csv":
        (folders / color_file).write_text(CLASS_DICT)
    elif color_file:
        lines = [f"{r} {g} {b}\t\t{name}" for (r, g, b), name in NAMED.items()]
        (folders / "train_labels" / color_file).write_text("\n".join(lines))
    before = state(folders)
    prepare_camvid(source, tmp_path / "segnet")
    prepare_camvid(folders, tmp_path / "folders")
    assert content(tmp_path / "folders") == content(tmp_path / "segnet")
    lists = [(tmp_path / name / "val_labels.txt").read_text() for name in ("segnet", "folders")]
    assert lists[0] == lists[1] == "valannot/0.png\nvalannot/1.png\n"
    assert state(folders) == before
    assert prepare_camvid(folders, tmp_path / "folders").unchanged


def test_cambridge_release_uses_the_segnet_split(
    cambridge: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    stills, out = cambridge / "701_StillsRaw_full", tmp_path / "out"
    shutil.copy(stills / "0001TP_006690.png", stills / "another.png")
    with caplog.at_level(logging.INFO):
        counts = prepare_camvid(cambridge, out).counts
    assert counts == {"train": 367, "val": 101, "test": 233}
    assert "images not in the split, left out: 1" in caplog.text
    val = [stem for stem, split in camvid_split().items() if split == "val"]
    listed = (out / "val_images.txt").read_text().splitlines()
    assert listed == [f"val/{stem}.png" for stem in val]
    ids = read_label(out / "valannot" / f"{val[-1]}.png")
    assert np.array_equal(ids, np.where(LABEL == 11, 255, LABEL))
    assert not (out / "test_labels.txt").exists()
    (stills / f"{val[1]}.png").unlink()
    with pytest.raises(DrnError, match=f"1 of 701 images of CamVid are missing: {val[1]}"):
        prepare_camvid(cambridge, tmp_path / "again")


def test_class_file_overrides_known_colors(folders: Path, tmp_path: Path) -> None:
    (folders / "class_dict.csv").write_text("name,r,g,b\nSky,64,0,128\nUnlabelled,1,2,3\n")
    label = np.full((6, 8, 3), (64, 0, 128), np.uint8)  # a car elsewhere
    label[0, 0] = (1, 2, 3)
    Image.fromarray(label).save(folders / "val_labels" / "1_L.png")
    prepare_camvid(folders, tmp_path / "out")
    ids = read_label(tmp_path / "out" / "valannot" / "1.png")
    assert ids[0, 0] == 255
    assert np.unique(ids[1:]).tolist() == [0]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name,r,g,b\nSky,1,2,3\nUfo,4,5,6\n", r"class_dict.csv:3: Ufo is not a class of CamVid"),
        ("Sky\nRoad\n", r"class_dict.csv:1: Sky has no color"),
    ],
)
def test_class_file_with_an_unknown_class(
    folders: Path, tmp_path: Path, text: str, message: str
) -> None:
    (folders / "class_dict.csv").write_text(text)
    with pytest.raises(DrnError, match=message):
        prepare_camvid(folders, tmp_path / "out")


def test_unknown_color_raises_or_becomes_void(folders: Path, tmp_path: Path) -> None:
    path = folders / "val_labels" / "0_L.png"
    label = np.array(Image.open(path))
    label[3, 2] = (9, 9, 9)
    Image.fromarray(label).save(path)
    with pytest.raises(DrnError, match=r"0_L.png: color 9,9,9 at x 2, y 3 is not a class"):
        prepare_camvid(folders, tmp_path / "out")
    prepare_camvid(folders, tmp_path / "out", unknown_as_void=True)
    assert read_label(tmp_path / "out" / "valannot" / "0.png")[3, 2] == 255
    with pytest.raises(DrnError, match="made from other files"):
        prepare_camvid(folders, tmp_path / "out")


def test_palette_labels_with_class_colors_are_color_labels(
    source: Path, folders: Path, tmp_path: Path
) -> None:
    for path in (folders / "val_labels").iterdir():
        Image.open(path).convert("P", palette=Image.Palette.ADAPTIVE).save(path)
    for path in (folders / "train_labels").iterdir():  # ids with some palette
        ids = Image.open(source / "trainannot" / path.name.replace("_L", ""))
        ids.putpalette(bytes(range(256)) * 3)
        ids.save(path)
    prepare_camvid(source, tmp_path / "segnet")
    prepare_camvid(folders, tmp_path / "out")
    assert content(tmp_path / "out") == content(tmp_path / "segnet")


def test_incomplete_split_folders(folders: Path, tmp_path: Path) -> None:
    (folders / "train_labels" / "1_L.png").rename(folders / "val_labels" / "7_L.png")
    with pytest.raises(DrnError, match=r"train/1.png: no label .labels are named X_L.png"):
        prepare_camvid(folders, tmp_path / "out")
    shutil.copy(folders / "val_labels" / "7_L.png", folders / "train_labels" / "1.png")
    with pytest.raises(DrnError, match=r"val_labels: 7_L without an image"):
        prepare_camvid(folders, tmp_path / "out")
    shutil.rmtree(folders / "val_labels")
    with pytest.raises(DrnError, match=r"val_labels: no such folder"):
        prepare_camvid(folders, tmp_path / "out")


def test_unknown_layout_lists_the_known_ones(source: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(DrnError, match="no known layout") as caught:
        prepare_camvid(tmp_path / "empty", tmp_path / "out")
    for word in ("train.txt", "train_labels", "701_StillsRaw_full"):
        assert word in str(caught.value.hint)
    with pytest.raises(DrnError) as caught:
        prepare_camvid(tmp_path, tmp_path / "out")
    assert caught.value.hint == f"did you mean {source}?"


def test_real_camvid_matches_known_statistics(camvid_source: Path, tmp_path: Path) -> None:
    prepared = prepare_camvid(camvid_source, tmp_path / "camvid")
    assert prepared.counts == {"train": 367, "val": 101, "test": 233}
    folder = ListDataset.open(prepared.out)
    assert len(folder.samples("train")) == 367
    assert len(folder.samples("val")) == 101
    assert len(folder.samples("test", labels=False)) == 233
    statistics = folder.statistics()
    mean, std = (0.41189488, 0.42513280, 0.43267069), (0.30707349, 0.31161108, 0.30721843)
    assert statistics.mean == pytest.approx(mean, abs=1e-6)
    assert statistics.std == pytest.approx(std, abs=1e-6)
    info = read_json(prepared.out / "info.json")
    assert info["class_pixels"]["train"]["pixels"] == [
        10682767, 14750079, 623349, 20076880, 2845085, 6166762, 743859, 714595, 3719877, 405385,
        184967,
    ]  # fmt: skip
    assert info["class_pixels"]["train"]["void"] == 2503995

"""Data folders from folders of images and labels."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from drn_cli.data.folders import ListDataset
from drn_cli.data.images import read_label
from drn_cli.data.prepare.pairs import match_folders, prepare_pairs
from drn_cli.data.prepare.splits import SplitRatios
from drn_cli.errors import DrnError
from drn_cli.files import read_json

COLORS = np.array([(0, 0, 0), (128, 64, 128), (0, 128, 0)], np.uint8)
CLASSES = "name, r,g,b\nVoid,0,0,0\nroad , 128,64,128\ntree,0,128,0"
NAMES = [f"drive_{n // 3}/{n:03}" for n in range(9)]


def label(number: int) -> np.ndarray:
    return np.random.default_rng(number).integers(0, 3, (6, 8)).astype(np.uint8)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Write photos, with labels as values and as colors."""
    top = tmp_path / "source"
    for number, name in enumerate(NAMES):
        image = np.random.default_rng(100 + number).integers(0, 256, (6, 8, 3)).astype(np.uint8)
        images = {
            f"photos/{name}.png": image,
            f"masks/{name}_mask.png": label(number),
            f"colors/{name}_L.png": COLORS[label(number)],
        }
        for path, pixels in images.items():
            (top / path).parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(top / path)
    (top / "classes.csv").write_text(CLASSES)
    return top


def state(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def ids_of(out: Path) -> dict[str, list]:
    folder = out / "labels"
    return {
        path.relative_to(folder).with_suffix("").as_posix(): read_label(path).tolist()
        for path in folder.rglob("*.png")
    }


def test_data_folder_of_values(source: Path, tmp_path: Path) -> None:
    before, out, seen = state(source), tmp_path / "out", []
    folders = match_folders(source / "photos", source / "masks")
    ratios = SplitRatios(val=0.2, test=0.2)
    made = prepare_pairs(
        folders, out, lambda done, total: seen.append((done, total)), ratios=ratios
    )
    assert seen == [(n, 18) for n in range(1, 19)]
    assert sum(made.counts.values()) == 9
    assert min(made.counts.values()) >= 1
    data = ListDataset.open(out)
    pixels, counts = [], np.zeros(3, int)
    for split in ("train", "val", "test"):
        samples = data.samples(split)
        assert len(samples) == made.counts[split]
        for sample in samples:
            name = sample.image.relative_to(out / "images").with_suffix("").as_posix()
            expected = label(NAMES.index(name))
            assert sample.image.read_bytes() == (source / f"photos/{name}.png").read_bytes()
            assert np.array_equal(read_label(sample.label), expected)
            assert sample.label == out / f"labels/{name}.png"
            if split == "train":
                pixels.append(np.asarray(Image.open(sample.image)).reshape(-1, 3) / 255)
                counts += np.bincount(expected.ravel(), minlength=3)
    assert data.statistics().mean == pytest.approx(np.concatenate(pixels).mean(0), abs=1e-8)
    assert data.statistics().std == pytest.approx(np.concatenate(pixels).std(0), abs=1e-8)
    info = read_json(out / "info.json")
    assert info["classes"] == ["class 0", "class 1", "class 2"]
    assert info["dataset"] == "pairs"
    assert info["class_pixels"]["train"]["pixels"] == counts.tolist()
    assert state(source) == before


@pytest.mark.parametrize("kind", ["RGB", "RGBA", "P"])
def test_data_folder_of_colors(source: Path, tmp_path: Path, kind: str) -> None:
    for number, name in enumerate(NAMES):
        image = Image.open(source / f"colors/{name}_L.png").convert(
            kind, palette=Image.Palette.ADAPTIVE
        )
        image.save(source / f"colors/{name}_L.png")
        assert np.array_equal(np.asarray(image.convert("RGB")), COLORS[label(number)])
    out = tmp_path / "out"
    folders = match_folders(source / "photos", source / "colors")
    prepare_pairs(folders, out, classes=source / "classes.csv")
    expected = np.array([255, 0, 1], np.uint8)
    assert ids_of(out) == {
        name: expected[label(number)].tolist() for number, name in enumerate(NAMES)
    }
    info = read_json(out / "info.json")
    assert info["classes"] == ["road", "tree"]
    assert info["colours"] == [[128, 64, 128], [0, 128, 0]]
    assert not (out / "test_images.txt").exists()


def test_ignored_classes_and_values(source: Path, tmp_path: Path) -> None:
    colors = match_folders(source / "photos", source / "colors")
    values = match_folders(source / "photos", source / "masks")
    (source / "classes.csv").write_text(f"{CLASSES}\nbush,1,2,3\npond,3,2,1")
    with pytest.raises(DrnError, match="the labels contain only the class tree; training"):
        prepare_pairs(colors, tmp_path / "a", classes=source / "classes.csv", ignore=["Road"])
    assert not (tmp_path / "a").exists()
    prepare_pairs(values, tmp_path / "b", ignore=["0"])
    assert read_json(tmp_path / "b" / "info.json")["classes"] == ["class 1", "class 2"]
    ids = ids_of(tmp_path / "b")
    assert ids[NAMES[4]] == np.array([255, 0, 1], np.uint8)[label(4)].tolist()


def test_second_run_is_a_no_op_unless_options_changed(source: Path, tmp_path: Path) -> None:
    out, colors = tmp_path / "out", source / "classes.csv"
    folders = match_folders(source / "photos", source / "colors")
    first = prepare_pairs(folders, out, classes=colors)
    before = state(out)
    again = prepare_pairs(folders, out, classes=colors)
    assert (again.unchanged, again.counts) == (True, first.counts)
    for other in ({"ratios": SplitRatios(seed=1)}, {"ignore": ["9"]}, {"unknown_as_void": True}):
        with pytest.raises(DrnError, match="made from other files"):
            prepare_pairs(folders, out, classes=colors, **other)
    colors.write_text(CLASSES.replace("tree", "bush"))
    with pytest.raises(DrnError, match="made from other files"):
        prepare_pairs(folders, out, classes=colors)
    assert state(out) == before


def test_unknown_color_raises_or_becomes_void(source: Path, tmp_path: Path) -> None:
    path = source / f"colors/{NAMES[5]}_L.png"
    pixels = np.array(Image.open(path))
    pixels[1, 2] = (7, 7, 7)
    Image.fromarray(pixels).save(path)
    folders = match_folders(source / "photos", source / "colors")
    with pytest.raises(DrnError, match=r"005_L.png: color 7,7,7 \(1 px\) is not a class"):
        prepare_pairs(folders, tmp_path / "out", classes=source / "classes.csv")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["source"]
    prepare_pairs(folders, tmp_path / "out", classes=source / "classes.csv", unknown_as_void=True)
    assert ids_of(tmp_path / "out")[NAMES[5]][1][2] == 255


def test_label_of_another_size(source: Path, tmp_path: Path) -> None:
    Image.fromarray(label(0)[:5]).save(source / f"masks/{NAMES[0]}_mask.png")
    folders = match_folders(source / "photos", source / "masks")
    with pytest.raises(DrnError, match=r"000_mask.png: is 8x5, its image .*/000.png is 8x6"):
        prepare_pairs(folders, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_files_without_a_partner_raise_or_are_left_out(source: Path) -> None:
    (source / f"masks/{NAMES[0]}_mask.png").rename(source / "masks/x_mask.png")
    with pytest.raises(DrnError) as caught:
        match_folders(source / "photos", source / "masks")
    assert "images without a label: 1 (drive_0/000.png)" in caught.value.message
    assert "labels without an image: 1 (x_mask.png)" in caught.value.message
    folders = match_folders(source / "photos", source / "masks", skip_unmatched=True)
    assert len(folders.pairing.pairs) == 8


def test_nested_folders_and_hidden_files(source: Path) -> None:
    shutil.copytree(source / "masks", source / "photos" / "masks")
    (source / "photos" / "drive_0" / "._000.png").write_bytes(b"of a Mac")
    (source / "photos" / ".cache").mkdir()
    (source / "photos" / ".cache" / "thumbnail.png").write_bytes(b"")
    folders = match_folders(source / "photos", source / "photos" / "masks")
    assert [match.stem for match in folders.pairing.pairs] == NAMES


def test_same_folder_needs_a_label_suffix(source: Path) -> None:
    shutil.copytree(source / "masks", source / "photos", dirs_exist_ok=True)
    with pytest.raises(DrnError, match="contains both images and labels"):
        match_folders(source / "photos", source / "photos")
    folders = match_folders(source / "photos", source / "photos", label_suffix="_mask")
    assert [match.stem for match in folders.pairing.pairs] == NAMES


def test_data_folder_inside_a_source(source: Path) -> None:
    folders = match_folders(source / "photos", source / "masks")
    with pytest.raises(DrnError, match="is inside the source folder"):
        prepare_pairs(folders, source / "masks" / "out")


def test_missing_or_empty_folder(source: Path, tmp_path: Path) -> None:
    with pytest.raises(DrnError, match="absent: no such folder"):
        match_folders(source / "photos", tmp_path / "absent")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DrnError, match="empty: contains no images"):
        match_folders(tmp_path / "empty", source / "masks")


@pytest.mark.parametrize(
    ("name", "message"),
    [("a\nb.png", "contains a line break"), ("a\udce9.png", "is not valid UTF-8")],
)
def test_names_unsuitable_for_lists(source: Path, name: str, message: str) -> None:
    (source / "photos" / name).write_bytes(b"")
    with pytest.raises(DrnError, match=message) as caught:
        match_folders(source / "photos", source / "masks")
    assert str(caught.value).isascii()


def test_names_swapped_folders(drn_here, tmp_path):
    draw = np.random.default_rng(0)
    for number in range(4):
        for folder, shape in (("photos", (32, 32, 3)), ("masks", (32, 32))):
            (tmp_path / folder).mkdir(exist_ok=True)
            pixels = draw.integers(0, 256 if folder == "photos" else 3, shape, np.uint8)
            Image.fromarray(pixels).save(tmp_path / folder / f"{number}.png")
    folders = ("--images", "masks", "--labels", "photos")
    code, _, stderr = drn_here("data", "prepare", "pairs", *folders, "--out", "data")
    assert code == 1
    assert stderr.splitlines()[-1] == (
        "error: photos: contains photographs, and masks label maps -> swap --images and --labels"
    )

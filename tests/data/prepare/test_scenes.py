import json
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from drn_cli.data.classes import cityscapes, cityscapes_train_ids
from drn_cli.data.prepare import scenes
from drn_cli.data.prepare.scenes import draw_scene, make_scenes
from drn_cli.data.street_table import load_table
from drn_cli.errors import DrnError

Scene = tuple[NDArray[np.uint8], NDArray[np.uint8]]
SMALL = {"train": 3, "val": 2, "test": 1, "width": 96, "height": 48}


@pytest.fixture(scope="module")
def sixty() -> list[Scene]:
    return [draw_scene(seed) for seed in range(60)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("data") / "scenes"
    make_scenes(out, **SMALL)
    return out


def lines(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").splitlines()


def test_scene_depends_only_on_seed_and_size(sixty: list[Scene]) -> None:
    image, labels = draw_scene(7)
    assert image.shape == (128, 256, 3)
    assert labels.shape == (128, 256)
    assert image.dtype == labels.dtype == np.uint8
    assert np.array_equal(image, sixty[7][0])
    assert np.array_equal(labels, sixty[7][1])
    assert len({labels.tobytes() for _, labels in sixty}) == 60
    assert len({image.tobytes() for image, _ in sixty}) == 60


def test_all_classes_are_frequent_enough(sixty: list[Scene]) -> None:
    to_train_ids = cityscapes_train_ids()
    counts = np.stack(
        [np.bincount(to_train_ids[labels].ravel(), minlength=256) for _, labels in sixty]
    )
    names = cityscapes().names
    ratios = dict(zip(names, counts.sum(0) / counts.sum(), strict=False))
    scenes_with = dict(zip(names, (counts > 20).sum(0), strict=False))
    assert 0.1 < ratios["road"] < 0.5
    assert 0.05 < ratios["building"] < 0.5
    assert 0.03 < ratios["sky"] < 0.3
    assert all(ratios[name] > 0.002 for name in names), ratios
    rare = ("rider", "truck", "bus", "train", "motorcycle")
    assert all(scenes_with[name] >= 15 for name in rare), scenes_with
    assert all(count >= 10 for count in scenes_with.values()), scenes_with
    ignored = counts[:, 255].sum() / counts.sum()
    assert 0.005 < ignored < 0.1
    assert counts[:, 19:255].sum() == 0


def test_colors_of_classes_overlap(sixty: list[Scene]) -> None:
    """The distributions of mean colors of cars and of houses overlap."""
    means: dict[int, list[NDArray[np.float64]]] = {11: [], 26: []}
    for image, labels in sixty:
        for label, found in means.items():
            if (labels == label).sum() > 100:
                found.append(image[labels == label].mean(0))
    houses, cars = np.stack(means[11]), np.stack(means[26])
    assert (np.abs(houses.mean(0) - cars.mean(0)) < 2 * (houses.std(0) + cars.std(0))).all()


def test_labels_are_aligned_with_the_image(sixty: list[Scene]) -> None:
    """Label borders are on edges of the image, but not if shifted by three pixels."""
    contrast = dict.fromkeys([(0, 0), (3, 0), (-3, 0), (0, 3), (0, -3)], 0.0)
    for image, labels in sixty[:20]:
        grey = image.mean(2)
        across, down = np.abs(np.diff(grey, axis=1))[:-1], np.abs(np.diff(grey, axis=0))[:, :-1]
        borders_across = (labels[:, 1:] != labels[:, :-1])[:-1]
        borders_down = (labels[1:] != labels[:-1])[:, :-1]
        for shift in contrast:
            there = np.roll(borders_across, shift, (0, 1))[8:-8, 8:-8]
            contrast[shift] += across[8:-8, 8:-8][there].mean()
            there = np.roll(borders_down, shift, (0, 1))[8:-8, 8:-8]
            contrast[shift] += down[8:-8, 8:-8][there].mean()
    aligned = contrast.pop((0, 0))
    assert all(aligned > 1.4 * moved for moved in contrast.values()), (aligned, contrast)


def test_table_has_no_unused_or_undefined_names() -> None:
    table = load_table()
    ground = {"grass", "sidewalk", "road", "wheel track", "patch", "edge line", "lane line"}
    used = ground | {"zebra crossing", "rails"}
    used |= {name for rule in table.places for name in rule.what}
    used |= {name for names in table.plots.values() for name in names}
    parts = [part for thing in table.objects.values() for part in thing.parts]
    used |= {name for part in parts for name in part.use}
    assert used == set(table.objects)
    colors = {part.color for part in parts if not part.use}
    assert colors | {"glass", "sky", "horizon"} == set(table.palettes)
    assert len(table.palettes["sky"]) == len(table.palettes["horizon"])


@pytest.mark.parametrize(
    "size", [(64, 32), (65, 47), (64, 256), (101, 203), (333, 77), (640, 80), (640, 320)]
)
def test_any_size(size: tuple[int, int]) -> None:
    width, height = size
    for seed in range(3):
        image, labels = draw_scene(seed, width, height)
        assert image.shape == (height, width, 3)
        assert labels.shape == (height, width)
        assert (labels == 7).mean() > 0.05


def test_layout_of_cityscapes(folder: Path) -> None:
    files = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    stems = {
        "train": ["dilaton_000000", "dilaton_000001", "residua_000000"],
        "val": ["gridley_000000", "gridley_000001"],
        "test": ["stridegate_000000"],
    }
    expected = {"info.json"}
    for split, names in stems.items():
        paths = [f"{split}/{name.split('_')[0]}/{name}_000019" for name in names]
        images = [f"leftImg8bit/{path}_leftImg8bit.png" for path in paths]
        assert lines(folder / f"{split}_images.txt") == images
        expected |= {*images, f"{split}_images.txt"}
        if split != "test":
            labels = [f"gtFine/{path}_gtFine_trainIds.png" for path in paths]
            assert lines(folder / f"{split}_labels.txt") == labels
            expected |= {*labels, f"{split}_labels.txt"}
            expected |= {f"gtFine/{path}_gtFine_labelIds.png" for path in paths}
    assert files == expected


def test_images_and_labels(folder: Path) -> None:
    to_train_ids = cityscapes_train_ids()
    for split in ("train", "val"):
        images, labels = (lines(folder / f"{split}_{kind}.txt") for kind in ("images", "labels"))
        for image, label in zip(images, labels, strict=True):
            with Image.open(folder / image) as opened:
                assert (opened.mode, opened.size) == ("RGB", (96, 48))
            train_ids = np.asarray(Image.open(folder / label))
            label_ids = np.asarray(Image.open(folder / label.replace("trainIds", "labelIds")))
            assert np.array_equal(train_ids, to_train_ids[label_ids])
            assert train_ids.shape == (48, 96)


def test_info_statistics(folder: Path) -> None:
    info = json.loads((folder / "info.json").read_text(encoding="utf-8"))
    images = [np.asarray(Image.open(folder / name)) for name in lines(folder / "train_images.txt")]
    pixels = np.concatenate([image.reshape(-1, 3) for image in images]) / 255
    assert info["mean"] == pytest.approx(pixels.mean(0).tolist(), abs=1e-6)
    assert info["std"] == pytest.approx(pixels.std(0).tolist(), abs=1e-6)
    assert info["classes"] == list(cityscapes().names)
    assert info["colours"] == [list(color) for color in cityscapes().colours]
    assert SMALL.items() <= info["scenes"].items()


def test_images_differ(folder: Path) -> None:
    contents = [path.read_bytes() for path in folder.glob("leftImg8bit/**/*.png")]
    assert len(contents) == len(set(contents)) == 6


def test_second_run_is_a_no_op(folder: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    made = make_scenes(folder, **SMALL)
    assert (made.unchanged, made.counts) == (True, {"train": 3, "val": 2, "test": 1})
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before


def test_drawing_is_reproducible(folder: Path, tmp_path: Path) -> None:
    make_scenes(tmp_path / "again", **SMALL)
    for path in folder.rglob("*"):
        if path.is_file():
            assert (tmp_path / "again" / path.relative_to(folder)).read_bytes() == path.read_bytes()


def test_parallel_drawing_gives_equal_files(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scenes, "PIXELS_TO_SHARE", 0)
    seen: list[tuple[int, int]] = []
    made = make_scenes(
        tmp_path / "again", **SMALL, progress=lambda done, total: seen.append((done, total))
    )
    assert (made.out, made.unchanged) == (tmp_path / "again", False)
    assert made.counts == {"train": 3, "val": 2, "test": 1}
    assert seen == [(done, 6) for done in range(1, 7)]
    for path in folder.rglob("*"):
        if path.is_file():
            assert (tmp_path / "again" / path.relative_to(folder)).read_bytes() == path.read_bytes()


def test_other_settings_are_refused(folder: Path) -> None:
    with pytest.raises(DrnError, match=r"scenes with other settings.*choose another folder"):
        make_scenes(folder, **{**SMALL, "seed": 1})


@pytest.mark.parametrize("content", [None, "[]", '{"mean": [0, 0, 0], "std": [1, 1, 1]}'])
def test_folder_with_other_contents_is_refused(tmp_path: Path, content: str | None) -> None:
    out = tmp_path / "mine"
    out.mkdir()
    kept = out / ("notes.txt" if content is None else "info.json")
    kept.write_text(content or "keep me", encoding="utf-8")
    with pytest.raises(DrnError, match=r"mine: exists and was not made") as caught:
        make_scenes(out, **SMALL)
    assert caught.value.hint == "choose another folder"
    assert list(tmp_path.rglob("*")) == [out, kept]


def test_existing_file_is_refused(tmp_path: Path) -> None:
    out = tmp_path / "mine"
    out.touch()
    with pytest.raises(DrnError, match="exists"):
        make_scenes(out, **SMALL)
    with pytest.raises(DrnError, match="cannot be written"):
        make_scenes(out / "below", **SMALL)


def test_fills_an_empty_folder(tmp_path: Path) -> None:
    out = tmp_path / "empty"
    out.mkdir()
    usual = out.stat().st_mode
    make_scenes(out, **{**SMALL, "train": 1, "val": 0, "test": 0})
    assert lines(out / "val_images.txt") == lines(out / "test_images.txt") == []
    assert out.stat().st_mode == usual
    assert list(tmp_path.iterdir()) == [out]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, OSError])
def test_failure_leaves_no_files(tmp_path: Path, error: type[BaseException]) -> None:
    def fail(done: int, total: int) -> None:
        if done == 2:
            raise error("in the middle")

    with pytest.raises(DrnError if error is OSError else error):
        make_scenes(tmp_path / "out", **SMALL, progress=fail)
    assert list(tmp_path.iterdir()) == []


def test_progress_counts_every_image(tmp_path: Path) -> None:
    calls: list[tuple[int, int]] = []
    make_scenes(tmp_path / "out", **SMALL, progress=lambda done, total: calls.append((done, total)))
    assert calls == [(done, 6) for done in range(1, 7)]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"train": 0}, "0 train scenes"),
        ({"val": -1}, "-1 val scenes"),
        ({"width": 32}, "32x48 pixels"),
        ({"height": 4096}, "96x4096 pixels"),
        ({"width": 388}, "388x48 pixels: size out of range.*8 times as wide"),
        ({"width": 64, "height": 257}, "64x257 pixels: size out of range.*4 times as high"),
        ({"width": 8193, "height": 4096}, "8193x4096 pixels: size out of range.*to 8192x4096"),
        ({"seed": -1}, "seed -1: is negative"),
    ],
)
def test_numbers_out_of_range(tmp_path: Path, wrong: dict[str, int], message: str) -> None:
    with pytest.raises(DrnError, match=message):
        make_scenes(tmp_path / "out", **{**SMALL, **wrong})
    assert list(tmp_path.iterdir()) == []

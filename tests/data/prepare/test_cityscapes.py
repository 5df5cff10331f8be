import os
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from drn_cli.data.classes import cityscapes, cityscapes_train_ids
from drn_cli.data.folders import CITYSCAPES, ListDataset
from drn_cli.data.images import read_label
from drn_cli.data.prepare import cityscapes as prepare_module
from drn_cli.data.prepare import cityscapes_layout
from drn_cli.data.prepare.cityscapes import PreparedCityscapes, png_size, prepare_cityscapes
from drn_cli.data.prepare.scenes import make_scenes
from drn_cli.errors import DrnError
from drn_cli.files import read_json

COUNTS = {"train": 3, "val": 2, "test": 1}
CITIES = {"train": {"dilaton": 2, "residua": 1}, "val": {"gridley": 2}, "test": {"stridegate": 1}}
TRAIN = "gtFine/train/dilaton/dilaton_00000{}_000019_gtFine_{}.png"
IMAGE = "leftImg8bit/train/dilaton/dilaton_000000_000019_leftImg8bit.png"
LISTS = ["test_images.txt", "train_images.txt", "train_labels.txt", "val_images.txt"]
LISTS += ["val_labels.txt"]


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write scenes like the release: label ids and unused files, without train ids."""
    folder = tmp_path_factory.mktemp("release") / "cityscapes"
    make_scenes(folder, **COUNTS, width=96, height=48)
    for path in [*folder.rglob("*_trainIds.png"), *folder.glob("*.*")]:
        path.unlink()
    for path in list(folder.rglob("*_labelIds.png")):
        shutil.copy(path, str(path).replace("labelIds", "instanceIds"))
        Path(str(path).replace("labelIds.png", "polygons.json")).write_text("{}")
    test = folder / "gtFine" / "test" / "stridegate"
    test.mkdir(parents=True)
    dummy = Image.fromarray(np.zeros((48, 96), np.uint8))
    dummy.save(test / "stridegate_000000_000019_gtFine_labelIds.png")
    every = np.arange(96 * 48).reshape(48, 96) % 256  # 255 is how the id -1 is stored
    Image.fromarray(every.astype(np.uint8)).save(folder / TRAIN.format(0, "labelIds"))
    return folder


@pytest.fixture
def root(release: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(release, tmp_path / "cityscapes"))


@pytest.fixture
def complete(monkeypatch: pytest.MonkeyPatch) -> None:
    """Expect as many images as the fixture has."""
    for split, count in COUNTS.items():
        monkeypatch.setitem(cityscapes_layout.EXPECTED, split, count)


@pytest.fixture(scope="module")
def zips(release: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("zips")
    for top in ("leftImg8bit", "gtFine"):
        write_zip(folder, top, release)
    return folder


def write_zip(folder: Path, top: str, source: Path) -> Path:
    path = folder / f"{top}_trainvaltest.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("license.txt", "as distributed")
        for file in sorted((source / top).rglob("*")):
            archive.write(file, file.relative_to(source))
    return path


def prepare(root: Path, **options: object) -> PreparedCityscapes:
    return prepare_cityscapes(root, partial=True, **options)  # type: ignore[arg-type]


def state(folder: Path) -> dict[str, tuple[int, bytes]]:
    return {
        str(path.relative_to(folder)): (path.stat().st_mtime_ns, path.read_bytes())
        for path in folder.rglob("*")
        if path.is_file()
    }


def lines(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").splitlines()


def fails(root: Path, message: str, **options: object) -> DrnError:
    """Expect an error that changes nothing."""
    before = state(root)
    with pytest.raises(DrnError, match=message) as caught:
        prepare(root, **options)
    assert state(root) == before
    return caught.value


@pytest.mark.usefixtures("complete")
def test_data_folder_is_complete(root: Path) -> None:
    before = state(root)
    seen: list[tuple[int, int]] = []
    made = prepare_cityscapes(root, progress=lambda done, total: seen.append((done, total)))
    assert (made.out, made.counts, made.cities) == (root, COUNTS, CITIES)
    assert (made.unchanged, made.left_out) == (False, 0)
    assert seen == [(n, 6) for n in range(1, 7)]
    after = state(root)
    assert before.items() <= after.items()  # the release is unchanged
    labels = {name.replace("labelIds", "trainIds") for name in before if "labelIds" in name}
    labels = {name for name in labels if "/test/" not in name}
    assert set(after) - set(before) == {*labels, *LISTS, "info.json"}

    folder = ListDataset.open(root)
    for split in ("train", "val"):
        samples = folder.samples(split)
        assert len(samples) == COUNTS[split]
        for sample in samples:
            stem = sample.image.name.removesuffix("_leftImg8bit.png")
            assert sample.label is not None
            assert sample.label.name == f"{stem}_gtFine_trainIds.png"
            assert sample.label.parent.name == sample.image.parent.name
            ids = np.asarray(Image.open(sample.label.with_name(f"{stem}_gtFine_labelIds.png")))
            assert np.array_equal(read_label(sample.label), cityscapes_train_ids()[ids])
    assert len(folder.samples("test", labels=False)) == 1
    assert folder.statistics() == CITYSCAPES
    assert folder.class_set(19) == cityscapes()
    assert read_json(root / "info.json")["dataset"] == "cityscapes"
    for name in LISTS:
        assert lines(root / name) == sorted(lines(root / name))


def test_license_plates_and_unknown_ids_become_255(root: Path) -> None:
    prepare(root)
    ids = read_label(root / TRAIN.format(0, "labelIds"))
    mapped = read_label(root / TRAIN.format(0, "trainIds"))
    assert set(mapped[(ids > 33) | (ids < 7)].tolist()) == {255}
    assert mapped[ids == 7].max() == 0
    assert mapped[ids == 33].min() == 18
    assert set(np.unique(mapped).tolist()) == {*range(19), 255}


def test_second_run_is_a_no_op(root: Path) -> None:
    prepare(root)
    before = state(root)
    again = prepare(root, progress=lambda done, total: pytest.fail("no progress expected"))
    assert (again.unchanged, again.counts, again.cities) == (True, COUNTS, CITIES)
    assert state(root) == before


def test_converts_only_missing_truncated_or_outdated_train_ids(root: Path) -> None:
    prepare(root)
    before = state(root)
    gone, cut = root / TRAIN.format(0, "trainIds"), root / TRAIN.format(1, "trainIds")
    old = root / "gtFine/val/gridley/gridley_000001_000019_gtFine_trainIds.png"
    gone.unlink()
    cut.write_bytes(cut.read_bytes()[:-5])
    os.utime(old, (100, 100))
    stray = gone.with_name(f".{gone.name}.0123abcd.tmp")
    stray.touch()
    seen: list[tuple[int, int]] = []
    again = prepare(root, progress=lambda done, total: seen.append((done, total)))
    assert not again.unchanged
    assert seen == [(1, 3), (2, 3), (3, 3)]
    after = state(root)
    assert {name for name in after if after[name] != before[name]} == {
        str(path.relative_to(root)) for path in (gone, cut, old)
    }
    assert {name: data for name, (_, data) in after.items()} == {
        name: data for name, (_, data) in before.items()
    }
    assert not stray.exists()


def test_rewrites_removed_or_edited_lists(root: Path) -> None:
    prepare(root)
    before = state(root)
    (root / "val_labels.txt").unlink()
    (root / "train_images.txt").write_text("edited")
    assert not prepare(root).unchanged
    after = state(root)
    assert {name: data for name, (_, data) in after.items()} == {
        name: data for name, (_, data) in before.items()
    }
    assert after["info.json"] == before["info.json"]


def test_changed_image_updates_the_fingerprint(root: Path) -> None:
    prepare(root)
    before = read_json(root / "info.json")["made_from"]
    os.utime(root / IMAGE, (100, 100))
    assert not prepare(root).unchanged
    assert read_json(root / "info.json")["made_from"] != before
    assert prepare(root).unchanged


def test_uses_train_ids_of_the_official_scripts(root: Path) -> None:
    for path in list(root.glob("gtFine/train/*/*_labelIds.png")):
        ids = cityscapes_train_ids()[read_label(path)]
        Image.fromarray(ids).save(str(path).replace("labelIds", "labelTrainIds"))
    prepare(root)
    assert lines(root / "train_labels.txt")[0] == TRAIN.format(0, "labelTrainIds")
    assert not list(root.glob("gtFine/train/*/*_trainIds.png"))
    assert len(list(root.glob("gtFine/val/*/*_trainIds.png"))) == 2
    assert prepare(root).unchanged
    ours = root / TRAIN.format(0, "trainIds")
    shutil.copy(root / TRAIN.format(0, "labelTrainIds"), ours)
    prepare(root)
    assert lines(root / "train_labels.txt")[0] == TRAIN.format(0, "trainIds")


def test_uses_train_ids_without_label_ids(root: Path) -> None:
    path = root / TRAIN.format(0, "labelIds")
    ids = cityscapes_train_ids()[read_label(path)]
    Image.fromarray(ids).save(str(path).replace("labelIds", "trainIds"))
    path.unlink()
    assert prepare(root).counts == COUNTS
    assert lines(root / "train_labels.txt")[0] == TRAIN.format(0, "trainIds")


@pytest.mark.parametrize(("suffix", "bits"), [("16-bit", np.uint16), ("palette", np.uint8)])
def test_reads_16_bit_and_palette_label_ids(root: Path, suffix: str, bits: type) -> None:
    path = root / TRAIN.format(1, "labelIds")
    ids = read_label(path)
    image = Image.fromarray(ids.astype(bits))
    if suffix == "palette":
        image.putpalette(cityscapes().palette())
    image.save(path)
    prepare(root)
    mapped = read_label(root / TRAIN.format(1, "trainIds"))
    assert np.array_equal(mapped, cityscapes_train_ids()[ids])


def test_incomplete_zips_are_not_unpacked(zips: Path, tmp_path: Path) -> None:
    with pytest.raises(DrnError, match="Cityscapes is incomplete"):
        prepare_cityscapes(tmp_path / "out", zips=zips)
    assert not (tmp_path / "out").exists()


@pytest.mark.usefixtures("complete")
def test_image_without_a_label_raises_or_is_left_out(root: Path) -> None:
    (root / TRAIN.format(0, "labelIds")).unlink()
    with pytest.raises(DrnError, match="label is missing") as caught:
        prepare_cityscapes(root)
    assert str(root / IMAGE) in caught.value.message
    assert TRAIN.format(0, "labelIds") in caught.value.message
    made = prepare(root)
    assert (made.counts["train"], made.left_out) == (2, 1)
    assert IMAGE not in lines(root / "train_images.txt")
    assert len(lines(root / "train_labels.txt")) == 2


def test_split_without_images_has_no_lists(root: Path) -> None:
    prepare(root)
    shutil.rmtree(root / "leftImg8bit" / "val")
    made = prepare(root)
    assert made.counts == {**COUNTS, "val": 0}
    assert sorted(path.name for path in root.glob("*.txt")) == LISTS[:3]


def test_test_images_alone_need_no_labels(root: Path) -> None:
    shutil.rmtree(root / "gtFine")
    shutil.rmtree(root / "leftImg8bit" / "train")
    made = prepare(root)
    assert (made.counts, made.left_out) == ({"train": 0, "val": 0, "test": 1}, 2)
    assert [path.name for path in root.glob("*.txt")] == ["test_images.txt"]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("info.json", '{"mean": [0, 0, 0], "std": [1, 1, 1]}'),
        ("info.json", '{"made_from": "abc", "dataset": "camvid"}'),
        ("info.json", "[1"),
        ("val_images.txt", "mine.png\n"),
        ("val_labels.txt", ""),
    ],
)
def test_force_replaces_lists_of_other_origin(root: Path, name: str, text: str) -> None:
    (root / name).write_text(text)
    error = fails(root, "was not written by this command")
    assert str(root / name) in error.message
    assert "--force" in str(error.hint)
    before = state(root)
    assert not prepare(root, force=True).unchanged
    after = state(root)
    assert {key for key in before if after[key] != before[key]} == {name}
    assert prepare(root).unchanged


def test_equal_lists_of_other_origin_are_accepted(root: Path) -> None:
    prepare(root)
    (root / "info.json").unlink()
    before = state(root)
    assert not prepare(root).unchanged
    assert before.items() <= state(root).items()


def test_writes_lists_to_another_folder(root: Path, tmp_path: Path) -> None:
    (root / "info.json").write_text("{}")
    lists = tmp_path / "new" / "lists"
    prepare(root, lists=lists)
    assert sorted(path.name for path in lists.iterdir()) == ["info.json", *LISTS]
    assert sorted(path.name for path in root.iterdir()) == ["gtFine", "info.json", "leftImg8bit"]
    assert len(ListDataset.open(root, lists).samples("train")) == 3
    assert prepare(root, lists=lists).unchanged


def test_read_only_folder(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """os.access is replaced, because root may write anywhere."""
    monkeypatch.setattr(prepare_module.os, "access", lambda *_, **__: False)
    error = fails(root, "not writable, but the train ids of 5 labels belong there")
    assert error.message.startswith(f"{root}: ")
    for path in list(root.rglob("*_labelIds.png")):
        ids = cityscapes_train_ids()[read_label(path)]
        Image.fromarray(ids).save(str(path).replace("labelIds", "labelTrainIds"))
        path.unlink()
    error = fails(root, "not writable")
    assert error.message == f"{root}: not writable"
    assert "--lists" in str(error.hint)


def test_train_ids_in_a_copy_of_links(root: Path, tmp_path: Path) -> None:
    before = state(root)
    copy = tmp_path / "links"
    shutil.copytree(root, copy, copy_function=lambda source, to: Path(to).symlink_to(source))
    assert prepare(copy).counts == COUNTS
    assert state(root) == before
    assert len(list(copy.rglob("*_trainIds.png"))) == 5


@pytest.mark.parametrize("name", [IMAGE, TRAIN.format(0, "labelIds")])
def test_broken_file(root: Path, name: str) -> None:
    (root / name).write_bytes((root / name).read_bytes()[:-30])
    with pytest.raises(DrnError, match="broken image") as caught:
        prepare(root)
    assert str(root / name) in caught.value.message
    assert not (root / "info.json").exists()


@pytest.mark.parametrize("kind", ["labelIds", "labelTrainIds"])
def test_label_of_another_size(root: Path, kind: str) -> None:
    path = root / TRAIN.format(1, kind)
    Image.fromarray(np.zeros((47, 96), np.uint8)).save(path)
    with pytest.raises(DrnError, match=r"is 96x47, its image .* is 96x48") as caught:
        prepare(root)
    assert str(path) in caught.value.message


@pytest.mark.parametrize(
    ("value", "kind", "files", "message"),
    [
        (20, "labelTrainIds", 9, "contains the value 20 .4,608 px.; train ids are 0 to 18, or 255"),
        (20, "labelTrainIds", 1, "contains the value 20 .4,608 px.; train ids are 0 to 18, or 255"),
        (255, "labelTrainIds", 9, "the labels contain no class, only void; training needs"),
        (0, "labelTrainIds", 9, "the labels contain only the class road; training needs"),
        (0, "labelIds", 9, "the labels contain no class, only void; training needs"),
        (7, "labelIds", 9, "the labels contain only the class road; training needs"),
    ],
)
def test_labels_need_two_classes(
    root: Path, value: int, kind: str, files: int, message: str
) -> None:
    for path in sorted(root.glob("gtFine/*/*/*_labelIds.png"))[-files:]:
        label = Image.fromarray(np.full((48, 96), value, np.uint8))
        label.save(str(path).replace("labelIds", kind))
    fails(root, message)


@pytest.mark.usefixtures("complete")
def test_zips_equal_folders(root: Path, release: Path, zips: Path, tmp_path: Path) -> None:
    before = state(zips)
    out = tmp_path / "unpacked"
    seen: list[tuple[int, int]] = []
    made = prepare_cityscapes(
        out, zips=zips, progress=lambda done, total: seen.append((done, total))
    )
    assert (made.counts, made.cities, made.unchanged) == (COUNTS, CITIES, False)
    assert seen == [(n, 6 + 5 + 6) for n in range(1, 18)]
    assert state(zips) == before
    prepare_cityscapes(root)
    unpacked, plain = state(out), state(root)
    needless = {name for name in plain if "instanceIds" in name or "polygons" in name}
    needless |= {name for name in plain if name.startswith("gtFine/test/")}
    assert set(unpacked) == set(plain) - needless
    assert all(unpacked[name][1] == plain[name][1] for name in set(unpacked) - {"info.json"})
    assert prepare_cityscapes(out).unchanged


def test_one_folder_and_one_zip_in_the_data_folder(root: Path, zips: Path) -> None:
    shutil.rmtree(root / "gtFine")
    shutil.copy(zips / "gtFine_trainvaltest.zip", root)
    (root / "leftImg8bit_trainvaltest.zip").write_bytes(b"not looked at")
    assert prepare(root).counts == COUNTS
    assert prepare(root).unchanged


def test_png_size_without_decoding(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    Image.fromarray(np.zeros((300, 70), np.uint8)).save(path)
    assert png_size(path) == (70, 300)
    whole = path.read_bytes()
    for broken in (b"", b"short", whole[:-1], b"X" + whole[1:], whole[:40]):
        path.write_bytes(broken)
        with pytest.raises(DrnError, match=r"a\.png: broken image"):
            png_size(path)
    with pytest.raises(DrnError, match="no such file"):
        png_size(tmp_path / "absent.png")

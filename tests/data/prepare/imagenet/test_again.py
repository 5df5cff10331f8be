"""An existing data folder of ImageNet: complete, partial, or with other contents."""

import io
import os
import shutil
import tarfile
from collections.abc import Iterable
from pathlib import Path

import pytest

from drn_cli.data.class_folders import FolderDataset
from drn_cli.data.prepare.imagenet.preparing import prepare_imagenet
from drn_cli.errors import DrnError
from drn_cli.files import read_json

TENCH, GOLDFISH, CRANE = "n01440764", "n01443537", "n02012849"
WNIDS = (TENCH, GOLDFISH, CRANE)
OF_VAL = (CRANE, TENCH, GOLDFISH, GOLDFISH, CRANE)


def image(seed: int) -> bytes:
    """Return bytes with the start and end markers of a JPEG."""
    return b"\xff\xd8\xff" + bytes([seed]) * (100 + seed) + b"\xff\xd9"


def tar(files: Iterable[tuple[str, bytes]]) -> bytes:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as archive:
        for name, data in files:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return made.getvalue()


def write(root: Path, files: dict[str, bytes | str]) -> Path:
    for name, data in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data.encode() if isinstance(data, str) else data)
    return root


def val_name(number: int) -> str:
    return f"ILSVRC2012_val_{number:08d}"


def solution(*numbers: int) -> str:
    rows = [f"{val_name(n)},{OF_VAL[n - 1]} 1 2 20 10 \n" for n in numbers]
    return f"ImageId,PredictionString\n{''.join(rows)}"


EXPECTED_TRAIN = {
    f"{wnid}/{wnid}_{n}.JPEG": image(10 * WNIDS.index(wnid) + n)
    for wnid in WNIDS
    for n in (1, 2, 3)
}
EXPECTED_VAL = {
    f"{wnid}/{val_name(n)}.JPEG": image(100 + n) for n, wnid in enumerate(OF_VAL, start=1)
}


@pytest.fixture
def archives(tmp_path: Path) -> Path:
    """Archives of both splits, with classes and boxes."""
    classes: dict[str, list[tuple[str, bytes]]] = {}
    for path, data in EXPECTED_TRAIN.items():
        wnid, name = path.split("/")
        classes.setdefault(wnid, []).append((name, data))
    flat = [(path.split("/")[1], data) for path, data in EXPECTED_VAL.items()]
    return write(
        tmp_path / "downloads",
        {
            "ILSVRC2012_img_train.tar": tar(
                (f"{wnid}.tar", tar(files)) for wnid, files in classes.items()
            ),
            "ILSVRC2012_img_val.tar": tar(sorted(flat)),
            "LOC_val_solution.csv": solution(1, 2, 3, 4, 5),
        },
    )


@pytest.fixture
def unpacked(tmp_path: Path) -> Path:
    """The same images in class folders."""
    train = {f"train/{path}": data for path, data in EXPECTED_TRAIN.items()}
    val = {f"val/{path}": data for path, data in EXPECTED_VAL.items()}
    return write(tmp_path / "unpacked", {**train, **val})


def state(folder: Path) -> dict[str, tuple[int, int, bytes]]:
    return {
        str(path.relative_to(folder)): (
            path.stat().st_mtime_ns,
            path.stat().st_ino,
            path.read_bytes(),
        )
        for path in folder.rglob("*")
        if path.is_file()
    }


def images_in(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*.JPEG")}


def test_second_run_is_a_no_op(archives: Path, tmp_path: Path) -> None:
    out = tmp_path / "imagenet"
    first = prepare_imagenet(archives, out, partial_copy=True)
    before = state(out)
    again = prepare_imagenet(archives, out, partial_copy=True)
    assert again.unchanged
    assert (again.counts, again.classes, again.boxes) == (first.counts, first.classes, first.boxes)
    assert state(out) == before


def test_adds_new_splits_and_keeps_removed_ones(archives: Path, tmp_path: Path) -> None:
    val, out = archives / "ILSVRC2012_img_val.tar", tmp_path / "imagenet"
    shutil.move(val, tmp_path)
    made = prepare_imagenet(archives, out, partial_copy=True)
    assert made.counts == {"train": 9}
    assert "ILSVRC2012_img_val.tar" in made.missing["val"]
    before = state(out / "train")
    shutil.move(tmp_path / val.name, val)
    (archives / "ILSVRC2012_img_train.tar").unlink()
    made = prepare_imagenet(archives, out, partial_copy=True)
    assert (made.counts, made.boxes) == ({"train": 9, "val": 5}, 5)
    assert state(out / "train") == before
    assert images_in(out / "val") == EXPECTED_VAL


def test_truncated_archive_keeps_finished_images(archives: Path, tmp_path: Path) -> None:
    path, out = archives / "ILSVRC2012_img_train.tar", tmp_path / "imagenet"
    whole = path.read_bytes()
    start = whole.index(EXPECTED_TRAIN[f"{GOLDFISH}/{GOLDFISH}_2.JPEG"])
    path.write_bytes(whole[: start + 20])
    with pytest.raises(DrnError) as caught:
        prepare_imagenet(archives, out, partial_copy=True)
    message = f"{path}: {GOLDFISH}.tar: truncated or damaged in {GOLDFISH}_2.JPEG"
    assert caught.value.message == message
    kept = {p: d for p, d in EXPECTED_TRAIN.items() if TENCH in p or f"{GOLDFISH}_1." in p}
    assert images_in(out / "train") == kept
    assert not (out / "info.json").exists()
    before = state(out / "train")
    path.rename(tmp_path / path.name)
    with pytest.raises(DrnError, match="train: is incomplete"):
        prepare_imagenet(archives, out, partial_copy=True)
    path.write_bytes(whole)
    assert prepare_imagenet(archives, out, partial_copy=True).counts == {"train": 9, "val": 5}
    assert images_in(out / "train") == EXPECTED_TRAIN
    after = state(out / "train")
    assert {name: after[name] for name in before} == before


def test_resumes_an_interrupted_run(archives: Path, tmp_path: Path) -> None:
    out, steps = tmp_path / "imagenet", iter(range(100))

    def interrupt(done: int, total: int) -> None:
        if next(steps) == 10:  # in the second split
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prepare_imagenet(archives, out, partial_copy=True, progress=interrupt)
    assert not (out / "info.json").exists()
    unfinished = read_json(out / "unfinished.json")
    assert unfinished["counts"] == {"train": 9}
    before = {name: found for name, found in state(out).items() if name.endswith(".JPEG")}
    assert len(before) == 11
    broken = out / "val" / CRANE / f"{val_name(1)}.JPEG"
    broken.write_bytes(b"")  # as after a power failure
    (out / "train" / TENCH / ".x.JPEG.0123abcd.tmp").touch()
    made = prepare_imagenet(archives, out, partial_copy=True)
    assert (made.counts, made.unchanged) == ({"train": 9, "val": 5}, False)
    after = state(out)
    assert images_in(out / "val") == EXPECTED_VAL
    same = [name for name in before if broken.name not in name]
    assert {name: after[name] for name in same} == {name: before[name] for name in same}
    assert not [name for name in after if name.endswith(".tmp") or "unfinished" in name]


def test_resumes_interrupted_linking(unpacked: Path, tmp_path: Path) -> None:
    out, steps = tmp_path / "imagenet", iter(range(100))

    def interrupt(done: int, total: int) -> None:
        if next(steps) == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prepare_imagenet(unpacked, out, partial_copy=True, progress=interrupt)
    assert 5 <= len(images_in(out)) < 14
    assert prepare_imagenet(unpacked, out, partial_copy=True).counts == {"train": 9, "val": 5}
    assert images_in(out / "train") == EXPECTED_TRAIN


def test_folder_is_incomplete_while_a_split_is_added(archives: Path, tmp_path: Path) -> None:
    def interrupt(done: int, total: int) -> None:
        raise KeyboardInterrupt

    val, out = archives / "ILSVRC2012_img_val.tar", tmp_path / "imagenet"
    shutil.move(val, tmp_path)
    prepare_imagenet(archives, out, partial_copy=True)
    shutil.move(tmp_path / val.name, val)
    with pytest.raises(KeyboardInterrupt):
        prepare_imagenet(archives, out, partial_copy=True, progress=interrupt)
    assert not (out / "info.json").exists()
    assert prepare_imagenet(archives, out, partial_copy=True).counts == {"train": 9, "val": 5}


def test_incomplete_split_without_its_source(archives: Path, tmp_path: Path) -> None:
    def interrupt(done: int, total: int) -> None:
        raise KeyboardInterrupt

    out = tmp_path / "imagenet"
    with pytest.raises(KeyboardInterrupt):
        prepare_imagenet(archives, out, partial_copy=True, progress=interrupt)
    (archives / "ILSVRC2012_img_train.tar").unlink()
    with pytest.raises(DrnError, match="train: is incomplete"):
        prepare_imagenet(archives, out, partial_copy=True)


def test_restores_removed_parts(archives: Path, tmp_path: Path) -> None:
    out = tmp_path / "imagenet"
    prepare_imagenet(archives, out, partial_copy=True)
    before = state(out / "train")
    shutil.rmtree(out / "val")
    (out / "val_boxes.csv").unlink()
    made = prepare_imagenet(archives, out, partial_copy=True)
    assert (made.unchanged, made.boxes) == (False, 5)
    assert images_in(out / "val") == EXPECTED_VAL
    assert state(out / "train") == before


@pytest.mark.parametrize("which", ["archive", "folder"])
def test_changed_source_is_refused(
    archives: Path, unpacked: Path, tmp_path: Path, which: str
) -> None:
    source = archives if which == "archive" else unpacked
    out = tmp_path / "imagenet"
    prepare_imagenet(source, out, partial_copy=True)
    before = state(out)
    changed = archives / "ILSVRC2012_img_train.tar"
    if which == "folder":
        # As many files as before, in the same order.
        changed = unpacked / "train" / TENCH / f"{TENCH}_0.JPEG"
        changed.with_name(f"{TENCH}_1.JPEG").rename(changed)
    else:
        os.utime(changed, (1, 1))
    with pytest.raises(DrnError, match="made from other source files") as caught:
        prepare_imagenet(source, out, partial_copy=True)
    assert caught.value.message.startswith(str(out / "train"))
    assert state(out) == before


def test_updates_names_and_boxes(archives: Path, tmp_path: Path) -> None:
    out = tmp_path / "imagenet"
    prepare_imagenet(archives, out, partial_copy=True)
    before = state(out / "val")
    more = solution(5, 4, 3, 2, 1).replace("10 \n", f"10 {TENCH} 1 2 3 4\n", 1)
    write(archives, {"LOC_synset_mapping.txt": f"{TENCH} a fish\n", "LOC_val_solution.csv": more})
    made = prepare_imagenet(archives, out, partial_copy=True)
    assert (made.unchanged, made.boxes) == (False, 6)
    assert FolderDataset.open(out).names == ("a fish", "goldfish", "crane bird")
    assert state(out / "val") == before


def test_changed_classes_are_refused(archives: Path, tmp_path: Path) -> None:
    out = tmp_path / "imagenet"
    prepare_imagenet(archives, out, partial_copy=True)
    text = solution(1, 2, 3, 4, 5).replace(TENCH, CRANE)
    write(archives, {"LOC_val_solution.csv": text})
    with pytest.raises(DrnError, match="val: was made from other source files"):
        prepare_imagenet(archives, out, partial_copy=True)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("notes.txt", "mine"),
        ("info.json", '{"mean": [0, 0, 0]}'),
        ("info.json", '{"dataset": "imagenet", "made_from": []}'),
        ("info.json", "[1]"),
    ],
)
def test_folder_with_other_contents_is_refused(
    archives: Path, tmp_path: Path, name: str, text: str
) -> None:
    out = write(tmp_path / "out", {name: text})
    with pytest.raises(DrnError, match="something other than an ImageNet"):
        prepare_imagenet(archives, out, partial_copy=True)
    assert {path.name: path.read_text() for path in out.iterdir()} == {name: text}


def test_file_as_data_folder(archives: Path, tmp_path: Path) -> None:
    (tmp_path / "out").touch()
    with pytest.raises(DrnError, match="something other"):
        prepare_imagenet(archives, tmp_path / "out", partial_copy=True)


def test_data_folder_and_source_overlap(archives: Path) -> None:
    for out in (archives, archives.parent):
        with pytest.raises(DrnError, match="is or contains the source folder"):
            prepare_imagenet(archives, out, partial_copy=True)
    # Below it is fine, and what is made there is not taken for a source.
    (archives / "ILSVRC2012_img_train.tar").unlink()
    out = archives / "data" / "imagenet"
    prepare_imagenet(archives, out, partial_copy=True)
    write(out, {f"train/{TENCH}/x.JPEG": image(1)})
    assert prepare_imagenet(archives, out, partial_copy=True).unchanged


def test_fills_an_empty_folder(archives: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    assert prepare_imagenet(archives, out, partial_copy=True).counts == {"train": 9, "val": 5}

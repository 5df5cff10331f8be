"""Preparation of ImageNet from archives and folders with a few tiny images."""

import gzip
import io
import shutil
import tarfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from drn_cli.data.class_folders import FolderDataset
from drn_cli.data.folders import IMAGENET
from drn_cli.data.prepare.imagenet import preparing as imagenet
from drn_cli.data.prepare.imagenet.preparing import prepare_imagenet
from drn_cli.errors import DrnError
from drn_cli.files import read_json

TENCH, GOLDFISH, CRANE = "n01440764", "n01443537", "n02012849"
WNIDS = (TENCH, GOLDFISH, CRANE)
# Classes of the devkit's numbers 1, 2 and 3; not in sorted order.
NUMBERED = (CRANE, TENCH, GOLDFISH)
TRUTH = (1, 2, 3, 3, 1)
XML = (
    "<annotation><object><name>{}</name><bndbox><xmin>1</xmin><xmax>20</xmax>"
    "<ymin>2</ymin><ymax>10</ymax></bndbox></object></annotation>"
)


def image(seed: int, kind: str = "JPEG", mode: str = "RGB") -> bytes:
    """Encode an image of noise, 12x8."""
    noise = np.random.default_rng(seed).integers(0, 256, (8, 12, 3)).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(noise).convert(mode).save(file, kind)
    return file.getvalue()


def tar(files: Iterable[tuple[str, bytes]]) -> bytes:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as archive:
        for name, data in files:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return made.getvalue()


def train_images(wnid: str) -> dict[str, bytes]:
    seed = WNIDS.index(wnid) * 10
    return {
        f"{wnid}_1.JPEG": image(seed),
        f"{wnid}_2.JPEG": image(seed + 1, "PNG"),
        f"{wnid}_3.JPEG": image(seed + 2, mode="CMYK"),
    }


def val_name(number: int) -> str:
    return f"ILSVRC2012_val_{number:08d}"


VAL = {f"{val_name(n)}.JPEG": image(100 + n) for n in range(1, len(TRUTH) + 1)}


def train_tar(**more: dict[str, bytes]) -> bytes:
    return tar(
        (f"{wnid}.tar", tar({**train_images(wnid), **more.get(wnid, {})}.items())) for wnid in WNIDS
    )


def meta() -> bytes:
    """Write meta.mat with the classes and one parent node, which is not a class."""
    from scipy.io import savemat

    fields = ("ILSVRC2012_ID", "WNID", "words", "gloss", "num_children")
    rows = [
        (number, wnid, f"words of {wnid}, and more", "what it is", 0)
        for number, wnid in enumerate(NUMBERED, start=1)
    ]
    rows.append((4, "n00001740", "entity", "that which is", 3))
    synsets = np.array(rows, dtype=[(name, object) for name in fields])
    file = io.BytesIO()
    savemat(file, {"synsets": synsets.reshape(-1, 1)})
    return file.getvalue()


def devkit(truth: str = "".join(f"{number}\n" for number in TRUTH)) -> bytes:
    data = "ILSVRC2012_devkit_t12/data"
    files = {
        f"{data}/meta.mat": meta(),
        f"{data}/ILSVRC2012_validation_ground_truth.txt": truth.encode(),
    }
    return gzip.compress(tar(files.items()))


def boxes() -> bytes:
    files = {f"val/{val_name(n)}.xml": XML.format(wnid_of(n)).encode() for n in (1, 2)}
    return gzip.compress(tar(files.items()))


def wnid_of(number: int) -> str:
    return NUMBERED[TRUTH[number - 1] - 1]


def write(root: Path, files: dict[str, bytes | str]) -> Path:
    for name, data in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data.encode() if isinstance(data, str) else data)
    return root


@pytest.fixture
def archives(tmp_path: Path) -> Path:
    """All archives, as distributed."""
    return write(
        tmp_path / "downloads",
        {
            "ILSVRC2012_img_train.tar": train_tar(),
            "ILSVRC2012_img_val.tar": tar(VAL.items()),
            "ILSVRC2012_devkit_t12.tar.gz": devkit(),
            "ILSVRC2012_bbox_val_v3.tgz": boxes(),
        },
    )


@pytest.fixture
def kaggle(tmp_path: Path) -> Path:
    """The layout of Kaggle, with two boxes in one image."""
    rows = [f"{val_name(n)},{wnid_of(n)} 1 2 20 10 \n" for n in range(2, len(TRUTH) + 1)]
    first = f"{wnid_of(1)} 1 2 20 10 {wnid_of(1)} 3 3 5 6"
    data = "ILSVRC/Data/CLS-LOC"
    train = {
        f"{data}/train/{wnid}/{name}": content
        for wnid in WNIDS
        for name, content in train_images(wnid).items()
    }
    return write(
        tmp_path / "kaggle",
        {
            **train,
            **{f"{data}/val/{name}": content for name, content in VAL.items()},
            f"{data}/test/ILSVRC2012_test_00000001.JPEG": image(0),
            **{
                f"ILSVRC/Annotations/CLS-LOC/train/{wnid}/{wnid}_1.xml": XML.format(wnid)
                for wnid in WNIDS
            },
            f"ILSVRC/Annotations/CLS-LOC/val/{val_name(1)}.xml": XML.format(wnid_of(1)),
            "LOC_val_solution.csv": "ImageId,PredictionString\n"
            f"{val_name(1)},{first}\n{''.join(rows)}",
            "LOC_synset_mapping.txt": "".join(f"{wnid} kaggle {wnid}, so\n" for wnid in WNIDS),
        },
    )


@pytest.fixture
def complete(monkeypatch: pytest.MonkeyPatch) -> None:
    """Expect as many classes and images as the fixture has."""
    monkeypatch.setattr(imagenet, "CLASSES", 3)
    monkeypatch.setattr(imagenet, "EXPECTED", {"train": 9, "val": 5})


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


EXPECTED_TRAIN = {
    f"{wnid}/{name}": data for wnid in WNIDS for name, data in train_images(wnid).items()
}
EXPECTED_VAL = {f"{wnid_of(int(name[15:23]))}/{name}": data for name, data in VAL.items()}


@pytest.mark.usefixtures("complete")
def test_prepares_archives(archives: Path, tmp_path: Path) -> None:
    before, out = state(archives), tmp_path / "made" / "imagenet"
    seen: list[tuple[int, int]] = []
    made = prepare_imagenet(archives, out, progress=lambda *done: seen.append(done))
    assert (made.counts, made.classes) == ({"train": 9, "val": 5}, {"train": 3, "val": 3})
    assert (made.corrupt, made.boxes, made.missing, made.unchanged) == ((), 2, {}, False)
    assert len(seen) == 14
    assert images_in(out / "train") == EXPECTED_TRAIN
    assert images_in(out / "val") == EXPECTED_VAL
    folder = FolderDataset.open(out)
    assert folder.folders == WNIDS
    assert folder.names == tuple(f"words of {wnid}, and more" for wnid in WNIDS)
    targets = [(sample.image.name, sample.target) for sample in folder.samples("val")]
    assert sorted(targets) == [
        (name, WNIDS.index(wnid_of(n))) for n, name in enumerate(sorted(VAL), start=1)
    ]
    assert (out / "val_boxes.csv").read_text() == (
        "image,wnid,xmin,ymin,xmax,ymax\n"
        f"val/{CRANE}/{val_name(1)}.JPEG,{CRANE},1,2,20,10\n"
        f"val/{TENCH}/{val_name(2)}.JPEG,{TENCH},1,2,20,10\n"
    )
    info = read_json(out / "info.json")
    assert (tuple(info["mean"]), tuple(info["std"])) == (IMAGENET.mean, IMAGENET.std)
    assert (info["dataset"], info["counts"]) == ("imagenet", {"train": 9, "val": 5})
    top = {path.name for path in out.iterdir()}
    assert top == {"train", "val", "info.json", "val_boxes.csv"}
    assert state(archives) == before


@pytest.mark.usefixtures("complete")
def test_prepares_kaggle_layout(kaggle: Path, tmp_path: Path) -> None:
    before, out = state(kaggle), tmp_path / "imagenet"
    made = prepare_imagenet(kaggle, out)
    assert (made.counts, made.boxes, made.missing) == ({"train": 9, "val": 5}, 6, {})
    assert images_in(out / "train") == EXPECTED_TRAIN
    assert images_in(out / "val") == EXPECTED_VAL
    source = kaggle / "ILSVRC/Data/CLS-LOC/train" / TENCH / f"{TENCH}_1.JPEG"
    assert (out / "train" / TENCH / source.name).samefile(source)
    names = FolderDataset.open(out).names
    assert names == tuple(f"kaggle {wnid}, so" for wnid in WNIDS)
    rows = (out / "val_boxes.csv").read_text().splitlines()
    assert rows[1:3] == [
        f"val/{CRANE}/{val_name(1)}.JPEG,{CRANE},1,2,20,10",
        f"val/{CRANE}/{val_name(1)}.JPEG,{CRANE},3,3,5,6",
    ]
    assert state(kaggle) == before
    assert prepare_imagenet(kaggle, out).unchanged


def test_reads_boxes_of_unpacked_xml(kaggle: Path, tmp_path: Path) -> None:
    (kaggle / "LOC_val_solution.csv").unlink()
    truth = tmp_path / "list.txt"
    truth.write_text("".join(f"{wnid_of(n)}\n" for n in range(1, 6)))
    out = tmp_path / "imagenet"
    made = prepare_imagenet(kaggle, out, partial_copy=True, truth=truth)
    assert made.boxes == 1
    assert images_in(out / "val") == EXPECTED_VAL
    assert prepare_imagenet(kaggle, out, partial_copy=True, truth=truth).unchanged


@pytest.mark.parametrize(
    ("name", "content"),
    [
        (f"train/{TENCH}/1.JPEG", image(1)),
        (f"val/{TENCH}/1.JPEG", image(1)),
        ("ILSVRC2012_img_train.tar", tar([(f"{TENCH}.tar", tar(train_images(TENCH).items()))])),
    ],
)
def test_single_class_is_refused(tmp_path: Path, name: str, content: bytes) -> None:
    source = write(tmp_path / "src", {name: content})
    with pytest.raises(DrnError, match=f"contain only the class {TENCH}; training needs"):
        prepare_imagenet(source, tmp_path / "out", partial_copy=True)
    assert not (tmp_path / "out").exists()


def test_val_class_folders_need_no_ground_truth(tmp_path: Path) -> None:
    source = write(
        tmp_path / "sorted", {f"val/{path}": data for path, data in EXPECTED_VAL.items()}
    )
    write(source, {f"val/{TENCH}/.DS_Store": "x", f"val/{TENCH}/notes.txt": "x"})
    out = tmp_path / "imagenet"
    made = prepare_imagenet(source, out, partial_copy=True)
    assert images_in(out) == {f"val/{path}": data for path, data in EXPECTED_VAL.items()}
    assert made.counts == {"val": 5}
    assert set(made.missing) == {"train", "boxes"}
    # Without names in the source, the shipped ones.
    assert FolderDataset.open(out).names == ("tench", "goldfish", "crane bird")


def test_corrupt_files_in_archives_are_left_out(tmp_path: Path) -> None:
    whole = image(7)
    more = {
        "cut.JPEG": whole[: len(whole) // 2],
        "empty.JPEG": b"",
        "words.JPEG": b"no image at all",
        "padded.JPEG": whole + bytes(100),
        "notes\n.txt": b"x",
    }
    files = {
        "ILSVRC2012_img_train.tar": tar(
            [
                ("readme", b"x"),
                (f"{TENCH}.tar", tar(more.items())),
                ("d/n1.tar", b"x"),
                (f"{CRANE}.tar", tar([("1.JPEG", whole)])),
            ]
        )
    }
    out = tmp_path / "imagenet"
    made = prepare_imagenet(write(tmp_path / "src", files), out, partial_copy=True)
    assert made.counts == {"train": 2}
    assert images_in(out) == {
        f"train/{TENCH}/padded.JPEG": whole + bytes(100),
        f"train/{CRANE}/1.JPEG": whole,
    }
    found = {line.split("\t")[1]: line.split("\t")[2] for line in made.corrupt}
    assert set(found) == {
        "readme",
        "d/n1.tar",
        f"{TENCH}.tar/cut.JPEG",
        f"{TENCH}.tar/empty.JPEG",
        f"{TENCH}.tar/words.JPEG",
        f"{TENCH}.tar/notes\\n.txt",
    }
    assert found[f"{TENCH}.tar/empty.JPEG"] == "empty"
    assert found[f"{TENCH}.tar/cut.JPEG"].startswith("broken image")
    assert found[f"{TENCH}.tar/words.JPEG"] == "not an image in a known format"
    assert tuple((out / "corrupt.txt").read_text().splitlines()) == made.corrupt
    assert read_json(out / "info.json")["corrupt"] == {"train": 6}
    again = prepare_imagenet(tmp_path / "src", out, partial_copy=True)
    assert (again.unchanged, again.corrupt) == (True, made.corrupt)


def test_corrupt_files_in_folders_are_left_out(tmp_path: Path) -> None:
    place = f"train/{TENCH}"
    source = write(
        tmp_path / "src",
        {
            f"{place}/good.JPEG": image(1),
            f"{place}/cut.JPEG": image(1)[:60],
            f"train/{CRANE}/1.JPEG": image(2),
        },
    )
    (source / place / "link.JPEG").symlink_to("nowhere")
    (source / place / "other.JPEG").symlink_to("good.JPEG")
    out = tmp_path / "imagenet"
    made = prepare_imagenet(source, out, partial_copy=True)
    assert [line.split("\t")[1].rpartition("/")[2] for line in made.corrupt] == [
        "cut.JPEG",
        "link.JPEG",
    ]
    assert sorted(path.name for path in (out / place).iterdir()) == ["good.JPEG", "other.JPEG"]
    assert not (out / place / "other.JPEG").is_symlink()


def test_follows_links_and_counts_files_left_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    disk = write(tmp_path / "disk2", {f"old/{TENCH}/1.JPEG": image(1), "more/2.JPEG": image(2)})
    files = ("notes.txt", "._1.JPEG", ".ipynb_checkpoints/1.JPEG", "again/1.JPEG")
    write(disk / "old" / TENCH, {name: image(3) for name in files})
    write(disk / "old", {"misc/3.JPEG": image(3), "loose.JPEG": image(4)})
    source = tmp_path / "src"
    source.mkdir()
    (source / "train").symlink_to(disk / "old")
    (disk / "old" / "n02012849").symlink_to(disk / "more")
    (source / "round").symlink_to(source)
    (source / "twice").symlink_to(disk / "old")
    out = tmp_path / "imagenet"
    for _ in range(2):
        caplog.clear()
        made = prepare_imagenet(source, out, partial_copy=True)
        assert made.counts == {"train": 2}
        assert made.left_out["train"].counts == {
            "image outside class folders": 1,
            "folder in a class folder": 1,
            "unsupported extension": 1,
            "folder of unknown class": 1,
        }
        assert f"{source}: left out: link to a folder above (cycle) 1 (round), " in caplog.text
        assert "link to a folder already searched 1 (twice)" in caplog.text
        assert f"{source / 'train'}: left out: " in caplog.text


def test_only_corrupt_files(tmp_path: Path) -> None:
    source = write(tmp_path / "src", {f"train/{wnid}/1.JPEG": b"x" for wnid in (TENCH, CRANE)})
    with pytest.raises(DrnError, match=r"no valid image in the source: .*1\.JPEG: not an image"):
        prepare_imagenet(source, tmp_path / "out", partial_copy=True)
    assert not (tmp_path / "out" / "info.json").exists()


@pytest.mark.usefixtures("complete")
@pytest.mark.parametrize(
    ("missing", "message", "hint"),
    [
        ("ILSVRC2012_img_train.tar", "contains no train images", "ILSVRC2012_img_train.tar"),
        ("ILSVRC2012_img_val.tar", "contains no val images", "ILSVRC2012_img_val.tar"),
        ("ILSVRC2012_devkit_t12.tar.gz", "no ground truth found", "LOC_val_solution.csv"),
    ],
)
def test_missing_archive(
    archives: Path, tmp_path: Path, missing: str, message: str, hint: str
) -> None:
    (archives / missing).unlink()
    with pytest.raises(DrnError, match=message) as caught:
        prepare_imagenet(archives, tmp_path / "out")
    assert hint in (caught.value.hint or "")
    assert not (tmp_path / "out").exists()


@pytest.mark.usefixtures("complete")
def test_incomplete_source_needs_partial(archives: Path, kaggle: Path, tmp_path: Path) -> None:
    path, out = archives / "ILSVRC2012_img_train.tar", tmp_path / "out"
    path.write_bytes(tar([(f"{TENCH}.tar", tar(train_images(TENCH).items()))]))
    with pytest.raises(DrnError, match="has 3 train images, ImageNet has 9") as caught:
        prepare_imagenet(archives, out)
    assert "--partial" in (caught.value.hint or "")
    assert not (out / "info.json").exists()
    before = state(out / "train")
    assert prepare_imagenet(archives, out, partial_copy=True).counts == {"train": 3, "val": 5}
    assert state(out / "train") == before
    with pytest.raises(DrnError, match="has 3 train images"):
        prepare_imagenet(archives, out)
    # The images of a folder are counted before anything is written.
    shutil.rmtree(kaggle / "ILSVRC/Data/CLS-LOC/train" / TENCH)
    with pytest.raises(DrnError, match="has 6 train images"):
        prepare_imagenet(kaggle, tmp_path / "other")
    assert not (tmp_path / "other").exists()


@pytest.mark.usefixtures("complete")
def test_too_few_classes(archives: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(imagenet, "CLASSES", 4)
    with pytest.raises(DrnError, match="has 3 classes, the train set of ImageNet has 4"):
        prepare_imagenet(archives, tmp_path / "out")


@pytest.mark.usefixtures("complete")
def test_ground_truth_of_another_length(archives: Path, tmp_path: Path) -> None:
    write(archives, {"ILSVRC2012_devkit_t12.tar.gz": devkit("1\n2\n3\n")})
    with pytest.raises(DrnError, match=r"has the classes of 3 images.* 5"):
        prepare_imagenet(archives, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_partial_val_images_are_matched_by_name(archives: Path, tmp_path: Path) -> None:
    (archives / "ILSVRC2012_img_train.tar").unlink()
    few = {name: VAL[name] for name in (f"{val_name(5)}.JPEG", f"{val_name(2)}.JPEG")}
    write(archives, {"ILSVRC2012_img_val.tar": tar(few.items())})
    out = tmp_path / "imagenet"
    made = prepare_imagenet(archives, out, partial_copy=True)
    assert images_in(out / "val") == {f"{wnid_of(int(n[15:23]))}/{n}": few[n] for n in few}
    assert made.boxes == 1


def test_empty_or_missing_source(tmp_path: Path) -> None:
    with pytest.raises(DrnError, match="nowhere: no such folder"):
        prepare_imagenet(tmp_path / "nowhere", tmp_path / "out")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DrnError, match="contains no images of ImageNet") as caught:
        prepare_imagenet(tmp_path / "empty", tmp_path / "out", partial_copy=True)
    assert "ILSVRC2012_img_train.tar" in (caught.value.hint or "")

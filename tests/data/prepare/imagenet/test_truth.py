"""Ground truth, class names and boxes of ImageNet, and errors in them."""

import gzip
import io
import os
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest

from drn_cli.data.classes import imagenet
from drn_cli.data.prepare.imagenet.boxes import Box, read_boxes
from drn_cli.data.prepare.imagenet.names import read_names, read_synsets
from drn_cli.data.prepare.imagenet.sources import find_sources
from drn_cli.data.prepare.imagenet.truth import read_truth
from drn_cli.errors import DrnError

TENCH, GOLDFISH, CRANE = "n01440764", "n01443537", "n02012849"
NAMES = [f"ILSVRC2012_val_{n:08d}" for n in (1, 2, 3)]
HEADER = "ImageId,PredictionString\n"


def meta(**other: object) -> bytes:
    from scipy.io import savemat

    fields = ("ILSVRC2012_ID", "WNID", "words", "gloss", "num_children")
    rows = [(1, CRANE, "crane", "", 0), (2, TENCH, "tench, fish", "", 0), (3, "x", "y", "", 2)]
    file = io.BytesIO()
    synsets = np.array(rows, dtype=[(name, object) for name in fields])
    savemat(file, other or {"synsets": synsets})
    return file.getvalue()


def tgz(files: dict[str, bytes]) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return gzip.compress(file.getvalue())


def write(root: Path, files: dict[str, bytes | str]) -> Path:
    for name, data in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data.encode() if isinstance(data, str) else data)
    return root


def truth(root: Path, files: dict[str, bytes | str]) -> dict[str, str]:
    return dict(read_truth(find_sources(write(root, files), root / "out")))


@pytest.mark.parametrize(
    "files",
    [
        {"devkit/data/ILSVRC2012_validation_ground_truth.txt": "2\n1\n", "meta.mat": "META"},
        {"ILSVRC2012_devkit_t12.tar.gz": "DEVKIT"},
        {"val_ground_truth.txt": "1\n2\n", "ILSVRC2012_devkit_t12.tar.gz": "DEVKIT"},
        {"a/b/imagenet_2012_validation_synset_labels.txt": f"{TENCH}\n\n{CRANE}"},
        {"ground_truth.txt": f"{NAMES[1]}.JPEG {CRANE}\nval/{NAMES[0]}.JPEG {TENCH}\n"},
        {"LOC_val_solution.csv": f"{HEADER}{NAMES[1]},{CRANE} 1 2 3 4\n{NAMES[0]},{TENCH} 1 2 3 4"},
    ],
)
def test_ground_truth_formats(tmp_path: Path, files: dict[str, bytes | str]) -> None:
    data = "ILSVRC2012_devkit_t12/data"
    devkit = {
        f"{data}/meta.mat": meta(),
        f"{data}/ILSVRC2012_validation_ground_truth.txt": b"2\n1\n",
    }
    special: dict[bytes | str, bytes] = {"META": meta(), "DEVKIT": tgz(devkit)}
    found = truth(tmp_path, {name: special.get(text, text) for name, text in files.items()})
    expected = {NAMES[0]: TENCH, NAMES[1]: CRANE}
    if "val_ground_truth.txt" in files:  # a separate list is preferred to that of the devkit
        expected = {NAMES[0]: CRANE, NAMES[1]: TENCH}
    assert found == expected


def test_truth_option_is_preferred(tmp_path: Path) -> None:
    write(
        tmp_path,
        {
            "LOC_val_solution.csv": f"{HEADER}{NAMES[0]},{CRANE} 1 2 3 4\n",
            "elsewhere/mine.txt": f"{GOLDFISH}\n",
            "elsewhere/mine.csv": f"{HEADER}{NAMES[0]},{TENCH} 1 2 3 4\n",
        },
    )
    for name, wnid in {"mine.txt": GOLDFISH, "mine.csv": TENCH}.items():
        sources = find_sources(tmp_path, tmp_path / "out", tmp_path / "elsewhere" / name)
        assert read_truth(sources) == {NAMES[0]: wnid}
    with pytest.raises(DrnError, match=r"nothing\.txt: no such file"):
        find_sources(tmp_path, tmp_path / "out", tmp_path / "nothing.txt")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "ground_truth.txt: is empty"),
        (f"{TENCH}\nfish\n", r":2: `fish` is neither a WNID nor"),
        (f"{TENCH}\na.JPEG {TENCH}\n", r":2: .* is neither"),
        (f"a.JPEG {TENCH} {TENCH}\n", r":1: .* is neither"),
        ("a.JPEG 65\n", r":1: .*is ambiguous; use the WNID"),
        (f"a.JPEG {TENCH}\na.JPEG {TENCH}\n", r":2: duplicate entry for a"),
        ("2\n3\n", r":2: 3 is not a class number of meta.mat"),
        ("2\n0\n", r":2: 0 is not a class number"),
        (b"\xff\xfe\x00", "not UTF-8 text"),
    ],
)
def test_invalid_ground_truth_names_the_line(
    tmp_path: Path, text: str | bytes, message: str
) -> None:
    with pytest.raises(DrnError, match=message) as caught:
        truth(tmp_path, {"ground_truth.txt": text, "meta.mat": meta()})
    assert str(tmp_path / "ground_truth.txt") in caught.value.message


def test_blank_lines_count_in_line_numbers(tmp_path: Path) -> None:
    with pytest.raises(DrnError, match=r"ground_truth\.txt:4: `fish`"):
        truth(tmp_path, {"ground_truth.txt": f"{TENCH}\n\n\nfish\n"})


def test_class_numbers_need_the_devkit(tmp_path: Path) -> None:
    with pytest.raises(DrnError, match=r"which need meta\.mat") as caught:
        truth(tmp_path, {"ground_truth.txt": "1\n"})
    assert "LOC_val_solution.csv" in (caught.value.hint or "")


def test_missing_scipy_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "scipy.io", None)
    with pytest.raises(DrnError, match="scipy") as caught:
        truth(tmp_path, {"ground_truth.txt": "1\n", "meta.mat": meta_without_import()})
    hint = caught.value.hint or ""
    assert "pip install 'drn-cli[imagenet]'" in hint
    assert "LOC_val_solution.csv" in hint


def meta_without_import() -> bytes:
    return b"is never read"


def test_missing_scipy_uses_shipped_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("drn_cli.data.prepare.imagenet.names.find_spec", lambda _: None)
    assert read_names(find_sources(write(tmp_path, {"meta.mat": b"x"}), tmp_path / "out")) == {}


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (
            {"meta.mat": b"no MATLAB file at all"},
            r"meta\.mat: cannot be read as meta\.mat of the devkit",
        ),
        ({"meta.mat": "OTHER"}, r"meta\.mat: cannot be read as meta\.mat of the devkit"),
        ({"ILSVRC2012_devkit_t12.tar.gz": tgz({"a": b""})}, "contains no ILSVRC2012_validation"),
        (
            {"ILSVRC2012_devkit_t12.tar.gz": tgz({"ILSVRC2012_validation_ground_truth.txt": b"1"})},
            r"contains no data/meta\.mat",
        ),
    ],
)
def test_invalid_devkit(tmp_path: Path, files: dict[str, bytes | str], message: str) -> None:
    if files.get("meta.mat") == "OTHER":
        files = {"meta.mat": meta(other=1)}
    if "meta.mat" in files:
        files = {**files, "ground_truth.txt": "1\n"}
    with pytest.raises(DrnError, match=message):
        truth(tmp_path, files)


def test_devkit_classes_have_no_children(tmp_path: Path) -> None:
    sources = find_sources(write(tmp_path, {"meta.mat": meta()}), tmp_path / "out")
    found = [(synset.number, synset.wnid, synset.words) for synset in read_synsets(sources)]
    assert found == [(1, CRANE, "crane"), (2, TENCH, "tench, fish")]
    assert read_names(sources) == {CRANE: "crane", TENCH: "tench, fish"}


@pytest.mark.parametrize(
    "text", ["tench\n", f"{TENCH}\n", f"\n{TENCH} a\n\nb", f"{TENCH} a\n{TENCH}_1 b\n"]
)
def test_invalid_list_of_names(tmp_path: Path, text: str) -> None:
    sources = find_sources(write(tmp_path, {"LOC_synset_mapping.txt": text}), tmp_path / "out")
    line = len(text.splitlines())
    with pytest.raises(DrnError, match=rf"LOC_synset_mapping\.txt:{line}: expected a WNID"):
        read_names(sources)


def test_shipped_names_are_unique() -> None:
    names = imagenet()
    assert len(names) == len(set(names.values())) == 1000
    assert list(names) == sorted(names)
    known = {
        TENCH: "tench",
        GOLDFISH: "goldfish",
        "n02099601": "golden retriever",
        "n02123045": "tabby",
        "n02504458": "African elephant",
        "n03126707": "crane",
        "n04485082": "tripod",
        "n07753592": "banana",
        "n15075141": "toilet tissue",
    }
    assert known.items() <= names.items()


XML = (
    "<annotation><filename>other</filename>"
    f"<object><name>{TENCH}</name><bndbox><xmin>1</xmin><ymin>2</ymin>"
    "<xmax>3</xmax><ymax>4</ymax></bndbox></object>"
    f"<object><name>{TENCH}</name><bndbox><ymax>8</ymax><xmax> 7 </xmax>"
    "<ymin>6</ymin><xmin>5.5</xmin></bndbox></object></annotation>"
)
BOXES = [Box(TENCH, ("1", "2", "3", "4")), Box(TENCH, ("5.5", "6", "7", "8"))]


def test_list_of_names_that_is_not_text(tmp_path: Path) -> None:
    sources = find_sources(write(tmp_path, {"LOC_synset_mapping.txt": b"\xff"}), tmp_path / "out")
    with pytest.raises(DrnError, match="not UTF-8 text"):
        read_names(sources)


@pytest.mark.parametrize(
    "files",
    [
        {f"bbox/val/{NAMES[0]}.xml": XML},
        {"ILSVRC2012_bbox_val_v3.tgz": tgz({f"val/{NAMES[0]}.xml": XML.encode()})},
        {"LOC_val_solution.csv": f"{HEADER}{NAMES[0]},{TENCH} 1 2 3 4 {TENCH} 5.5 6 7 8 \n"},
    ],
)
def test_box_formats(tmp_path: Path, files: dict[str, bytes | str]) -> None:
    sources = find_sources(write(tmp_path, files), tmp_path / "out")
    assert read_boxes(sources) == {NAMES[0]: BOXES}


def test_no_boxes(tmp_path: Path) -> None:
    assert read_boxes(find_sources(tmp_path, tmp_path / "out")) is None


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        (f"{NAMES[0]}.xml", "<annotation>", r"xml: not valid XML"),
        (f"{NAMES[0]}.xml", f"<!DOCTYPE a [<!ENTITY a 'aa'>]>{XML}", "contains a document type"),
        (
            f"{NAMES[0]}.xml",
            f"<!DOCTYPE a SYSTEM 'file:///etc/passwd'>{XML}",
            "contains a document",
        ),
        (f"{NAMES[0]}.xml", f"{XML}<!--{'x' * 10**6}-->", "more than 1,000,000"),
        (f"{NAMES[0]}.xml", XML.replace("5.5", "left"), "expected a WNID and four numbers"),
        (f"{NAMES[0]}.xml", XML.replace("<xmin>1</xmin>", ""), "expected a WNID and four"),
        (f"{NAMES[0]}.xml", XML.replace(TENCH, "tench"), "expected a WNID and four numbers"),
        ("LOC_val_solution.csv", "", r"csv:1: expected the header"),
        ("LOC_val_solution.csv", f"a,{TENCH} 1 2 3 4\n", r"csv:1: expected the header"),
        ("LOC_val_solution.csv", f"{HEADER}a,{TENCH} 1 2 3\n", r"csv:2: expected a WNID and four"),
        ("LOC_val_solution.csv", f"{HEADER}a,{TENCH} 1 2 3 x\n", r"csv:2: expected a WNID"),
        ("LOC_val_solution.csv", f"{HEADER}a\n", r"csv:2: expected an image and its boxes"),
        ("LOC_val_solution.csv", f"{HEADER}a, \n", r"csv:2: expected an image and its boxes"),
        (
            "LOC_val_solution.csv",
            f"{HEADER}a,{TENCH} 1 2 3 4\na,{TENCH} 1 2 3 4\n",
            r"csv:3: duplicate entry for a",
        ),
        ("LOC_val_solution.csv", b"\xff\xfe\x00", "csv:1: not UTF-8 text"),
    ],
)
def test_invalid_boxes(tmp_path: Path, name: str, text: str | bytes, message: str) -> None:
    sources = find_sources(write(tmp_path, {name: text}), tmp_path / "out")
    with pytest.raises(DrnError, match=message):
        read_boxes(sources)


def test_partly_sorted_val_folder(tmp_path: Path) -> None:
    write(tmp_path, {f"val/{TENCH}/{NAMES[0]}.JPEG": "x", f"val/{NAMES[1]}.JPEG": "x"})
    with pytest.raises(DrnError, match="some images are in class folders and some are not"):
        find_sources(tmp_path, tmp_path / "out")


def test_finds_sources_and_prefers_archives(tmp_path: Path) -> None:
    write(
        tmp_path,
        {
            f"a/b/c/train/{TENCH}/1.JPEG": "x",
            f"a/b/c/d/e/train/{CRANE}/1.JPEG": "x",
            f".hidden/train/{CRANE}/1.JPEG": "x",
            f"flat/{NAMES[0]}.JPEG": "x",
            f"Annotations/train/{TENCH}/1.xml": "x",
        },
    )
    sources = find_sources(tmp_path, tmp_path / "out")
    assert (sources.train, sources.val) == (tmp_path / "a/b/c/train", tmp_path / "flat")
    assert sources.flat
    sources = find_sources(tmp_path / "a/b/c/train", tmp_path / "out")
    assert sources.train == tmp_path / "a/b/c/train"
    write(tmp_path, {"a/ILSVRC2012_img_train.tar": "x", f"val/{TENCH}/1.JPEG": "x"})
    sources = find_sources(tmp_path, tmp_path / "out")
    assert sources.train == tmp_path / "a/ILSVRC2012_img_train.tar"
    assert (sources.val, sources.flat) == (tmp_path / "val", False)


def test_skips_unreadable_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, {"lost+found/x": "x", f"train/{TENCH}/1.JPEG": "x"})
    scandir = os.scandir

    def refuse(path: Path) -> object:
        if Path(path).name in closed:
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    closed = {"lost+found"}
    assert find_sources(tmp_path, tmp_path / "out").train == tmp_path / "train"
    closed = {tmp_path.name}
    with pytest.raises(DrnError, match=f"{tmp_path.name}: cannot be read: Permission denied"):
        find_sources(tmp_path, tmp_path / "out")

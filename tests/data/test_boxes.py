"""Ground truth boxes in all supported formats, and invalid files."""

import os
from pathlib import Path

import pytest

from drn_cli.data.boxes import Box, read_boxes
from drn_cli.data.prepare.imagenet.boxes import Box as SourceBox
from drn_cli.data.prepare.imagenet.boxes import write_boxes
from drn_cli.errors import DrnError

TENCH, GOLDFISH = "n01440764", "n01443537"
ONE, TWO, THREE = Box(TENCH, 1, 2, 30, 40), Box(GOLDFISH, 5, 6, 7, 8), Box(TENCH, 0, 0, 63, 63)
EXPECTED = {"a": [ONE, TWO], "b": [THREE]}


def xml(*boxes: Box) -> str:
    objects = "".join(
        f"<object><name>{box.name}</name><bndbox><xmin>{box.xmin:g}</xmin><ymin>{box.ymin:g}</ymin>"
        f"<xmax>{box.xmax:g}</xmax><ymax>{box.ymax:g}</ymax></bndbox></object>"
        for box in boxes
    )
    return f"<annotation><filename>not this</filename>{objects}</annotation>"


SOLUTION = (
    f"ImageId,PredictionString\na,{TENCH} 1 2 30 40 {GOLDFISH} 5 6 7 8 \nb,{TENCH} 0 0 63 63 \n"
)
TABLE = (
    "image,wnid,xmin,ymin,xmax,ymax\n"
    f"val/{TENCH}/a.JPEG,{TENCH},1,2,30,40\n"
    f"val/{TENCH}/a.JPEG,{GOLDFISH},5,6,7,8\n"
    f"val/{TENCH}/b.JPEG,{TENCH},0,0,63,63\n"
)
TINY_VAL = (
    f"a.JPEG\t{TENCH}\t1\t2\t30\t40\na.JPEG\t{GOLDFISH}\t5\t6\t7\t8\n\n"
    f"b.JPEG\t{TENCH}\t0\t0\t63\t63\n"
)
TINY_TRAIN = {
    f"{TENCH}/{TENCH}_boxes.txt": "a.JPEG\t1\t2\t30\t40\nb.JPEG\t0\t0\t63\t63\n",
    f"{GOLDFISH}/{GOLDFISH}_boxes.txt": "a.JPEG\t5\t6\t7\t8\n",
}
FORMATS = {
    "xml": {"deep/er/a.xml": xml(ONE, TWO), "deep/b.xml": xml(THREE)},
    "solution": {"LOC_val_solution.csv": SOLUTION},
    "table": {"val_boxes.csv": TABLE},
    "tiny val": {"val_annotations.txt": TINY_VAL},
    "tiny train": TINY_TRAIN,
}


def write(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


@pytest.mark.parametrize("kind", FORMATS)
def test_reads_all_boxes_below_a_folder(tmp_path: Path, kind: str) -> None:
    write(tmp_path, {"boxes/readme.txt": "no boxes", "boxes/other.csv": "a,b\n"})
    found = read_boxes(write(tmp_path, {f"boxes/{k}": v for k, v in FORMATS[kind].items()}))
    assert {name: sorted(boxes, key=lambda box: -box.xmax) for name, boxes in found.items()} == {
        name: sorted(boxes, key=lambda box: -box.xmax) for name, boxes in EXPECTED.items()
    }


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("a.xml", xml(ONE, TWO), {"a": [ONE, TWO]}),
        ("b.XML", xml(THREE), {"b": [THREE]}),
        ("kaggles.csv", SOLUTION, EXPECTED),
        ("LOC_val_solution.csv", "\ufeff" + SOLUTION, EXPECTED),
        ("any.csv", TABLE.replace("image,wnid", "image,class"), EXPECTED),
        ("any.txt", TINY_VAL, EXPECTED),
        (f"{GOLDFISH}_boxes.txt", "x.JPEG 5 6 7 8\n", {"x": [TWO]}),
        ("dogs_boxes.txt", "x.JPEG 5 6 7.5 8\n", {"x": [Box("dogs", 5, 6, 7.5, 8)]}),
    ],
)
def test_reads_boxes_of_a_file(
    tmp_path: Path, name: str, text: str, expected: dict[str, list[Box]]
) -> None:
    (tmp_path / name).write_text(text, encoding="utf-8")
    assert read_boxes(tmp_path / name) == expected


def test_reads_boxes_written_by_imagenet_preparation(tmp_path: Path) -> None:
    path = tmp_path / "val_boxes.csv"
    boxes = {
        "a": [SourceBox(TENCH, ("1", "2", "30", "40")), SourceBox(GOLDFISH, ("5", "6", "7", "8"))],
        "b": [SourceBox(TENCH, ("0", "0", "63", "63"))],
        "gone": [SourceBox(TENCH, ("0", "0", "1", "1"))],
    }
    images = {"a": f"val/{TENCH}/a.JPEG", "b": f"val/{TENCH}/b, c.d/b.JPEG"}
    assert write_boxes(path, boxes, images) == 3
    assert read_boxes(path) == read_boxes(tmp_path) == EXPECTED


def test_reads_one_format_of_a_folder(tmp_path: Path) -> None:
    """The same boxes may exist in several formats; none is read twice."""
    for files in FORMATS.values():
        write(tmp_path, files)
    assert {name: len(boxes) for name, boxes in read_boxes(tmp_path).items()} == {"a": 2, "b": 1}


def test_box_of_one_pixel(tmp_path: Path) -> None:
    write(tmp_path, {"val_annotations.txt": f"a.JPEG {TENCH} 3 3 3 3\n"})
    assert read_boxes(tmp_path) == {"a": [Box(TENCH, 3, 3, 3, 3)]}


HEADER = "image,wnid,xmin,ymin,xmax,ymax\n"
KAGGLE = "ImageId,PredictionString\n"


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.xml", "<annotation>", r"a\.xml: not valid XML"),
        ("a.xml", xml(ONE).replace("<xmax>30</xmax>", ""), r"a\.xml: expected a WNID and four"),
        ("a.xml", xml(Box(TENCH, 9, 2, 3, 4)), r"a\.xml: the box 9 2 3 4 has max below min"),
        ("a.xml", "<annotation/>", r"a\.xml: contains no boxes"),
        ("s.csv", "", r"s\.csv:1: header is neither image,class,xmin"),
        ("s.csv", "image,xmin,ymin,xmax,ymax,wnid\n", r"s\.csv:1: header is neither"),
        ("s.csv", HEADER, r"s\.csv: contains no boxes"),
        ("s.csv", f"{HEADER}a,{TENCH},1,2,3,4\na,{TENCH},1,2,3\n", r"s\.csv:3: 5 columns"),
        ("s.csv", f"{HEADER}a,{TENCH},1,2,3,x\n", r"s\.csv:2: `1 2 3 x` is not four numbers"),
        ("s.csv", f"{HEADER}a,{TENCH},1,2,3,\n", r"s\.csv:2: `1 2 3 ` is not four numbers"),
        ("s.csv", f"{HEADER}a,{TENCH},1,9,3,4\n", r"s\.csv:2: the box 1 9 3 4 has max below min"),
        ("s.csv", f"{KAGGLE}a,{TENCH} 1 2 3 4\nb,{TENCH} 1\n", r"s\.csv:3: expected a WNID and"),
        ("s.csv", f"{KAGGLE}a,{TENCH} 4 2 3 4\n", r"s\.csv(:2|: a): the box 4 2 3 4 has max"),
        ("v.txt", f"a {TENCH} 1 2 3 4\n\na 1 2 3 4\n", r"v\.txt:3: `a 1 2 3 4` is not an image"),
        ("v.txt", f"a {TENCH} 1 2 3 4 5\n", r"v\.txt:1: .* is not an image name and its box"),
        ("v.txt", f"a {TENCH} 1 2 3 four\n", r"v\.txt:1: `1 2 3 four` is not four numbers"),
        ("v.txt", f"a {TENCH} 1 2 nan 4\n", r"v\.txt:1: `1 2 nan 4` is not four numbers"),
        ("v.txt", f"a {TENCH} 1 2 inf 4\n", r"v\.txt:1: `1 2 inf 4` is not four numbers"),
        ("n1_boxes.txt", "a 5 2 3 4\n", r"n1_boxes\.txt:1: the box 5 2 3 4 has max below min"),
        ("v.txt", "", r"v\.txt: contains no boxes"),
    ],
)
def test_error_names_file_and_line(tmp_path: Path, name: str, text: str, message: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(DrnError, match=message) as caught:
        read_boxes(tmp_path / name)
    assert caught.value.message.startswith(f"{tmp_path / name}")


def test_file_that_is_not_text(tmp_path: Path) -> None:
    (tmp_path / "val_boxes.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DrnError, match=r"val_boxes\.csv:1: not UTF-8 text"):
        read_boxes(tmp_path)


def test_missing_file_or_folder_without_boxes(tmp_path: Path) -> None:
    with pytest.raises(DrnError, match="nowhere: no such file or folder"):
        read_boxes(tmp_path / "nowhere")
    write(tmp_path, {"boxes.csv": TABLE})
    with pytest.raises(DrnError, match="contains no files with boxes") as caught:
        read_boxes(tmp_path)
    for known in ("*.xml", "LOC_val_solution.csv", "val_boxes.csv", "val_annotations.txt"):
        assert known in (caught.value.hint or "")


@pytest.mark.parametrize("name", ["a.xml", "a.txt", "a.csv"])
def test_pipes_and_large_files_are_rejected(tmp_path: Path, name: str) -> None:
    (tmp_path / "boxes").mkdir()
    os.mkfifo(tmp_path / "boxes" / "a.xml")
    with pytest.raises(DrnError, match=r"a\.xml: is not a regular file"):
        read_boxes(tmp_path / "boxes")
    large = tmp_path / name
    large.touch()
    os.truncate(large, 2**28 + 1)
    with pytest.raises(DrnError, match=r"refused: 268,435,457 bytes, more than"):
        read_boxes(large)

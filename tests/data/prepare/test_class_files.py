"""Class files in all formats, and errors in them."""

import os
from pathlib import Path

import pytest

from drn_cli.data.prepare.class_files import read_class_file
from drn_cli.errors import DrnError

ROAD, SKY = ("road", (128, 64, 128)), ("sky", (70, 130, 180))


def read(tmp_path: Path, text: str, name: str = "classes.csv"):
    path = tmp_path / name
    path.write_bytes(text.encode())
    return read_class_file(path)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("c.csv", "name,r,g,b\nroad,128,64,128\nsky,70,130,180\n"),
        ("c.csv", "\ufeffName, R , G,B\r\n road ,128, 64,128 \r\n\r\n sky,70, 130 ,180"),
        ("c.csv", 'b,g,r,class\n128,64,128,"road"\n180,130,70,"sky"\n'),
        ("c.txt", "128 64 128\t\troad\n70 130 180\t\tsky"),
        ("c.json", '[{"name": "road", "color": [128,64,128]}, {"name":"sky","rgb":[70,130,180]}]'),
    ],
)
def test_colors_in_all_formats(tmp_path: Path, name: str, text: str) -> None:
    rows = read(tmp_path, text, name)
    assert [(row.name, row.color) for row in rows] == [ROAD, SKY]
    assert {row.value for row in rows} == {None}


@pytest.mark.parametrize(
    ("name", "text"), [("c.txt", "road\n\ntraffic light"), ("c.json", '["road", "traffic light"]')]
)
def test_plain_names(tmp_path: Path, name: str, text: str) -> None:
    rows = read(tmp_path, text, name)
    assert [row.name for row in rows] == ["road", "traffic light"]
    assert {row.color for row in rows} == {None}


def test_a_pipe_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "classes.txt")
    with pytest.raises(DrnError, match=r"classes\.txt: is not a regular file"):
        read_class_file(tmp_path / "classes.txt")


def test_values(tmp_path: Path) -> None:
    for name, text in {
        "c.csv": "name,id\nroad,7\nsky,255\n",
        "c.json": '[{"name": "road", "id": 7}, {"name": "sky", "id": 255}]',
    }.items():
        assert [row.value for row in read(tmp_path, text, name)] == [7, 255]


def test_rows_may_share_a_name(tmp_path: Path) -> None:
    rows = read(tmp_path, "name,r,g,b\ncar,1,1,1\ncar,2,2,2\n")
    assert [row.name for row in rows] == ["car", "car"]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("c.csv", "name,r,g,b\nroad,1,2,300\n", r"c.csv:2: expected an integer .* got '300'"),
        ("c.csv", "name,r,g,b\n\nroad,1,2\n", r"c.csv:3: .* has 3 columns, the header has 4"),
        ("c.csv", "name,r,g\nroad,1,2\n", r"c.csv:2: a color needs three values"),
        ("c.csv", "name,r,g,b\n ,1,2,3\n", r"c.csv:2: class name missing"),
        ("c.csv", "name,r,g,b\na,1,2,3\nb,1,2,3\n", r"c.csv:3: b has the same color as a"),
        ("c.csv", "name,id\na,1\nb,1\n", r"c.csv:3: b has the same id as a"),
        ("c.csv", "road,1,2,3\n", r"c.csv:1: .* is not a class name"),
        ("c.txt", "1 2 3 road\nsky\n", r"c.txt:1: .* is not a class name"),
        ("c.txt", "road\nsky\nroad\n", r"c.txt:3: duplicate class road, first in .*c.txt:1"),
        ("c.txt", " \n", r"c.txt: contains no classes"),
        ("c.json", "{}", r"c.json: expected a list"),
        ("c.json", "[1]", r"c.json: entry 1: 1 is not a class"),
        ("c.json", '[{"name": "a", "color": "red"}]', r"entry 1: \"red\" is not a color"),
        ("c.json", '[{"name": "a", "color": [1,2,3]}, {"name": "b"}]', r"entry 2: b has no color"),
    ],
)
def test_errors_name_the_row(tmp_path: Path, name: str, text: str, message: str) -> None:
    with pytest.raises(DrnError, match=message):
        read(tmp_path, text, name)


def test_unreadable_file(tmp_path: Path) -> None:
    with pytest.raises(DrnError, match="no such file"):
        read_class_file(tmp_path / "absent.csv")
    (tmp_path / "c.csv").write_bytes(b"\xff\xfe")
    with pytest.raises(DrnError, match=r"c.csv:1: not UTF-8 text"):
        read_class_file(tmp_path / "c.csv")

import os
from pathlib import Path

from drn_cli.data.classes import ClassSet
from drn_cli.data.folders import ChannelStats
from drn_cli.data.prepare.common import fingerprint, write_info, write_list
from drn_cli.files import read_json


def test_write_list(tmp_path: Path) -> None:
    write_list(tmp_path, "train_images.txt", ["a/1.png", "a/2.png"])
    assert (tmp_path / "train_images.txt").read_text() == "a/1.png\na/2.png\n"


def test_write_info(tmp_path: Path) -> None:
    statistics = ChannelStats((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
    write_info(tmp_path, statistics, ClassSet(("a",), ((1, 2, 3),)), dataset="mine")
    assert read_json(tmp_path / "info.json") == {
        "mean": [0.1, 0.2, 0.3],
        "std": [0.4, 0.5, 0.6],
        "classes": ["a"],
        "colours": [[1, 2, 3]],
        "dataset": "mine",
    }


def test_fingerprint_depends_on_names_sizes_and_times(tmp_path: Path) -> None:
    first, second = tmp_path / "1.png", tmp_path / "2.png"
    first.write_text("1")
    second.write_text("2")
    os.utime(first, (100, 100))
    before = fingerprint(tmp_path, [first, second])
    assert fingerprint(tmp_path, [first, second]) == before
    assert fingerprint(tmp_path, [second, first]) != before
    assert fingerprint(tmp_path, [first]) != before
    os.utime(first, (200, 200))
    assert fingerprint(tmp_path, [first, second]) != before
    first.write_text("11")
    os.utime(first, (100, 100))
    assert fingerprint(tmp_path, [first, second]) != before

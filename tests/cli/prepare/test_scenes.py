"""`drn data prepare scenes` as a process: what it prints, and mistakes."""

import json
from pathlib import Path

import pytest

from drn_cli.data.images import read_image


def test_draws_what_is_asked_for_and_says_so(drn, tmp_path: Path) -> None:
    wanted = ("--train", 2, "--val", 1, "--test", 0, "--size", "70x40", "--seed", 5)
    words = ("data", "prepare", "scenes", "out", *map(str, wanted))
    first = drn(*words)
    assert first.returncode == 0, first.stderr
    assert first.stdout == "out made: 2 train, 1 val, 0 test\n"
    assert "drn train demo data.root=out" in first.stderr
    pictures = sorted((tmp_path / "out").rglob("*_leftImg8bit.png"))
    assert len(pictures) == 3
    assert {read_image(path).shape for path in pictures} == {(40, 70, 3)}
    assert json.loads((tmp_path / "out" / "info.json").read_text())["scenes"]["seed"] == 5
    second = drn(*words, "--json")
    assert json.loads(second.stdout) == {
        "out": "out",
        "pictures": {"train": 2, "val": 1, "test": 0},
        "unchanged": True,
    }


@pytest.mark.parametrize("size", ["512", "12.5x40", "x40", "-70x40"])
def test_size_of_another_form_is_a_usage_error(drn, tmp_path: Path, size: str) -> None:
    failed = drn("data", "prepare", "scenes", "out", f"--size={size}")
    assert failed.returncode == 2
    assert "should be WxH" in failed.stderr
    assert not (tmp_path / "out").exists()


def test_size_that_cannot_be_drawn_is_one_line(drn, tmp_path: Path) -> None:
    failed = drn("data", "prepare", "scenes", "out", "--size", "9000x40")
    assert failed.returncode == 1
    assert failed.stderr.startswith("error: scenes of 9000x40 pixels cannot be drawn")
    assert "Traceback" not in failed.stderr
    assert not (tmp_path / "out").exists()

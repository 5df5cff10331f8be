"""Searches for images: files found, and messages about skipped ones."""

import logging
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from drn_cli.cli.app import app
from drn_cli.data.class_folders import FolderDataset
from drn_cli.data.file_search import LeftOut
from drn_cli.data.prepare.pairs import match_folders
from drn_cli.errors import DrnError
from drn_cli.evaluation.folder_pairs import pair_folders
from drn_cli.inference.inputs import find_images


@pytest.fixture
def messy(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> Path:
    """Two images, one in a linked folder, among all kinds of skipped files."""
    caplog.set_level(logging.INFO, "drn_cli")
    folder, elsewhere = tmp_path / "photos", tmp_path / "disk2"
    for path in (folder / "a.png", elsewhere / "sub" / "b.png"):
        path.parent.mkdir(parents=True)
        Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(path)
    (folder / "more").symlink_to(elsewhere)
    (elsewhere / "sub" / "back").symlink_to(elsewhere)
    (folder / "self").symlink_to(folder)
    (folder / "root").symlink_to("/")
    (folder / "again").symlink_to(elsewhere / "sub")  # searched first, by the order of names
    (folder / "gone.png").symlink_to(tmp_path / "nothing.png")
    for name in ("._a.png", ".x.png", "notes.txt", ".ipynb_checkpoints/a-checkpoint.png"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).touch()
    os.mkfifo(folder / "pipe.png")
    return folder


REASONS = (
    "link to a folder above (cycle) 3 (again/back, root, ...)",
    "link to a folder already searched 1 (more/sub)",
    "broken link 1 (gone.png)",
    "not a regular file 1 (pipe.png)",
    "hidden 1 (.x.png)",
    "unsupported extension 1 (notes.txt)",
)


def by_prepare(folder: Path) -> list[Path]:
    labels = folder.parent / "masks"
    (labels / "again").mkdir(parents=True)
    for name in ("a.png", "again/b.png"):
        (labels / name).touch()
    return [folder / match.image for match in match_folders(folder, labels).pairing.pairs]


def by_predict(folder: Path) -> list[Path]:
    return [Path(found.path) for found in find_images([str(folder)])]


def by_eval(folder: Path) -> list[Path]:
    labels = folder.parent / "masks"
    (labels / "again").mkdir(parents=True)
    for name in ("a.png", "again/b.png"):
        (labels / name).touch()
    return [sample.image for sample in pair_folders(folder, labels).samples]


@pytest.mark.parametrize("find", [by_prepare, by_predict, by_eval])
def test_searches_follow_links_and_count_skipped_files(
    messy: Path, find: Callable[[Path], list[Path]], caplog: pytest.LogCaptureFixture
) -> None:
    assert find(messy) == [messy / "a.png", messy / "again" / "b.png"]
    (line,) = [one for one in caplog.records if "left out: " in one.getMessage()]
    assert line.levelno == logging.WARNING
    assert sorted(REASONS) == [reason for reason in sorted(REASONS) if reason in line.getMessage()]
    assert "checkpoint" not in line.getMessage()


def test_files_without_partner_are_counted(messy: Path, caplog: pytest.LogCaptureFixture) -> None:
    (messy.parent / "masks").mkdir()
    for name in ("a.png", "c.png"):
        (messy.parent / "masks" / name).touch()
    found = match_folders(messy, messy.parent / "masks", skip_unmatched=True)
    assert found.left_out.counts["no partner"] == 2
    assert "no partner 2 (again/b.png, c.png)" in caplog.text


def test_class_folders_count_skipped_files(messy: Path) -> None:
    root = messy.parent / "data"
    (root / "train").mkdir(parents=True)
    (root / "train" / "cat").symlink_to(messy)
    (root / "train" / "dog").symlink_to(messy / "more" / "sub")
    (root / "train" / ".ipynb_checkpoints").mkdir()
    (root / "train" / "loose.png").touch()
    folder, left_out = FolderDataset.open(root), LeftOut()
    assert folder.folders == ("cat", "dog")
    names = [sample.image.name for sample in folder.samples("train", left_out)]
    assert names == ["a.png", "b.png"]
    assert left_out.counts == {
        "folder in a class folder": 5,
        "broken link": 1,
        "not a regular file": 1,
        "hidden": 1,
        "unsupported extension": 1,
        "image outside class folders": 1,
    }


@pytest.mark.parametrize(
    "command",
    [
        ("runs", "FILE"),
        ("report", "FILE"),
        ("data", "cache", "FILE"),
        ("data", "check", "FILE"),
        ("data", "show", "FILE"),
        ("data", "prepare", "camvid", "FILE"),
        ("data", "prepare", "cityscapes", "FILE"),
        ("data", "prepare", "imagenet", "FILE"),
        ("data", "prepare", "pairs", "--images", "FILE", "--labels", "."),
        ("train", "demo", "data.root=FILE"),
    ],
)
def test_file_instead_of_folder_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: tuple[str, ...]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "coco.json").write_text("{}")
    words = [word.replace("FILE", "coco.json") for word in command]
    done = CliRunner().invoke(app, words)
    assert isinstance(done.exception, DrnError)
    assert str(done.exception).startswith("coco.json: is a file, expected a folder of ")


def test_file_as_parent_of_the_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "coco.json").write_text("{}")
    with pytest.raises(DrnError, match=r"train: no such folder: .*coco.json is not a folder"):
        pair_folders(tmp_path / "coco.json" / "train", tmp_path)
    with pytest.raises(DrnError, match=r"null/x: no such folder: /dev/null is not a folder"):
        pair_folders(Path("/dev/null/x"), tmp_path)

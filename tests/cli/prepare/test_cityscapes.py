"""`drn data prepare cityscapes` as a process: what it prints, and what an interruption leaves."""

import json
import os
import shutil
import signal
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from drn_cli.cli.app import app
from drn_cli.data.classes import cityscapes_train_ids
from drn_cli.data.images import read_label
from drn_cli.data.prepare.scenes import make_scenes

FRAMES = 500  # enough to be interrupted at
STEM = "train/aachen/aachen_{:06d}_000019_"
PREPARE = ("data", "prepare", "cityscapes")


@pytest.fixture(scope="module")
def zips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write the two archives: pictures that are slow to unpack, labels that are slow to map."""
    folder, random = tmp_path_factory.mktemp("zips"), np.random.default_rng(0)
    picture = random.integers(0, 256, (256, 1024), dtype=np.uint8)
    label = random.integers(0, 34, (256, 1024), dtype=np.uint8)
    for top, end, pixels in (
        ("leftImg8bit", "leftImg8bit.png", picture),
        ("gtFine", "gtFine_labelIds.png", label),
    ):
        Image.fromarray(pixels).save(folder / "one.png", compress_level=1)
        with zipfile.ZipFile(folder / f"{top}_trainvaltest.zip", "w") as archive:
            for number in range(FRAMES):
                archive.write(folder / "one.png", f"{top}/{STEM.format(number)}{end}")
    return folder


@pytest.fixture
def scenes(tmp_path: Path) -> Path:
    make_scenes(tmp_path / "scenes", train=3, val=2, test=1, width=64, height=32)
    for path in (tmp_path / "scenes").glob("*.*"):
        path.unlink()
    return tmp_path / "scenes"


def times(folder: Path, end: str) -> dict[str, int]:
    found = folder.rglob(f"*{end}")
    return {str(path.relative_to(folder)): path.stat().st_mtime_ns for path in found}


def test_prints_a_table_and_does_nothing_twice(drn, scenes: Path) -> None:
    first = drn(*PREPARE, "scenes", "--partial")
    assert first.returncode == 0, first.stderr
    rows = [line.split() for line in first.stdout.splitlines()]
    assert rows == [
        ["split", "city", "pictures", "expected"],
        ["train", "dilaton", "2"],
        ["train", "residua", "1"],
        ["train", "all", "3", "2975"],
        ["val", "gridley", "2"],
        ["val", "all", "2", "500"],
        ["test", "stridegate", "1"],
        ["test", "all", "1", "1525"],
        ["scenes", "made:", "3", "train,", "2", "val,", "1", "test"],
    ]
    assert "drn train drn_d_22_cityscapes data.root=scenes" in first.stderr
    shutil.rmtree(scenes / "gtFine" / "train" / "residua")
    drn(*PREPARE, "scenes", "--partial")
    again = drn(*PREPARE, "scenes", "--partial", "--json")
    assert json.loads(again.stdout) == {
        "out": "scenes",
        "pictures": {"train": 2, "val": 2, "test": 1},
        "unchanged": True,
        "cities": {"train": {"dilaton": 2}, "val": {"gridley": 2}, "test": {"stridegate": 1}},
        "expected": {"train": 2975, "val": 500, "test": 1525},
        "left_out": 1,
        "files_left_out": [],
    }
    assert "left out for want of a label: 1" in again.stderr


def test_mistakes_are_one_line(drn, scenes: Path) -> None:
    for words, message in (
        (("scenes",), "3 train pictures instead of 2975"),
        (("absent",), "absent: no such folder"),
    ):
        failed = drn(*PREPARE, *words)
        assert failed.returncode == 1
        assert failed.stdout == ""
        assert failed.stderr.startswith("error: ")
        assert message in failed.stderr
        assert "Traceback" not in failed.stderr


def test_killed_runs_are_taken_up(
    drn, until: Callable[[Callable[[], object]], object], zips: Path, tmp_path: Path
) -> None:
    """Kill it as it unpacks and as it maps; what was finished is not written again."""
    root = tmp_path / "cityscapes"
    words = (*PREPARE, root, "--zips", zips, "--partial")
    unpacking = root / "leftImg8bit.unpacking" / "train" / "aachen"
    labels = root / "gtFine" / "train" / "aachen"

    def killed_when(there: Callable[[], bool], number: int) -> None:
        process = drn.begin(*words)
        until(lambda: process.poll() is not None or there())
        os.killpg(process.pid, number)
        process.communicate(timeout=60)
        assert process.returncode != 0

    killed_when(lambda: any(unpacking.glob("*_leftImg8bit.png")), signal.SIGKILL)
    pictures = times(unpacking, "_leftImg8bit.png")
    assert 0 < len(pictures) < FRAMES
    assert not (root / "leftImg8bit").exists()

    killed_when(lambda: any(labels.glob("*_trainIds.png")), signal.SIGKILL)
    assert pictures.items() <= times(root / "leftImg8bit" / "train" / "aachen", ".png").items()
    mapped = times(labels, "_trainIds.png")
    assert 0 < len(mapped) < FRAMES
    assert not (root / "info.json").exists()

    done = drn(*words, "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["pictures"] == {"train": FRAMES, "val": 0, "test": 0}
    assert mapped.items() <= times(labels, "_trainIds.png").items()
    assert sorted(path.name for path in root.iterdir()) == [
        "gtFine",
        "info.json",
        "leftImg8bit",
        "train_images.txt",
        "train_labels.txt",
    ]
    files = [path for path in root.rglob("*") if path.is_file()]
    assert len(files) == 3 * FRAMES + 3  # nothing half-written is left
    wanted = cityscapes_train_ids()[
        read_label(labels / f"{STEM[13:].format(0)}gtFine_labelIds.png")
    ]
    expected = {path.read_bytes() for path in labels.glob("*_trainIds.png")}
    assert len(expected) == 1
    assert np.array_equal(read_label(next(labels.glob("*_trainIds.png"))), wanted)


def test_interrupt_is_one_line_and_leaves_nothing_half_written(
    drn, until: Callable[[Callable[[], object]], object], zips: Path, tmp_path: Path
) -> None:
    root = tmp_path / "cityscapes"
    for top in ("leftImg8bit", "gtFine"):
        shutil.unpack_archive(zips / f"{top}_trainvaltest.zip", root)
    process = drn.begin(*PREPARE, root, "--partial")
    until(lambda: process.poll() is not None or any(root.rglob("*_trainIds.png")))
    os.killpg(process.pid, signal.SIGINT)  # a terminal sends it to the whole group
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "interrupted" in said
    assert "Traceback" not in said
    assert not list(root.rglob(".*"))
    assert 0 < len(list(root.rglob("*_trainIds.png"))) < FRAMES
    assert not (root / "info.json").exists()


@pytest.mark.parametrize("data", ["cityscapes", "imagenet"])
def test_pixel_limit_is_an_option(
    scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, data: str
) -> None:
    monkeypatch.setenv("DRN_MAX_PIXELS", "1")  # what the option sets goes with the test
    words = [str(scenes)]
    if data == "imagenet":  # of which an image is decoded that does not end as usual
        image = next(scenes.glob("leftImg8bit/train/*/*.png")).read_bytes()
        for wnid in ("n01440764", "n01443537"):
            place = tmp_path / "source" / "train" / wnid
            place.mkdir(parents=True)
            (place / "1.png").write_bytes(image + bytes(20))
        words = [str(tmp_path / "source"), "--out", str(tmp_path / "out")]
    for limit, code in (("1000", 1), ("9000000", 0)):
        done = CliRunner().invoke(
            app, ["data", "prepare", data, *words, "--partial", "--max-pixels", limit]
        )
        assert done.exit_code == code, done.output
        assert code == 0 or "the limit is 0.001 million" in str(done.exception)

"""`drn data prepare camvid` as a process: what it prints, a second time, and Ctrl-C."""

import json
import os
import signal
from pathlib import Path

import numpy as np
import pytest
from PIL import Image


@pytest.fixture(scope="module")
def segnet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """CamVid in the SegNet layout: enough pictures to be interrupted at."""
    folder, random = tmp_path_factory.mktemp("source"), np.random.default_rng(0)
    for split, count in {"train": 60, "val": 3, "test": 2}.items():
        for kind in (split, f"{split}annot"):
            (folder / kind).mkdir()
        for number in range(count):
            picture = random.integers(0, 256, (360, 480, 3)).astype(np.uint8)
            Image.fromarray(picture).save(folder / split / f"{number}.png", compress_level=1)
            label = random.integers(0, 12, (360, 480)).astype(np.uint8)
            Image.fromarray(label).save(folder / f"{split}annot" / f"{number}.png")
        lines = [f"/x/{split}/{n}.png /x/{split}annot/{n}.png\n" for n in range(count)]
        (folder / f"{split}.txt").write_text("".join(lines))
    return folder


def test_prepares_once_and_says_so(drn, segnet: Path, tmp_path: Path) -> None:
    first = drn("data", "prepare", "camvid", segnet, "--out", "out")
    assert first.returncode == 0, first.stderr
    assert first.stdout == "out made: 60 train, 3 val, 2 test\n"
    assert "drn train drn_d_22_camvid data.root=out" in first.stderr
    assert f"{segnet}: the SegNet layout" in first.stderr
    assert (tmp_path / "out" / "info.json").is_file()
    second = drn("data", "prepare", "camvid", segnet, "--out", "out", "--json")
    assert json.loads(second.stdout) == {
        "out": "out",
        "pictures": {"train": 60, "val": 3, "test": 2},
        "unchanged": True,
    }


def test_mistake_is_one_line(drn, tmp_path: Path) -> None:
    failed = drn("data", "prepare", "camvid", tmp_path)
    assert failed.returncode == 1
    assert failed.stdout == ""
    assert failed.stderr.startswith("error: ")
    assert "none of the layouts" in failed.stderr
    assert "train.txt, val.txt and test.txt (SegNet)" in failed.stderr
    assert "Traceback" not in failed.stderr


def test_interrupt_leaves_nothing_behind(drn, until, segnet: Path, tmp_path: Path) -> None:
    folder = tmp_path / "made"  # of its own: coverage writes where a process was started
    process = drn.begin("data", "prepare", "camvid", segnet, "--out", folder / "out")
    until(lambda: process.poll() is not None or (folder.is_dir() and list(folder.iterdir())))
    os.killpg(process.pid, signal.SIGINT)  # a terminal sends it to the whole group
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "interrupted" in said
    assert "Traceback" not in said
    assert not folder.exists()  # which it had made

"""`drn data prepare imagenet` as a process: what it prints, and what ends it before its time."""

import io
import json
import os
import signal
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

WNIDS = ("n01440764", "n01443537")
MANY = 4000  # pictures of the second class: enough to be interrupted at


def tar(files: list[tuple[str, bytes]]) -> bytes:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as archive:
        for name, data in files:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return made.getvalue()


@pytest.fixture(scope="module")
def picture() -> bytes:
    file = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 256, (16, 16, 3)).astype(np.uint8)
    Image.fromarray(noise).save(file, "JPEG")
    return file.getvalue()


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory, picture: bytes) -> Path:
    """A few training pictures, seven of them broken, and two of validation with boxes."""
    folder = tmp_path_factory.mktemp("small")
    broken = [(f"{n}.JPEG", picture[:50]) for n in range(7)]
    inner = [tar([("a.JPEG", picture), *broken]), tar([("b.JPEG", picture)])]
    train = [(f"{wnid}.tar", data) for wnid, data in zip(WNIDS, inner, strict=True)]
    (folder / "ILSVRC2012_img_train.tar").write_bytes(tar(train))
    names = ["ILSVRC2012_val_00000001", "ILSVRC2012_val_00000002"]
    val = tar([(f"{name}.JPEG", picture) for name in names])
    (folder / "ILSVRC2012_img_val.tar").write_bytes(val)
    rows = [f"{name},{wnid} 1 2 3 4 \n" for name, wnid in zip(names, WNIDS, strict=True)]
    (folder / "LOC_val_solution.csv").write_text("ImageId,PredictionString\n" + "".join(rows))
    return folder


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory, picture: bytes) -> Path:
    folder = tmp_path_factory.mktemp("large")
    pictures = [(f"{n}.JPEG", picture) for n in range(MANY)]
    train = [(f"{WNIDS[0]}.tar", tar(pictures[:3])), (f"{WNIDS[1]}.tar", tar(pictures))]
    (folder / "ILSVRC2012_img_train.tar").write_bytes(tar(train))
    return folder


def test_prepares_once_and_says_so(drn, small: Path, tmp_path: Path) -> None:
    first = drn("data", "prepare", "imagenet", small, "--partial")
    assert first.returncode == 0, first.stderr
    rows = [line.split() for line in first.stdout.splitlines()]
    assert rows == [
        ["split", "classes", "pictures", "expected", "corrupt", "boxes"],
        ["train", "2", "2", "1,281,167", "7", "-"],
        ["val", "2", "2", "50,000", "0", "2"],
        ["data/imagenet", "made"],
    ]
    assert f"warning: left out: train: {WNIDS[0]}.tar/0.JPEG: broken image" in first.stderr
    assert "left out: 2 more; all of them are in data/imagenet/corrupt.txt" in first.stderr
    assert "drn train drn_d_22_imagenet data.root=data/imagenet data.classes=2" in first.stderr
    second = drn("data", "prepare", "imagenet", small, "--partial", "--json")
    found = json.loads(second.stdout)
    corrupt = found.pop("corrupt")
    assert found == {
        "out": "data/imagenet",
        "pictures": {"train": 2, "val": 2},
        "classes": {"train": 2, "val": 2},
        "expected": {"pictures": {"train": 1281167, "val": 50000}, "classes": 1000},
        "boxes": 2,
        "files_left_out": [],
        "missing": {},
        "unchanged": True,
    }
    assert [each["file"] for each in corrupt] == [f"{WNIDS[0]}.tar/{n}.JPEG" for n in range(7)]
    assert {each["split"] for each in corrupt} == {"train"}


def test_mistake_is_one_line(drn, small: Path, tmp_path: Path) -> None:
    failed = drn("data", "prepare", "imagenet", small)
    assert (failed.returncode, failed.stdout) == (1, "")
    assert failed.stderr.startswith("error: ")
    assert failed.stderr.count("\n") == 1
    assert "say --partial" in failed.stderr
    assert not (tmp_path / "data").exists()


def started(drn, until, source: Path, out: Path):
    """Start a preparation and wait until it is in the middle of the second class."""
    process = drn.begin("data", "prepare", "imagenet", source, "--out", out, "--partial")
    place = out / "train" / WNIDS[1]
    until(lambda: process.poll() is not None or (place.is_dir() and any(place.glob("*.JPEG"))))
    return process


def pictures(folder: Path) -> dict[str, tuple[int, int]]:
    return {
        str(path.relative_to(folder)): (path.stat().st_ino, path.stat().st_mtime_ns)
        for path in folder.rglob("[!.]*.JPEG")
    }


def test_killed_run_goes_on_where_it_was(
    drn, until, large: Path, tmp_path: Path, picture: bytes
) -> None:
    out = tmp_path / "made"
    process = started(drn, until, large, out)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL
    before = pictures(out)
    assert 3 < len(before) < MANY + 3
    assert not (out / "info.json").exists()
    again = drn("data", "prepare", "imagenet", large, "--out", out, "--partial", "--json")
    assert json.loads(again.stdout)["pictures"] == {"train": MANY + 3}
    assert "has no val; to add: ILSVRC2012_img_val.tar" in again.stderr
    assert "drn train" not in again.stderr  # without val
    after = pictures(out)
    assert len(after) == MANY + 3
    assert {name: after[name] for name in before} == before
    assert all(path.read_bytes() == picture for path in out.rglob("*.JPEG"))
    assert sorted(path.name for path in out.iterdir()) == ["info.json", "train"]
    assert not list(out.rglob("*.tmp"))


def test_interrupt_says_that_it_goes_on(drn, until, large: Path, tmp_path: Path) -> None:
    out = tmp_path / "made"
    process = started(drn, until, large, out)
    os.killpg(process.pid, signal.SIGINT)  # a terminal sends it to the whole group
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert f"interrupted; the same command goes on with {out} where it was" in said
    assert "Traceback" not in said
    assert not list(out.rglob("*.tmp"))
    assert 3 < len(pictures(out)) < MANY + 3
    assert not (out / "info.json").exists()

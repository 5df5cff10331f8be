"""`drn data prepare` is interrupted or killed, and resumed by the next run."""

import io
import json
import os
import shutil
import signal
import subprocess
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from drn_cli.data.classes import cityscapes_train_ids
from drn_cli.data.images import read_label

FRAMES = 200  # of Cityscapes, enough to interrupt the run
MANY = 2500  # images of the second class of ImageNet, enough to interrupt the run
STEM = "train/aachen/aachen_{:06d}_000019_"
WNIDS = ("n01440764", "n01443537")


@pytest.fixture(scope="module")
def segnet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """CamVid in the SegNet layout, with large images."""
    folder, random = tmp_path_factory.mktemp("source"), np.random.default_rng(0)
    for split, count in {"train": 60, "val": 1, "test": 0}.items():
        for kind in (split, f"{split}annot"):
            (folder / kind).mkdir()
        for number in range(count):
            image = random.integers(0, 256, (360, 480, 3)).astype(np.uint8)
            Image.fromarray(image).save(folder / split / f"{number}.png", compress_level=1)
            label = random.integers(0, 12, (360, 480)).astype(np.uint8)
            Image.fromarray(label).save(folder / f"{split}annot" / f"{number}.png")
        lines = [f"/x/{split}/{n}.png /x/{split}annot/{n}.png\n" for n in range(count)]
        (folder / f"{split}.txt").write_text("".join(lines))
    return folder


@pytest.fixture(scope="module")
def zips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The archives of Cityscapes, with large images and labels."""
    folder, random = tmp_path_factory.mktemp("zips"), np.random.default_rng(0)
    image = random.integers(0, 256, (256, 1024), dtype=np.uint8)
    label = random.integers(0, 34, (256, 1024), dtype=np.uint8)
    for top, end, pixels in (
        ("leftImg8bit", "leftImg8bit.png", image),
        ("gtFine", "gtFine_labelIds.png", label),
    ):
        Image.fromarray(pixels).save(folder / "one.png", compress_level=1)
        with zipfile.ZipFile(folder / f"{top}_trainvaltest.zip", "w") as archive:
            for number in range(FRAMES):
                archive.write(folder / "one.png", f"{top}/{STEM.format(number)}{end}")
    return folder


@pytest.fixture(scope="module")
def imagenet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The archive of ImageNet's training images, with two classes."""
    folder, file = tmp_path_factory.mktemp("imagenet"), io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 256, (16, 16, 3)).astype(np.uint8)
    Image.fromarray(noise).save(file, "JPEG")
    images = [(f"{n}.JPEG", file.getvalue()) for n in range(MANY)]
    train = [(f"{WNIDS[0]}.tar", tar(images[:3])), (f"{WNIDS[1]}.tar", tar(images))]
    (folder / "ILSVRC2012_img_train.tar").write_bytes(tar(train))
    return folder


def tar(files: list[tuple[str, bytes]]) -> bytes:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as archive:
        for name, data in files:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return made.getvalue()


@pytest.fixture
def ended(drn, until) -> Callable[..., str]:
    """Start a preparation, send a signal when a condition is met, and return its stderr."""

    def end(number: signal.Signals, moment: Callable[[], object], *words: str | Path) -> str:
        process: subprocess.Popen[str] = drn.begin("data", "prepare", *words)
        until(lambda: process.poll() is not None or moment())
        os.killpg(process.pid, number)  # a terminal sends it to the whole group
        _, stderr = process.communicate(timeout=60)
        assert process.returncode == (130 if number == signal.SIGINT else -number)
        assert "Traceback" not in stderr
        return stderr

    return end


def states(folder: Path, end: str) -> dict[str, tuple[int, int]]:
    return {
        str(path.relative_to(folder)): (path.stat().st_ino, path.stat().st_mtime_ns)
        for path in folder.rglob(f"[!.]*{end}")
    }


def test_interrupted_camvid_leaves_no_files(ended, segnet: Path, tmp_path: Path) -> None:
    folder = tmp_path / "made"  # coverage writes to the folder in which a process was started

    def begun() -> bool:
        return folder.is_dir() and any(folder.iterdir())

    stderr = ended(signal.SIGINT, begun, "camvid", segnet, "--out", folder / "out")
    assert "interrupted" in stderr
    assert not folder.exists()  # which the run had created


def test_cityscapes_resumes_after_sigkill(drn, ended, zips: Path, tmp_path: Path) -> None:
    """Kill it while unpacking and while converting; finished files are not written again."""
    root = tmp_path / "cityscapes"
    words = ("cityscapes", root, "--zips", zips, "--partial")
    unpacking = root / "leftImg8bit.unpacking" / "train" / "aachen"
    labels = root / "gtFine" / "train" / "aachen"

    ended(signal.SIGKILL, lambda: any(unpacking.glob("*_leftImg8bit.png")), *words)
    images = states(unpacking, "_leftImg8bit.png")
    assert 0 < len(images) < FRAMES
    assert not (root / "leftImg8bit").exists()

    ended(signal.SIGKILL, lambda: any(labels.glob("*_trainIds.png")), *words)
    assert images.items() <= states(root / "leftImg8bit" / "train" / "aachen", ".png").items()
    mapped = states(labels, "_trainIds.png")
    assert 0 < len(mapped) < FRAMES
    assert not (root / "info.json").exists()

    done = drn("data", "prepare", *words, "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["images"] == {"train": FRAMES, "val": 0, "test": 0}
    assert mapped.items() <= states(labels, "_trainIds.png").items()
    made = ["gtFine", "info.json", "leftImg8bit", "train_images.txt", "train_labels.txt"]
    assert sorted(path.name for path in root.iterdir()) == made
    files = [path for path in root.rglob("*") if path.is_file()]
    assert len(files) == 3 * FRAMES + 3  # no partial files
    ids = read_label(labels / f"{STEM[13:].format(0)}gtFine_labelIds.png")
    assert len({path.read_bytes() for path in labels.glob("*_trainIds.png")}) == 1
    train_ids = read_label(next(labels.glob("*_trainIds.png")))
    assert np.array_equal(train_ids, cityscapes_train_ids()[ids])


def test_interrupted_cityscapes_leaves_no_partial_files(ended, zips: Path, tmp_path: Path) -> None:
    root = tmp_path / "cityscapes"
    for top in ("leftImg8bit", "gtFine"):
        shutil.unpack_archive(zips / f"{top}_trainvaltest.zip", root)
    words = ("cityscapes", root, "--partial")
    stderr = ended(signal.SIGINT, lambda: any(root.rglob("*_trainIds.png")), *words)
    assert "interrupted" in stderr
    assert not list(root.rglob(".*"))
    assert 0 < len(list(root.rglob("*_trainIds.png"))) < FRAMES
    assert not (root / "info.json").exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL], ids=lambda number: number.name)
def test_imagenet_resumes(drn, ended, imagenet: Path, tmp_path: Path, number) -> None:
    out = tmp_path / "made"
    words = ("imagenet", imagenet, "--out", out, "--partial")
    place = out / "train" / WNIDS[1]
    stderr = ended(number, lambda: place.is_dir() and any(place.glob("*.JPEG")), *words)
    if number == signal.SIGINT:
        assert f"interrupted; the same command continues {out}" in stderr
        assert not list(out.rglob("*.tmp"))
    before = states(out, ".JPEG")
    assert 3 < len(before) < MANY + 3
    assert not (out / "info.json").exists()
    if number == signal.SIGINT:
        return
    again = drn("data", "prepare", *words, "--json")
    assert json.loads(again.stdout)["images"] == {"train": MANY + 3}
    after = states(out, ".JPEG")
    assert len(after) == MANY + 3
    assert before.items() <= after.items()
    assert len({path.read_bytes() for path in out.rglob("*.JPEG")}) == 1
    assert sorted(path.name for path in out.iterdir()) == ["info.json", "train"]
    assert not list(out.rglob("*.tmp"))

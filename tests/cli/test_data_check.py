"""`drn data check` as a process: what it prints, as JSON too, its exit code, and Ctrl-C."""

import json
import os
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
from PIL import Image


@pytest.fixture
def folder(own_data_folder: Path) -> Path:
    """A data folder without a fault: info.json has the true mean and std."""
    path = own_data_folder / "info.json"
    names = (own_data_folder / "train_images.txt").read_text().split()
    pixels = np.stack([np.asarray(Image.open(own_data_folder / name)) for name in names]) / 255
    info = json.loads(path.read_text())
    info |= {"mean": pixels.mean((0, 1, 2)).tolist(), "std": pixels.std((0, 1, 2)).tolist()}
    path.write_text(json.dumps(info))
    return own_data_folder


def test_good_folder_is_told_in_tables(drn, folder: Path) -> None:
    done = drn("data", "check", folder)
    assert done.returncode == 0, done.stderr
    lines = [line.split() for line in done.stdout.splitlines()]
    assert ["train", "12", "12", "64x48", "64x48"] in lines
    assert ["val", "5", "5", "64x48", "64x48"] in lines
    names = ((folder / "labels" / f"{n}.png") for n in range(12))
    counts = np.bincount(np.stack([np.asarray(Image.open(name)) for name in names]).ravel())
    (red,) = [line for line in lines if line[:1] == ["red"]]
    assert red[1:4] == ["0", f"{counts[0]:,}", f"{100 * counts[0] / counts[:3].sum():.3f}"]
    assert "training pictures: mean 0." in done.stdout
    assert lines[-1] == ["no", "problems"]


def test_bad_folder_is_told_by_kind_and_fails(drn, folder: Path) -> None:
    for number in range(4):
        path = folder / "pictures" / f"{number}.png"
        path.write_bytes(path.read_bytes()[:1000])
    label = np.zeros((48, 64), np.uint8)
    label[5, :3] = 200
    Image.fromarray(label).save(folder / "labels" / "101.png")
    Image.fromarray(np.full_like(label, 255)).save(folder / "labels" / "102.png")
    shown = drn("data", "check", folder, "--limit", "3")
    assert shown.returncode == 1, shown.stderr
    lines = shown.stdout.splitlines()
    start = lines.index("error: files that cannot be read (4)")
    assert [line.count("broken image") for line in lines[start + 1 : start + 4]] == [1, 1, 1]
    assert lines[start + 4] == "  and 1 more"
    assert any("101.png (val_labels.txt:2): has the value 200 (3 px)" in line for line in lines)
    assert "warning: labels without a labelled pixel (1)" in lines
    assert lines[-1] == "5 errors, 1 warning"
    whole = drn("data", "check", folder, "--json")
    assert whole.returncode == 1
    document = json.loads(whole.stdout)
    assert document["ok"] is False
    assert len(document["findings"]) == 6
    assert document["findings"][4]["values"] == [{"value": 200, "pixels": 3}]


def test_json_of_a_good_folder_has_all_numbers(drn, folder: Path) -> None:
    done = drn("data", "check", folder, "--split", "train", "--json")
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert (document["root"], document["ok"], document["findings"]) == (str(folder), True, [])
    assert document["splits"] == {
        "train": {"pictures": 12, "labels": 12, "smallest": [64, 48], "largest": [64, 48]}
    }
    assert document["statistics"]["measured"]["mean"] == pytest.approx(
        document["statistics"]["recorded"]["mean"], abs=1e-6
    )
    assert [entry["name"] for entry in document["classes"]] == ["red", "green", "blue"]
    assert sum(entry["share"] for entry in document["classes"]) == pytest.approx(1)
    assert {name: len(w) for name, w in document["class_weights"].items()} == {
        "median_frequency": 3,
        "enet": 3,
    }


def test_unknown_number_of_classes_is_said_and_no_fault(drn, folder: Path) -> None:
    info = json.loads((folder / "info.json").read_text())
    del info["classes"]
    (folder / "info.json").write_text(json.dumps(info))
    done = drn("data", "check", folder)
    assert done.returncode == 0, done.stderr
    assert "labels go up to 2; how many classes there are is written nowhere" in done.stdout
    judged = drn("data", "check", folder, "--classes", "2", "--limit", "0")
    assert judged.returncode == 1
    assert "error: label values that are no class" in judged.stdout
    assert ".png" not in judged.stdout


def test_class_folder_is_told_in_a_table(drn, tmp_path: Path) -> None:
    for split, count in (("train", 3), ("val", 1)):
        for name in ("cat", "[dog]"):
            place = tmp_path / "pets" / split / name
            place.mkdir(parents=True)
            for number in range(count):
                value = len(name) + 20 * number + 10 * count
                Image.fromarray(np.full((4, 6, 3), value, np.uint8)).save(place / f"{number}.png")
    shutil.rmtree(tmp_path / "pets" / "val" / "[dog]")
    done = drn("data", "check", "pets")
    assert done.returncode == 0, done.stderr
    lines = [line.split() for line in done.stdout.splitlines()]
    assert ["train", "6", "3", "3", "3", "6x4", "6x4"] in lines
    assert ["val", "1", "0", "0.5", "1", "6x4", "6x4"] in lines
    assert "  pets/val/[dog]: is missing" in done.stdout.splitlines()
    assert lines[-1] == ["1", "warning"]


def test_mistakes_are_one_line(drn, tmp_path: Path, folder: Path) -> None:
    failed = drn("data", "check", tmp_path / "absent", "--json")
    assert (failed.returncode, failed.stdout) == (1, "")
    assert failed.stderr.startswith(f"error: {tmp_path / 'absent'}: no such folder")
    unknown = drn("data", "check", folder, "--split", "vla")
    assert unknown.returncode == 2
    assert "--split vla: one of train, val, test" in unknown.stderr


def test_interrupt_is_one_line(drn, until, folder: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (1200, 1600, 3)).astype(np.uint8)
    (folder / "many").mkdir()
    picture = folder / "many" / "0.png"
    Image.fromarray(noise).save(picture, compress_level=1)
    names = [f"many/{number}.png" for number in range(400)]
    for name in names[1:]:
        (folder / name).hardlink_to(picture)
    (folder / "test_images.txt").write_text("\n".join(names))
    process = drn.begin("data", "check", folder)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    until(lambda: process.poll() is not None or children.read_text().split())
    os.killpg(process.pid, signal.SIGINT)  # a terminal sends it to the whole group
    printed, said = process.communicate(timeout=60)
    assert (process.returncode, printed) == (130, "")
    assert "interrupted" in said
    assert "Traceback" not in said

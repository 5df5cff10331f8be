"""`drn data prepare pairs` as a process: from colours without names to a data folder."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

COLOURS = np.array([(0, 0, 0), (128, 64, 128), (0, 128, 0)], np.uint8)


@pytest.fixture
def folders(tmp_path: Path) -> tuple[str, ...]:
    for kind in ("photos", "labels"):
        (tmp_path / kind).mkdir()
    for n in range(6):
        random = np.random.default_rng(n)
        picture = random.integers(0, 256, (6, 8, 3)).astype(np.uint8)
        Image.fromarray(picture).save(tmp_path / "photos" / f"{n}.jpg")
        label = random.integers(0, 3, (6, 8))
        Image.fromarray(COLOURS[label]).save(tmp_path / "labels" / f"{n}_L.png")
    return ("data", "prepare", "pairs", "--images", "photos", "--labels", "labels")


def test_from_colours_without_names_to_a_data_folder(
    drn, folders: tuple[str, ...], tmp_path: Path
) -> None:
    failed = drn(*folders)
    assert (failed.returncode, failed.stdout) == (1, "")
    assert "colours that nothing names" in failed.stderr
    assert "Traceback" not in failed.stderr
    assert not (tmp_path / "data").exists()

    begun = drn(*folders, "--write-classes", "classes.csv")
    assert begun.stdout == "classes.csv written: 3 classes\n"
    assert "--classes classes.csv" in begun.stderr
    text = (tmp_path / "classes.csv").read_text()
    (tmp_path / "classes.csv").write_text(text.replace("class 0", "void"))

    made = drn(*folders, "--classes", "classes.csv", "--out", "out", "--val", "0.3")
    assert made.returncode == 0, made.stderr
    assert made.stdout.startswith("out made: ")
    assert "labels: stem + _L, 6 pairs" in made.stderr
    assert "data.root=out data.classes=2" in made.stderr
    again = drn(*folders, "--classes", "classes.csv", "--out", "out", "--val", "0.3", "--json")
    told = json.loads(again.stdout)
    assert told["unchanged"]
    assert sum(told["pictures"].values()) == 6


def test_what_is_left_out_is_told(drn, folders: tuple[str, ...], tmp_path: Path) -> None:
    (tmp_path / "labels" / "0_L.png").unlink()
    (tmp_path / "classes.txt").write_text("0 0 0 void\n128 64 128 road\n0 128 0 tree")
    failed = drn(*folders, "--classes", "classes.txt")
    assert failed.returncode == 1
    assert "pictures without a label: 1 (0.jpg)" in failed.stderr
    begun = drn(*folders, "--skip-unmatched", "--write-classes", "new.csv", "--json")
    assert json.loads(begun.stdout) == {"classes_file": "new.csv", "classes": 3}
    made = drn(*folders, "--classes", "classes.txt", "--skip-unmatched", "--out", "out")
    assert made.returncode == 0, made.stderr
    assert "left out: no partner 1 (0.jpg)" in made.stderr

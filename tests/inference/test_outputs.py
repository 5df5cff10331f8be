from pathlib import Path

import numpy as np
from PIL import Image

from drn_cli.data.classes import camvid
from drn_cli.data.images import overlay, read_image, read_label
from drn_cli.inference.outputs import write_prediction


def test_three_files_hold_ids_colours_and_overlay(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    image = random.integers(0, 256, (6, 7, 3)).astype(np.uint8)
    classes = random.integers(0, 11, (6, 7)).astype(np.uint8)
    name = Path("deep") / "a.png"
    files = write_prediction(tmp_path / "out", name, image, classes, camvid())
    assert files == {
        kind: tmp_path / "out" / kind / "deep" / "a.png" for kind in ("index", "colour", "overlay")
    }
    for kind, mode in {"index": "L", "colour": "P", "overlay": "RGB"}.items():
        with Image.open(files[kind]) as written:
            assert written.mode == mode
    assert np.array_equal(read_label(files["index"]), classes)
    assert np.array_equal(read_label(files["colour"]), classes)
    assert np.array_equal(read_image(files["overlay"]), overlay(image, classes, camvid()))
    assert len([path for path in tmp_path.rglob("*") if path.is_file()]) == 3


def test_prediction_of_before_is_replaced(tmp_path: Path) -> None:
    image = np.zeros((2, 2, 3), np.uint8)
    for number in (1, 2):
        classes = np.full((2, 2), number, np.uint8)
        files = write_prediction(tmp_path, Path("a.png"), image, classes, camvid())
    assert (read_label(files["index"]) == 2).all()

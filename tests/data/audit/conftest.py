"""Small valid data folders for tests to damage, and reading in this process."""

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from drn_cli.data.audit import reading

COUNTS = {"train": 4, "val": 2, "test": 1}
CLASSES = ["red", "green", "blue"]


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Read files in this process: starting others takes most of the time of a small check."""

    def serial(
        work: Callable[[Any], Any],
        items: Sequence[Any],
        progress: Callable[[int, int], None] | None,
    ) -> Iterator[Any]:
        for done, item in enumerate(items, start=1):
            yield work(item)
            if progress:
                progress(done, len(items))

    monkeypatch.setattr(reading, "in_parallel", serial)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Images of 8x6 in `images/` and their labels in `labels/`, with equal names, 0 to 6."""
    root, random = tmp_path / "data", np.random.default_rng(0)
    (root / "images").mkdir(parents=True)
    (root / "labels").mkdir()
    number, training = 0, []
    for split, count in COUNTS.items():
        names = [f"{number + n}.png" for n in range(count)]
        number += count
        for name in names:
            image = random.integers(0, 256, (6, 8, 3)).astype(np.uint8)
            label = random.permutation(np.arange(48) % 3).reshape(6, 8).astype(np.uint8)
            label[0] = 255
            Image.fromarray(image).save(root / "images" / name)
            if split != "test":
                Image.fromarray(label).save(root / "labels" / name)
            if split == "train":
                training.append(image.reshape(-1, 3) / 255)
        (root / f"{split}_images.txt").write_text("".join(f"images/{name}\n" for name in names))
        if split != "test":
            (root / f"{split}_labels.txt").write_text("".join(f"labels/{name}\n" for name in names))
    pixels = np.concatenate(training)
    info = {
        "mean": pixels.mean(axis=0).tolist(),
        "std": pixels.std(axis=0).tolist(),
        "classes": CLASSES,
        "colours": [[255, 0, 0], [0, 255, 0], [0, 0, 255]],
    }
    (root / "info.json").write_text(json.dumps(info))
    return root


@pytest.fixture
def class_folder(tmp_path: Path) -> Path:
    """Three training images and one validation image for each of two classes."""
    root, random = tmp_path / "classes", np.random.default_rng(1)
    for split, count in (("train", 3), ("val", 1)):
        for name in ("cat", "dog"):
            (root / split / name).mkdir(parents=True)
            for number in range(count):
                image = random.integers(0, 256, (6 + number, 8, 3)).astype(np.uint8)
                Image.fromarray(image).save(root / split / name / f"{number}.png")
    return root

"""An untrained segmenter, images, and `drn predict` in this process."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from drn_cli.cli.app import app
from drn_cli.data.classes import ClassSet
from drn_cli.data.folders import ChannelStats
from drn_cli.inference.metadata import to_metadata
from drn_cli.networks import create_model
from drn_cli.networks.checkpoints import save_weights

CLASSES = ClassSet(("red", "green", "blue"), ((200, 40, 40), (40, 200, 40), (40, 40, 200)))
STATISTICS = ChannelStats((0.37, 0.37, 0.37), (0.3, 0.31, 0.32))


def write_segmenter(path: Path, seed: int) -> Path:
    torch.manual_seed(seed)
    model = create_model("drn_a_18", "segmentation", len(CLASSES))
    save_weights(path, model, to_metadata(model, STATISTICS, CLASSES))
    return path


@pytest.fixture(scope="session")
def segmenter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_segmenter(tmp_path_factory.mktemp("segmenter") / "net.safetensors", 0)


@pytest.fixture(scope="session")
def other_segmenter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_segmenter(tmp_path_factory.mktemp("other") / "net.safetensors", 1)


def draw(number: int, height: int = 48, width: int = 64) -> Image.Image:
    """Draw colored blocks with noise."""
    random = np.random.default_rng(number)
    blocks = random.integers(0, 256, (-(-height // 16), -(-width // 16), 3))
    image = blocks.repeat(16, 0).repeat(16, 1)[:height, :width]
    noisy = image + random.normal(0, 10, image.shape)
    return Image.fromarray(np.clip(noisy, 0, 255).astype(np.uint8))


@pytest.fixture(scope="session")
def drawn() -> Callable[..., Image.Image]:
    return draw


@pytest.fixture
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """photos/a.png, b.jpg, c.png and deep/d.png, in the current folder."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "photos"
    (folder / "deep").mkdir(parents=True)
    for number, name in enumerate(("a.png", "b.jpg", "c.png", "deep/d.png")):
        draw(number, 48 + 5 * number, 64).save(folder / name)
    return folder


@pytest.fixture
def predict(segmenter: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """`drn predict` in this process, without a GPU like the other processes of the tests."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)

    def run(*words: str | Path, weights: Path = segmenter, stdin: bytes | None = None) -> Any:
        command = ["predict", "--weights", str(weights), *map(str, words)]
        return CliRunner().invoke(app, command, input=stdin)

    return run


@pytest.fixture
def piped(segmenter: Path, tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[bytes]]:
    """`drn predict` in a separate process, with bytes in stdin and stdout."""

    def run(data: bytes, *words: str) -> subprocess.CompletedProcess[bytes]:
        command = [sys.executable, "-m", "drn_cli", "predict", "--weights", str(segmenter), *words]
        return subprocess.run(
            command,
            input=data,
            cwd=tmp_path,
            env=os.environ | {"CUDA_VISIBLE_DEVICES": "", "COLUMNS": "100", "TERM": "dumb"},
            capture_output=True,
            timeout=300,
            check=False,
        )

    return run


def seen_below(folder: Path) -> dict[str, bytes]:
    """Return the content of the files below a folder that are not hidden."""
    paths = (path for path in folder.rglob("*") if path.is_file())
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in paths
        if not path.name.startswith(".")
    }


@pytest.fixture(scope="session")
def files_in() -> Callable[[Path], dict[str, bytes]]:
    return seen_below

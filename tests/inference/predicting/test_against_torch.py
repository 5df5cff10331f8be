import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from drn_cli.cli.app import app
from drn_cli.networks import create_model
from drn_cli.networks.models import DRN
from drn_cli.networks.weights import load_weights

COLOURS = np.array([(200, 40, 40), (40, 200, 40), (40, 40, 200)])


@pytest.fixture(scope="session")
def network(trained) -> DRN:
    model = create_model("drn_a_18", "segmentation", 3)
    load_weights(model, trained.folder / "checkpoints" / "best.safetensors")
    return model.eval()


@torch.no_grad()
def expected(network: DRN, path: Path) -> np.ndarray:
    """Class ids of an image, computed with plain torch."""
    pixels = np.asarray(Image.open(path).convert("RGB")).astype(np.float32) / 255
    normal = (pixels - np.array([0.37, 0.37, 0.37])) / np.array([0.3, 0.31, 0.32])
    x = torch.from_numpy(normal.astype(np.float32)).permute(2, 0, 1)[None]
    return network(x).argmax(1)[0].numpy()


@pytest.fixture
def photos(data_folder, tmp_path, monkeypatch) -> Path:
    """photos/a.png, photos/deep/er/b.jpg and photos/deep/notes.txt, in the current folder."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "photos"
    (folder / "deep" / "er").mkdir(parents=True)
    shutil.copy(data_folder / "images" / "100.png", folder / "a.png")
    Image.open(data_folder / "images" / "101.png").resize((50, 37)).save(
        folder / "deep" / "er" / "b.jpg"
    )
    (folder / "deep" / "notes.txt").write_text("no image")
    return folder


@pytest.fixture
def predict(trained):
    return lambda *words: CliRunner().invoke(
        app, ["predict", "--weights", str(trained.folder), *map(str, words)]
    )


def files_below(folder: Path) -> list[str]:
    """Return the files below a folder that are not hidden."""
    paths = (path for path in folder.rglob("*") if path.is_file())
    return sorted(str(p.relative_to(folder)) for p in paths if not p.name.startswith("."))


def assert_prediction(network: DRN, image: Path, out: Path, name: str) -> None:
    classes = expected(network, image)
    index = Image.open(out / "index" / name)
    assert index.mode == "L"
    assert np.array_equal(np.asarray(index), classes)
    colour = Image.open(out / "colour" / name)
    assert np.array_equal(np.asarray(colour), classes)  # a palette image keeps the ids
    assert np.array_equal(np.asarray(colour.convert("RGB")), COLOURS[classes])
    original = np.asarray(Image.open(image).convert("RGB")).astype(float)
    overlay = np.asarray(Image.open(out / "overlay" / name)).astype(float)
    assert np.abs(overlay - (original + COLOURS[classes]) / 2).max() <= 1


def test_folder_structure_is_kept(predict, network, photos, tmp_path):
    result = predict("photos")
    assert result.exit_code == 0, result.output
    out = tmp_path / "predictions"
    names = ("a.png", "deep/er/b.png")
    kinds = ("colour", "index", "overlay")
    assert files_below(out) == [*(f"{k}/{n}" for k in kinds for n in names), "predictions.json"]
    assert_prediction(network, photos / "a.png", out, "a.png")
    assert_prediction(network, photos / "deep" / "er" / "b.jpg", out, "deep/er/b.png")
    assert "2 images segmented" in result.stdout


def test_output_folder_inside_input(predict, photos, tmp_path):
    for _ in range(2):
        assert predict("photos", "--out", "photos/out").exit_code == 0
    assert files_below(photos / "out" / "index") == ["a.png", "deep/er/b.png"]


def test_last_checkpoint(trained, photos, tmp_path):
    last = trained.folder / "checkpoints" / "last.pt"
    result = CliRunner().invoke(app, ["predict", "photos/a.png", "--weights", str(last)])
    assert result.exit_code == 0
    model = create_model("drn_a_18", "segmentation", 3).eval()
    model.load_state_dict(torch.load(last, weights_only=True)["model"])
    assert_prediction(model, photos / "a.png", tmp_path / "predictions", "a.png")

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from drn_cli.cli.app import app
from drn_cli.errors import DrnError
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
    """What the network says of a picture, by plain torch."""
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
    shutil.copy(data_folder / "pictures" / "100.png", folder / "a.png")
    Image.open(data_folder / "pictures" / "101.png").resize((50, 37)).save(
        folder / "deep" / "er" / "b.jpg"
    )
    (folder / "deep" / "notes.txt").write_text("no picture")
    return folder


@pytest.fixture
def predict(trained):
    return lambda *words: CliRunner().invoke(
        app, ["predict", "--weights", str(trained.folder), *map(str, words)]
    )


def files_below(folder: Path) -> list[str]:
    """Name the files below a folder that are not hidden."""
    paths = (path for path in folder.rglob("*") if path.is_file())
    return sorted(str(p.relative_to(folder)) for p in paths if not p.name.startswith("."))


def assert_prediction(network: DRN, picture: Path, out: Path, name: str) -> None:
    classes = expected(network, picture)
    index = Image.open(out / "index" / name)
    assert index.mode == "L"
    assert np.array_equal(np.asarray(index), classes)
    colour = Image.open(out / "colour" / name)
    assert np.array_equal(np.asarray(colour), classes)  # a palette picture keeps the ids
    assert np.array_equal(np.asarray(colour.convert("RGB")), COLOURS[classes])
    original = np.asarray(Image.open(picture).convert("RGB")).astype(float)
    overlay = np.asarray(Image.open(out / "overlay" / name)).astype(float)
    assert np.abs(overlay - (original + COLOURS[classes]) / 2).max() <= 1


def test_a_folder_keeps_its_structure(predict, network, photos, tmp_path):
    result = predict("photos")
    assert result.exit_code == 0, result.output
    out = tmp_path / "predictions"
    names = ("a.png", "deep/er/b.png")
    kinds = ("colour", "index", "overlay")
    assert files_below(out) == [*(f"{k}/{n}" for k in kinds for n in names), "predictions.json"]
    assert_prediction(network, photos / "a.png", out, "a.png")
    assert_prediction(network, photos / "deep" / "er" / "b.jpg", out, "deep/er/b.png")
    assert "2 pictures labelled" in result.stdout


def test_files_and_out(predict, network, photos, tmp_path):
    result = predict("photos/a.png", "photos/deep/er/b.jpg", "--out", "else/where")
    assert result.exit_code == 0
    assert files_below(tmp_path / "else" / "where" / "index") == ["a.png", "b.png"]
    assert_prediction(network, photos / "a.png", tmp_path / "else" / "where", "a.png")
    assert not (tmp_path / "predictions").exists()


def test_a_quoted_glob(predict, photos, tmp_path):
    assert predict("photos/**/*.jpg").exit_code == 0
    assert files_below(tmp_path / "predictions" / "index") == ["deep/er/b.png"]


def test_a_second_run_leaves_the_first_ones_predictions_alone(predict, photos, tmp_path):
    for _ in range(2):
        assert predict("photos", "--out", "photos/out").exit_code == 0
    assert files_below(photos / "out" / "index") == ["a.png", "deep/er/b.png"]


def test_a_broken_picture_is_skipped_and_told(predict, network, photos, tmp_path):
    whole = (photos / "a.png").read_bytes()
    (photos / "aa_broken.png").write_bytes(whole[: len(whole) // 2])
    done = predict("photos", "--json")
    assert done.exit_code == 1
    found = json.loads(done.stdout)
    assert [entry["image"] for entry in found["written"]] == [
        "photos/a.png",
        "photos/deep/er/b.jpg",
    ]
    assert [entry["image"] for entry in found["failed"]] == ["photos/aa_broken.png"]
    assert "broken image" in found["failed"][0]["error"]
    assert "error: photos/aa_broken.png: broken image" in done.stderr
    assert "1 of 3 images failed" in done.stderr
    assert files_below(tmp_path / "predictions" / "index") == ["a.png", "deep/er/b.png"]
    assert_prediction(
        network, photos / "deep" / "er" / "b.jpg", tmp_path / "predictions", "deep/er/b.png"
    )


def test_json_names_every_file(predict, photos, trained):
    result = predict("photos/a.png", "--json")
    found = json.loads(result.stdout)
    assert found["checkpoint"] == str(trained.folder / "checkpoints" / "best.safetensors")
    assert found["failed"] == []
    assert found["written"] == [
        {
            "image": "photos/a.png",
            "index": "predictions/index/a.png",
            "colour": "predictions/colour/a.png",
            "overlay": "predictions/overlay/a.png",
        }
    ]
    assert all(Path(found["written"][0][kind]).is_file() for kind in ("index", "overlay"))


def test_the_newest_run_by_default(trained, photos, tmp_path, monkeypatch, network):
    monkeypatch.chdir(trained.cwd)
    out = tmp_path / "out"
    result = CliRunner().invoke(app, ["predict", str(photos / "a.png"), "--out", str(out)])
    assert result.exit_code == 0, result.output
    assert "best.safetensors on 1 pictures" in result.stderr
    assert_prediction(network, photos / "a.png", out, "a.png")


def test_last_checkpoint(trained, photos, tmp_path):
    last = trained.folder / "checkpoints" / "last.pt"
    result = CliRunner().invoke(app, ["predict", "photos/a.png", "--weights", str(last)])
    assert result.exit_code == 0
    model = create_model("drn_a_18", "segmentation", 3).eval()
    model.load_state_dict(torch.load(last, weights_only=True)["model"])
    assert_prediction(model, photos / "a.png", tmp_path / "predictions", "a.png")


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        (["nowhere.png"], "nowhere.png: no such file or folder"),
        (["*.gif"], r"\*.gif: matches no file"),
        (["empty"], "empty: no images here"),
    ],
)
def test_nothing_to_predict(predict, photos, tmp_path, inputs, message):
    (tmp_path / "empty").mkdir()
    result = predict(*inputs)
    assert isinstance(result.exception, DrnError)
    with pytest.raises(DrnError, match=message):
        raise result.exception
    assert not (tmp_path / "predictions").exists()


def test_no_run_at_all(photos):
    result = CliRunner().invoke(app, ["predict", "photos"])
    assert isinstance(result.exception, DrnError)
    assert "no trained run here" in str(result.exception)


def test_usage_errors(photos):
    assert CliRunner().invoke(app, ["predict"]).exit_code == 2
    assert CliRunner().invoke(app, ["predict", "photos", "--scales", "x"]).exit_code == 2

"""Non-finite scores: every command names the image, instead of predicting class 0."""

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from typer.testing import CliRunner

import drn_cli
from drn_cli.cli.app import app
from drn_cli.data.classes import ClassSet
from drn_cli.data.folders import ChannelStats
from drn_cli.errors import DrnError
from drn_cli.export.form import ENDINGS, ExportConfig
from drn_cli.export.onnx import write_onnx
from drn_cli.export.openvino import write_openvino
from drn_cli.export.program import trace, write_program
from drn_cli.inference.loading import load_classifier, load_predictor
from drn_cli.inference.metadata import to_metadata
from drn_cli.inference.runtimes import ExportedNetwork
from drn_cli.inference.score_maps import NonFiniteScoresError
from drn_cli.networks import create_model
from drn_cli.networks.checkpoints import save_weights
from drn_cli.networks.models import DRN

CLASSES = ClassSet(("a", "b"), ((1, 2, 3), (200, 100, 0)))
AS_IT_IS = ChannelStats((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))  # black is 0 in every layer
FAILS = "bright.png: the network's scores are not finite (NaN or infinity)"


@pytest.fixture(scope="module")
def overflowing(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Networks with finite weights and scores that are finite for black images only."""
    files = {}
    for task in ("segmentation", "classification"):
        torch.manual_seed(0)
        model = create_model("drn_a_18", task, len(CLASSES))
        with torch.no_grad():
            model.head.bias.copy_(torch.tensor([1.0, 2.0]))
            for parameter in model.parameters():
                if parameter.ndim == 4 and parameter is not model.head.weight:
                    parameter.mul_(1e12)
        folders = None if task == "segmentation" else ["n1", "n2"]
        files[task] = tmp_path_factory.mktemp(task) / "net.safetensors"
        save_weights(files[task], model, to_metadata(model, AS_IT_IS, CLASSES, folders))
    return files


def draw(path: Path, value: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((32, 40, 3), value, np.uint8)).save(path)


@pytest.fixture
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Three images, one of which overflows, with labels, class folders and boxes."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for name, value in (("black", 0), ("bright", 255), ("dark", 0)):
        draw(Path(f"photos/{name}.png"), value)
        draw(Path(f"folders/val/n2/{name}.png"), value)
        label = Path(f"labels/{name}.png")
        label.parent.mkdir(exist_ok=True)
        Image.fromarray(np.eye(32, 40, dtype=np.uint8)).save(label)
    Path("folders/train/n1").mkdir(parents=True)
    shutil.copy("photos/dark.png", "folders/train/n1")
    shutil.copytree("folders/train/n1", "folders/train/n2")
    lines = [f"{name},n2,1,1,9,9" for name in ("black.png", "bright.png", "dark.png")]
    Path("boxes.csv").write_text("image,class,xmin,ymin,xmax,ymax\n" + "\n".join(lines) + "\n")
    return Path("photos")


def drn(*words: str | Path) -> Any:
    return CliRunner().invoke(app, [*map(str, words)])


@pytest.mark.parametrize(
    ("command", "task"),
    [
        (("predict", "photos"), "segmentation"),
        (("predict", "photos", "--ms", "--tile", "64"), "segmentation"),
        (("predict", "photos", "--csv", "a.csv"), "classification"),
        (("predict", "photos", "--ten-crop"), "classification"),
        (("localize", "photos"), "classification"),
        (("localize", "photos", "--of", "probability"), "classification"),
    ],
)
def test_other_images_are_predicted(
    photos: Path, overflowing: dict[str, Path], command: tuple[str, ...], task: str
) -> None:
    result = drn(*command, "--weights", overflowing[task], "--json")
    assert result.exit_code == 1
    found = json.loads(result.stdout)
    assert [entry["image"] for entry in found["results"]] == ["photos/black.png", "photos/dark.png"]
    assert found["failed"] == [{"image": "photos/bright.png", "error": f"photos/{FAILS}"}]
    assert f"error: photos/{FAILS} -> the weights are damaged" in result.stderr
    assert "1 of 3 images failed" in result.stderr
    for path in Path("predictions/index").glob("*.png"):
        assert path.stem in ("black", "dark")
        assert np.unique(Image.open(path)).tolist() == [1]
    if "--csv" in command:
        with Path("a.csv").open() as file:
            assert [row["image"] for row in csv.DictReader(file)] == [
                "photos/black.png",
                "photos/dark.png",
            ]


@pytest.mark.parametrize(
    ("command", "task"),
    [
        (("eval", "--images", "photos", "--labels", "labels"), "segmentation"),
        (("eval", "--data", "folders"), "classification"),
        (("localize", "photos", "--eval", "--boxes", "boxes.csv"), "classification"),
        (("predict", "photos/bright.png", "--out", "-"), "segmentation"),
    ],
)
def test_non_finite_image_fails_the_command(
    photos: Path, overflowing: dict[str, Path], command: tuple[str, ...], task: str
) -> None:
    result = drn(*command, "--weights", overflowing[task])
    assert isinstance(result.exception, DrnError)
    assert FAILS in str(result.exception)
    assert result.stdout == ""


@pytest.mark.parametrize(
    ("command", "task"),
    [
        (("eval", "--images", "photos", "--labels", "labels"), "segmentation"),
        (("eval", "--data", "folders"), "classification"),
        (("eval", "--data", "folders", "--ten-crop"), "classification"),
        (("localize", "photos", "--eval", "--boxes", "boxes.csv"), "classification"),
    ],
)
def test_partial_scores_other_images(
    photos: Path, overflowing: dict[str, Path], command: tuple[str, ...], task: str
) -> None:
    result = drn(*command, "--weights", overflowing[task], "--partial", "--json")
    assert result.exit_code == 1, result.output
    found = json.loads(result.stdout)
    assert (found["partial"], found["images"], found["expected"]) == (True, 2, 3)
    [failed] = found["failed"]
    assert FAILS in failed["error"]
    assert "partial: 2 of 3 scored: 1 of 3 failed" in result.stderr


def test_api_names_the_image(photos: Path, overflowing: dict[str, Path]) -> None:
    path = photos / "bright.png"
    pixels, fine = np.full((8, 8, 3), 255, np.uint8), photos / "black.png"
    for file in overflowing.values():
        predictor = drn_cli.Predictor(file)
        predictor(fine)
        with path.open("rb") as opened:
            for image, name in (
                (path, "photos/bright.png"),
                (Image.open(path), "photos/bright.png"),
                (opened, "photos/bright.png"),
                ([fine, opened], "photos/bright.png"),
                (pixels, "the image"),
                ([fine, pixels, fine], "image 2 of 3"),
                ((path.read_bytes(),), "image 1 of 1"),
            ):
                opened.seek(0)
                with pytest.raises(NonFiniteScoresError, match=rf"^{name}: the net") as raised:
                    predictor(image)
                assert "precision fp32, or an export without --half" in str(raised.value)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("task", ["segmentation", "classification"])
def test_exported_scores_are_checked(task: Any, value: float) -> None:
    answer = torch.zeros((1, 2, 5, 4) if task == "segmentation" else (1, 2))
    answer.view(-1)[-1] = value
    metadata = {"arch": "drn_a_18", "task": task, "classes": "2", "input": "float32"}
    metadata |= {"outputs": "logits,scores"}
    network = ExportedNetwork(
        path=Path("net.onnx"), metadata=metadata, runtime="", start=lambda *_: lambda *_: answer
    )
    image, cpu = np.zeros((40, 32, 3), np.uint8), torch.device("cpu")
    ask: dict[str, Callable[[], object]] = {
        "segmentation": lambda: load_predictor(network, cpu)(image),
        "classification": lambda: load_classifier(network, cpu).log_probabilities(
            torch.zeros(1, 1, 224, 224, 3, dtype=torch.uint8)
        ),
    }
    with pytest.raises(NonFiniteScoresError):
        ask[task]()


def steep(weight: float) -> DRN:
    """Build a network with two opposite scores, large where an image is not black."""
    torch.manual_seed(0)
    model = create_model("drn_a_18", "segmentation", len(CLASSES)).eval()
    with torch.no_grad():
        model.head.bias.copy_(torch.tensor([1.0, 2.0]))
        model.head.weight[0], model.head.weight[1] = weight, -weight
    return model


@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("format_", ["onnx", "pt2", "openvino"])
def test_exported_class_maps_are_checked(photos: Path, format_: Any, normalize: bool) -> None:
    """The parity check of `drn export` would have refused these files."""
    model, form = steep(1e38), ExportConfig(format=format_, argmax=True, normalize=normalize)
    program = trace(model, AS_IT_IS, form)
    strings = to_metadata(model, AS_IT_IS, CLASSES)
    strings |= {"input": "uint8" if normalize else "normalised", "outputs": "classes"}
    file = Path(f"net{ENDINGS[form.format]}")
    if format_ == "onnx":
        write_onnx(file, program, form.outputs, strings)
    elif format_ == "pt2":
        write_program(file, program, strings)
    else:
        write_openvino(file, program, form.outputs, strings, half=False, calibration=[])
    result = drn("predict", "photos", "--weights", file, "--json")
    assert result.exit_code == 1
    assert f"error: photos/{FAILS}" in result.stderr
    failed = [entry["image"] for entry in json.loads(result.stdout)["failed"]]
    assert failed == ["photos/bright.png"]
    for name in ("black", "dark"):
        assert np.unique(Image.open(f"predictions/index/{name}.png")).tolist() == [1]
    with pytest.raises(NonFiniteScoresError, match=r"^photos/bright\.png: "):
        drn_cli.Predictor(file)(photos / "bright.png")


def test_argmax_export_overflowing_in_16_bits_is_refused(tmp_path: Path) -> None:
    """Scores are plus and minus infinity, so that the class happens to be right."""
    model = steep(6e4)
    save_weights(tmp_path / "net.safetensors", model, to_metadata(model, AS_IT_IS, CLASSES))
    options = (
        "--argmax",
        "--half",
        "--size",
        "64x48",
        "--format",
        "pt2",
        "--out",
        tmp_path / "a.pt2",
    )
    result = drn("export", tmp_path / "net.safetensors", *options)
    assert isinstance(result.exception, DrnError)
    assert "synthetic scene 0: the scores of the export, in" in str(result.exception)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["net.safetensors"]


def test_validation_fails_with_image_and_step(photos: Path, overflowing: dict[str, Path]) -> None:
    """Training images and those of the pre-flight check are black."""
    for split, names in (("train", ["black"] * 4), ("val", ["dark", "bright", "dark"])):
        for kind, folder in (("images", "photos"), ("labels", "labels")):
            lines = "".join(f"{folder}/{name}.png\n" for name in names)
            Path(f"{split}_{kind}.txt").write_text(lines)
    info = {"mean": AS_IT_IS.mean, "std": AS_IT_IS.std, "classes": CLASSES.names}
    Path("info.json").write_text(json.dumps(info | {"colours": CLASSES.colours}))
    recipe = {
        "task": "segmentation",
        "model": {"arch": "drn_a_18", "weights": str(overflowing["segmentation"])},
        "data": {"root": ".", "classes": 2, "workers": 0},
        "augment": {"crop": 32, "scale": 1.0, "rotate": 0, "flip": False},
        "train": {"epochs": 1, "batch_size": 2, "lr": 1e-9},
    }
    Path("recipe.yaml").write_text(yaml.safe_dump(recipe))
    result = drn("train", "recipe.yaml", "--run-dir", "run")
    assert isinstance(result.exception, DrnError)
    assert f"validation after step 2: photos/{FAILS}" in str(result.exception)
    assert Path("run/checkpoints/last.pt").is_file()
    assert not Path("run/checkpoints/best.safetensors").exists()

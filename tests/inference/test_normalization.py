"""Sources of mean and std in each command, and warnings about guesses."""

import json
import logging
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from drn_cli.cli.app import app
from drn_cli.data.classes import ClassSet
from drn_cli.data.folders import CITYSCAPES, IMAGENET, ChannelStats
from drn_cli.errors import DrnError
from drn_cli.inference.metadata import read_channel_stats, to_metadata
from drn_cli.inference.opening import read_network
from drn_cli.networks import create_model
from drn_cli.networks.checkpoints import save_weights
from drn_cli.networks.conversion import to_original_keys

OWN = ChannelStats((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
OPTION = ("--mean", "0.7,0.6,0.5", "--std", "0.3,0.2,0.1")
UNIT = ChannelStats((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
STATED = ChannelStats((0.7, 0.6, 0.5), (0.3, 0.2, 0.1))
CLASSES = ClassSet(("a", "b", "c"), ((1, 2, 3), (4, 5, 6), (7, 8, 9)))


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Checkpoints by name: ours have mean and std, the original's do not."""
    folder = tmp_path_factory.mktemp("files")
    found = {}
    for name, task, classes in (
        ("three", "segmentation", 3),
        ("nineteen", "segmentation", 19),
        ("classifier", "classification", 3),
    ):
        torch.manual_seed(0)
        model = create_model("drn_d_22", task, classes).eval()
        found[name] = folder / f"{name}.pth"
        torch.save(to_original_keys(model), found[name])
        if name != "nineteen":
            folders = None if task == "segmentation" else ["n1", "n2", "n3"]
            found[f"our {name}"] = folder / f"{name}.safetensors"
            save_weights(found[f"our {name}"], model, to_metadata(model, OWN, CLASSES, folders))
    return found


@pytest.fixture
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """photos/a.png, labels/a.png, and stats/info.json, in the current folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(logging.getLogger("drn_cli"), "propagate", True)
    for folder in ("photos", "labels", "stats"):
        Path(folder).mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (32, 40, 3)).astype(np.uint8)
    Image.fromarray(pixels).save("photos/a.png")
    Image.fromarray(pixels[..., 0] % 3).save("labels/a.png")
    Path("stats/info.json").write_text(json.dumps({"mean": STATED.mean, "std": STATED.std}))
    return Path("photos")


def drn(*words: str | Path) -> Any:
    return CliRunner().invoke(app, [*map(str, words)])


def used(result: Any) -> tuple[ChannelStats, str]:
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    found = found.get("protocol", found)
    return ChannelStats(tuple(found["mean"]), tuple(found["std"])), found["mean_std_source"]


PREDICT = ("predict", "photos")
EVALUATE = ("eval", "--images", "photos", "--labels", "labels")
LOCALIZE = ("localize", "photos")
GUESS = "imagenet (guessed)"


@pytest.mark.parametrize(
    ("command", "name", "options", "statistics", "source"),
    [
        (PREDICT, "three", (), IMAGENET, GUESS),
        (PREDICT, "nineteen", (), CITYSCAPES, "cityscapes (guessed: 19 classes)"),
        (PREDICT, "our three", (), OWN, "file"),
        (PREDICT, "three", ("--stats", "stats"), STATED, "stats folder"),
        (PREDICT, "our three", OPTION, STATED, "option"),
        (PREDICT, "classifier", (), IMAGENET, GUESS),
        (PREDICT, "classifier", OPTION, STATED, "option"),
        (EVALUATE, "three", (), IMAGENET, GUESS),
        (EVALUATE, "three", OPTION, STATED, "option"),
        (EVALUATE, "our three", ("--stats", "stats"), STATED, "stats folder"),
        (LOCALIZE, "classifier", (), IMAGENET, GUESS),
        (LOCALIZE, "classifier", ("--stats", "stats"), STATED, "stats folder"),
    ],
)
def test_source_is_reported_and_guesses_warn(
    photos: Path,
    files: dict[str, Path],
    command: tuple[str, ...],
    name: str,
    options: tuple[str, ...],
    statistics: ChannelStats,
    source: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    result = drn(*command, "--weights", files[name], *options, "--json")
    assert used(result) == (statistics, source)
    lines = [text for text in caplog.messages if " std" in text]
    assert len(lines) == ("guessed" in source or (name.startswith("our") and source != "file"))
    if "guessed" in source:
        mean = ", ".join(f"{value:.6g}" for value in statistics.mean)
        assert f"{source}: mean {mean} and std" in lines[0]
        assert (
            "(set the mean and std of its training data, or its data folder as stats)" in lines[0]
        )
        assert "--" not in lines[0]  # the Python API has no options
    elif lines:
        assert "its mean 0.1, 0.2, 0.3" in lines[0]
        assert "overridden by mean 0.7, 0.6, 0.5" in lines[0]
    if command == PREDICT and "classifier" not in name:
        [row] = json.loads(Path("predictions/predictions.json").read_text())["made_by"]
        assert (row["mean"], row["mean_std_source"]) == (list(statistics.mean), source)
    if command == EVALUATE:
        text = json.loads(result.stdout)["protocol"]["text"]
        assert f"({source})." in text


def test_options_affect_predictions_and_exports(
    photos: Path, files: dict[str, Path], caplog: pytest.LogCaptureFixture
) -> None:
    for options in ((), OPTION):
        words = ("--save", "probabilities", "--out", f"out{len(options)}", *options)
        assert drn("predict", "photos", "--weights", files["three"], *words).exit_code == 0
    words = ("--format", "safetensors", "--out", "made.safetensors", *OPTION)
    result = drn("export", files["three"], *words)
    assert result.exit_code == 0, result.output
    made = read_network(Path("made.safetensors")).metadata
    assert (json.loads(made["mean"]), json.loads(made["std"])) == ([0.7, 0.6, 0.5], [0.3, 0.2, 0.1])
    assert drn(*PREDICT, "--weights", "made.safetensors", *words[:0]).exit_code == 0
    guessed = ("--format", "onnx", "--normalize", "--out", "guessed.onnx")
    assert drn("export", files["three"], *guessed).exit_code == 0
    caplog.clear()
    result = drn(*PREDICT, "--weights", "guessed.onnx", "--out", "again", "--json")
    assert used(result) == (IMAGENET, GUESS)
    warning = "guessed.onnx: its mean and std were guessed when it was exported"
    assert warning in caplog.text
    caplog.clear()
    data_folders()
    result = drn("eval", "--data", "stats", "--weights", "guessed.onnx", "--json")
    assert used(result) == (IMAGENET, GUESS)  # part of the network, unlike the data folder's
    assert warning in caplog.text
    plain, stated = (np.load(f"out{n}/probabilities/a.npz")["probabilities"] for n in (0, 4))
    assert np.abs(plain - stated).max() > 0.01


@pytest.mark.parametrize(
    ("name", "marked", "options", "expected"),
    [
        ("three", "", (), (STATED, "data folder")),
        ("our three", "", (), (OWN, "file")),
        ("our three", "imagenet", (), (STATED, "data folder")),
        ("our three", "imagenet", ("--mean", "0,0,0", "--std", "1,1,1"), (UNIT, "option")),
        ("our classifier", "imagenet", (), (STATED, "data folder")),
    ],
)
def test_data_folder_overrides_guess_of_export(
    photos: Path,
    files: dict[str, Path],
    name: str,
    marked: str,
    options: tuple[str, ...],
    expected: tuple[ChannelStats, str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    data_folders()
    weights = files[name]
    if marked:
        network, weights = read_network(weights), Path("marked.safetensors")
        save_weights(weights, network.model, {**network.metadata, "mean_std_guess": marked})
    data = "folders" if "classifier" in name else "stats"
    assert used(drn("eval", "--weights", weights, "--data", data, *options, "--json")) == expected
    assert "guess" not in caplog.text
    if not marked or options:
        return
    Path("folders/info.json").unlink()
    Path("stats/info.json").write_text("{}")
    own = read_channel_stats(network.metadata, IMAGENET), marked
    assert used(drn("eval", "--weights", weights, "--data", data, "--json")) == own
    assert "its mean and std were guessed when it was exported" in caplog.text


def data_folders() -> None:
    """Make a data folder of stats, and class folders with the same mean and std."""
    Path("stats/val_images.txt").write_text("../photos/a.png\n")
    Path("stats/val_labels.txt").write_text("../labels/a.png\n")
    for wnid in ("n1", "n2", "n3"):
        for split in ("train", "val"):
            Path(f"folders/{split}/{wnid}").mkdir(parents=True)
            Image.open("photos/a.png").save(f"folders/{split}/{wnid}/a.png")
    Path("folders/info.json").write_text(Path("stats/info.json").read_text())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--mean", "0.1,0.2,0.3"), "mean and std: only one of them is given (set both"),
        (("--std", "0.1,0.2,0.3"), "mean and std: only one of them is given (set both"),
        ((*OPTION, "--stats", "stats"), "stats: conflicts with mean and std"),
        (("--mean", "124,116,104", "--std", "1,1,1"), "mean 124,116,104: should be three"),
        (("--mean", "0,0,0", "--std", "1,0,1"), "std 1,0,1: should be three numbers in 1e-06"),
        (("--mean", "0,0,0", "--std", "255,255,255"), "std 255,255,255: should be three numbers"),
        (("--stats", "photos"), "stats: photos/info.json: no such file"),
        (("--stats", "nowhere"), "stats: nowhere: no such data folder"),
    ],
)
def test_invalid_options_are_refused(
    photos: Path, files: dict[str, Path], options: tuple[str, ...], message: str
) -> None:
    result = drn(*PREDICT, "--weights", files["three"], *options)
    assert isinstance(result.exception, DrnError)
    assert message in str(result.exception)


@pytest.mark.parametrize("name", ["drn_d_22-4bd2f8ea.pth", "drnd22-0823-5c2c6a0c.pth.zip"])
def test_imported_published_weights_have_imagenet_statistics(
    photos: Path, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Including exports of the imported weights."""
    state = to_original_keys(create_model("drn_d_22", "classification", 3))
    inner = name.removesuffix(".zip")
    torch.save(state, inner)
    if name != inner:
        with zipfile.ZipFile(name, "w") as archive:
            archive.write(inner)
        Path(inner).unlink()
    assert drn("models", "import", name, "--out", "mine.safetensors").exit_code == 0
    words = ("--format", "safetensors", "--out", "made.safetensors")
    caplog.clear()
    assert drn("export", "mine.safetensors", *words).exit_code == 0
    for file in ("mine.safetensors", "made.safetensors"):
        _, source = used(drn(*PREDICT, "--weights", file, "--json"))
        assert source == ("file" if file.startswith("made") else "imagenet (published weights)")
        assert "mean_std_guess" not in read_network(Path(file)).metadata
    assert not [text for text in caplog.messages if "guess" in text]


@pytest.mark.parametrize("text", ["nan,0,0", "1e400,0,0", "0.1,0.2", "a,b,c"])
def test_malformed_numbers_are_usage_errors(photos: Path, text: str) -> None:
    assert drn(*PREDICT, "--mean", text, "--std", "1,1,1").exit_code == 2


def test_resnet_weights_are_not_a_classifier(
    photos: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The file is recognized by its name."""
    model = create_model("drn_a_18", "classification", 1000)
    torch.save(to_original_keys(model), "resnet18-f37072fd.pth")
    for command in (PREDICT, LOCALIZE):
        result = drn(*command, "--weights", "resnet18-f37072fd.pth")
        assert result.exit_code == 0, result.output
        [text] = caplog.messages
        assert "not a trained classifier" in text
        caplog.clear()

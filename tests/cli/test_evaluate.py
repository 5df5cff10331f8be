import json
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from drn_cli.cli.app import app
from drn_cli.data.images import read_image, read_label
from drn_cli.errors import DrnError
from drn_cli.inference.loading import load_predictor


def scores(result) -> dict:
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


@pytest.fixture
def evaluate(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    return lambda *words: CliRunner().invoke(app, ["eval", *map(str, words)])


@pytest.fixture(scope="session")
def matrix(trained, data_folder) -> np.ndarray:
    """The confusion matrix, counted pixel by pixel without the package's evaluation."""
    best = trained.folder / "checkpoints" / "best.safetensors"
    predictor = load_predictor(best, torch.device("cpu"))
    counts = np.zeros((3, 3), int)
    for name in (data_folder / "val_images.txt").read_text().split():
        prediction = predictor(read_image(data_folder / name)).numpy()
        label = read_label(data_folder / name.replace("pictures", "labels"))
        valid = label != 255
        np.add.at(counts, (label[valid], prediction[valid]), 1)
    return counts


def test_one_and_two_processes_give_the_same_document(drn, trained, matrix):
    """Five pictures: unequal shares. The document is all that is on stdout."""
    one, two = (drn("eval", trained.folder, "--json", "--gpus", str(gpus)) for gpus in (1, 2))
    assert (one.returncode, two.returncode) == (0, 0), one.stderr + two.stderr
    assert one.stdout == two.stdout
    found = json.loads(one.stdout)
    assert found["confusion_matrix"] == matrix.tolist()
    assert found["images"] == 5
    assert found["split"] == "val"
    assert found["checkpoint"] == str(trained.folder / "checkpoints" / "best.safetensors")
    right = np.diag(matrix)
    union = matrix.sum(0) + matrix.sum(1) - right
    assert list(found["iou"].values()) == pytest.approx(list(right / union))
    assert list(found["iou"]) == ["red", "green", "blue"]
    assert found["miou"] == pytest.approx(np.mean(right / union))
    assert found["pixel_accuracy"] == pytest.approx(right.sum() / matrix.sum())


def test_more_processes_than_pictures(drn, trained, own_data_folder):
    for kind in ("images", "labels"):
        path = own_data_folder / f"val_{kind}.txt"
        path.write_text(path.read_text().splitlines()[0] + "\n")
    two = drn("eval", trained.folder, "--data", own_data_folder, "--json", "--gpus", "2")
    assert two.returncode == 0, two.stderr
    assert json.loads(two.stdout)["images"] == 1


def test_newest_run_without_a_name(evaluate, trained, monkeypatch, matrix):
    monkeypatch.chdir(trained.cwd)
    found = scores(evaluate("--json"))
    assert trained.cwd / found["checkpoint"] == (
        trained.folder / "checkpoints" / "best.safetensors"
    )
    assert found["confusion_matrix"] == matrix.tolist()


def test_run_folder_best_and_last(evaluate, trained, read_metrics):
    checkpoints = trained.folder / "checkpoints"
    records = [record for record in read_metrics(trained.folder) if record["kind"] == "val"]
    best = scores(evaluate(checkpoints / "best.safetensors", "--json"))
    assert best["miou"] == max(record["miou"] for record in records)
    assert scores(evaluate(trained.folder, "--json")) == best
    last = scores(evaluate(checkpoints / "last.pt", "--json"))
    assert last["miou"] == records[-1]["miou"]
    assert last["pixel_accuracy"] == records[-1]["pixel_accuracy"]


def test_split_and_data(evaluate, trained, own_data_folder, data_folder):
    found = scores(evaluate(trained.folder, "--split", "train", "--json"))
    assert (found["split"], found["images"]) == ("train", 12)
    (own_data_folder / "val_images.txt").write_text("pictures/0.png\npictures/1.png\n")
    (own_data_folder / "val_labels.txt").write_text("labels/0.png\nlabels/1.png\n")
    assert scores(evaluate(trained.folder, "--data", own_data_folder, "--json"))["images"] == 2
    missing = evaluate(trained.folder, "--split", "test")
    assert isinstance(missing.exception, DrnError)
    assert "test_images.txt: no such list" in str(missing.exception)


def test_a_file_alone_needs_data(evaluate, trained, data_folder, tmp_path):
    best = (trained.folder / "checkpoints" / "best.safetensors").read_bytes()
    alone = tmp_path / "alone.safetensors"
    alone.write_bytes(best)
    refused = evaluate(alone)
    assert isinstance(refused.exception, DrnError)
    assert "--data DIR" in str(refused.exception)
    found = scores(evaluate(alone, "--data", data_folder, "--json"))
    assert found["miou"] == scores(evaluate(trained.folder, "--json"))["miou"]


def test_scales_flip_and_tile_are_heeded(evaluate, trained, matrix):
    plain = matrix.tolist()
    for words in (["--scales", "0.5,2"], ["--flip"]):
        found = scores(evaluate(trained.folder, *words, "--json"))["confusion_matrix"]
        assert found != plain
        assert np.sum(found) == matrix.sum()
    assert scores(evaluate(trained.folder, "--tile", "64", "--json"))["confusion_matrix"] == plain


def test_table(evaluate, trained, matrix):
    result = evaluate(trained.folder)
    assert result.exit_code == 0
    lines = {line.split()[0]: line.split() for line in result.stdout.splitlines() if line.strip()}
    labelled = matrix.sum(axis=1)
    right = np.diag(matrix)
    iou = 100 * right / (matrix.sum(0) + labelled - right)
    for number, name in enumerate(("red", "green", "blue")):
        assert lines[name] == [name, f"{iou[number]:.2f}", f"{labelled[number]:,}"]
    assert lines["mIoU"] == ["mIoU", f"{iou.mean():.2f}"]
    assert "5 pictures" in result.stderr


def test_no_run_at_all(evaluate):
    error = evaluate().exception
    assert isinstance(error, DrnError)
    assert str(error).startswith("runs: no trained run here")
    assert "drn train" in str(error)


def test_a_broken_checkpoint_is_told_once(drn, trained, data_folder, tmp_path):
    content = (trained.folder / "checkpoints" / "best.safetensors").read_bytes()
    (tmp_path / "cut.safetensors").write_bytes(content[:1000])
    done = drn("eval", "cut.safetensors", "--data", data_folder, "--gpus", "2", "--json")
    assert (done.returncode, done.stdout) == (1, "")
    errors = done.stderr.splitlines()
    assert len(errors) == 1 and errors[0].startswith("error: cut.safetensors: ")


@pytest.mark.parametrize(
    "words", [["--split", "all"], ["--scales", "big"], ["--scales", "0"], ["--tile", "1"]]
)
def test_usage_errors(evaluate, words):
    result = evaluate(*words)
    assert result.exit_code == 2
    assert words[0] in result.stderr


def test_missing_checkpoint(evaluate):
    error = evaluate(Path("nowhere")).exception
    assert isinstance(error, DrnError)
    assert str(error) == "nowhere: no such run folder or checkpoint file"

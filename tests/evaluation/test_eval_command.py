"""`drn eval` of runs and checkpoints."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from training_runs import ALONE, prepare_in
from typer.testing import CliRunner

from drn_cli.cli.app import app
from drn_cli.data.images import read_image, read_label
from drn_cli.errors import DrnError
from drn_cli.inference.loading import load_predictor
from drn_cli.runs import Run
from drn_cli.training.checkpoint import TrainProgress, save_checkpoint


def scores(result) -> dict:
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


@pytest.fixture
def evaluate(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    return lambda *words: CliRunner().invoke(app, ["eval", *map(str, words)])


@pytest.fixture(scope="session")
def matrices(trained, data_folder) -> dict[str, np.ndarray]:
    """Confusion matrix of each image, counted by NumPy."""
    best = trained.folder / "checkpoints" / "best.safetensors"
    predictor = load_predictor(best, torch.device("cpu"))
    found = {}
    for name in (data_folder / "val_images.txt").read_text().split():
        prediction = predictor(read_image(data_folder / name)).numpy()
        label = read_label(data_folder / name.replace("images", "labels"))
        valid, found[name] = label != 255, np.zeros((3, 3), int)
        np.add.at(found[name], (label[valid], prediction[valid]), 1)
    return found


@pytest.fixture(scope="session")
def matrix(matrices) -> np.ndarray:
    return sum(matrices.values())


def test_one_and_two_processes_print_the_same_json(drn, trained, matrix):
    """Five images: shards of unequal size. Nothing but JSON is on stdout."""
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


def test_more_processes_than_images(drn, trained, own_data_folder):
    for kind in ("images", "labels"):
        path = own_data_folder / f"val_{kind}.txt"
        path.write_text(path.read_text().splitlines()[0] + "\n")
    two = drn("eval", trained.folder, "--data", own_data_folder, "--json", "--gpus", "2")
    assert two.returncode == 0, two.stderr
    assert json.loads(two.stdout)["images"] == 1


@pytest.fixture
def untrained_run(trained, recipe_file, tmp_path) -> Path:
    """A finished run and a newer one that was killed before its first step; returns the newer."""
    shutil.copytree(trained.cwd / "runs", tmp_path / "runs")
    run = Run(tmp_path / "runs" / "easy" / "newer")
    training = prepare_in(ALONE, recipe_file, ())
    save_checkpoint(run.last, training, TrainProgress(), 0)
    shutil.copy(trained.folder / "recipe.yaml", run.recipe)
    run.metrics.write_text("")
    return run.folder


UNTRAINED = "last.pt: checkpoint of step 0: the network has not been trained"


def test_untrained_run_is_used_only_if_named(
    evaluate, untrained_run, matrix, data_folder, recipe_file, caplog
):
    newer = untrained_run.relative_to(Path.cwd())
    assert scores(evaluate("--json"))["confusion_matrix"] == matrix.tolist()
    image = data_folder / "images" / "0.png"
    for verb in (
        ["predict", str(image), "--out", "out"],
        ["export", "--format", "safetensors", "--out", "out/a.safetensors", "--json"],
    ):
        result = CliRunner().invoke(app, verb)
        assert result.exit_code == 0, result.output
        assert "(of the newest run with a best network)" in result.stderr
        assert str(newer) not in result.stderr
    assert UNTRAINED not in caplog.text
    for named in (newer, newer / "checkpoints" / "last.pt"):
        caplog.clear()
        result = evaluate(named, "--json")
        assert scores(result)["checkpoint"] == str(newer / "checkpoints" / "last.pt")
        assert UNTRAINED in caplog.text
        assert ("(the run has no best network yet)" in result.stderr) == (named == newer)
    caplog.clear()
    prepare_in(ALONE, recipe_file, (f"model.weights={newer / 'checkpoints' / 'last.pt'}",))
    assert UNTRAINED in caplog.text
    # The report shows the newest run, even while it trains.
    reported = CliRunner().invoke(app, ["report", "--images", "0", "--json"])
    assert json.loads(reported.stdout)["runs"] == [str(newer)]
    assert f"run: {newer} (the one with the newest metrics)" in reported.stderr


def test_no_run_with_a_best_network_is_an_error_of_all_verbs(evaluate, untrained_run, data_folder):
    for run in untrained_run.parent.iterdir():
        if run != untrained_run:
            shutil.rmtree(run)
    image = str(data_folder / "images" / "0.png")
    for words in (["eval"], ["predict", image], ["localize", image], ["export"]):
        result = CliRunner().invoke(app, words)
        assert isinstance(result.exception, DrnError)
        assert "no run has best weights yet" in str(result.exception)
        assert "runs/easy/newer" in str(result.exception)


def test_run_folder_means_its_best_checkpoint(evaluate, trained, read_metrics):
    checkpoints = trained.folder / "checkpoints"
    records = [record for record in read_metrics(trained.folder) if record["kind"] == "val"]
    best = scores(evaluate(checkpoints / "best.safetensors", "--json"))
    assert best["miou"] == max(record["miou"] for record in records)
    assert scores(evaluate(trained.folder, "--json")) == best
    last = scores(evaluate(checkpoints / "last.pt", "--json"))
    assert last["miou"] == records[-1]["miou"]
    assert last["pixel_accuracy"] == records[-1]["pixel_accuracy"]


def test_scales_flip_and_tile_are_applied(evaluate, trained, matrix):
    plain = matrix.tolist()
    for words in (["--scales", "0.5,2"], ["--flip"]):
        found = scores(evaluate(trained.folder, *words, "--json"))["confusion_matrix"]
        assert found != plain
        assert np.sum(found) == matrix.sum()
    assert scores(evaluate(trained.folder, "--tile", "64", "--json"))["confusion_matrix"] == plain


def test_broken_checkpoint_is_reported_once_by_two_processes(drn, trained, data_folder, tmp_path):
    content = (trained.folder / "checkpoints" / "best.safetensors").read_bytes()
    (tmp_path / "cut.safetensors").write_bytes(content[:1000])
    done = drn("eval", "cut.safetensors", "--data", data_folder, "--gpus", "2", "--json")
    assert (done.returncode, done.stdout) == (1, "")
    errors = done.stderr.splitlines()
    assert len(errors) == 1 and errors[0].startswith("error: cut.safetensors: ")


@pytest.fixture
def unreachable(monkeypatch, tmp_path) -> Path:
    """An empty weights cache without network access: the proxy does not exist."""
    monkeypatch.setenv("DRN_CACHE", str(tmp_path / "cache"))
    for name in ("DRN_MIRRORS", "no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    for scheme in ("http", "https"):
        monkeypatch.setenv(f"{scheme}_proxy", "http://127.0.0.1:9")
    # urllib caches an opener with the proxies; without this, later tests would use it.
    monkeypatch.setattr("urllib.request._opener", None)
    return tmp_path / "cache" / "weights"


@pytest.mark.parametrize("words", [["drn_d_22"], ["--weights", "DRN-D-22"]])
def test_network_name_means_published_weights(evaluate, data_folder, unreachable, words):
    error = evaluate(*words, "--data", data_folder).exception
    assert isinstance(error, DrnError)
    assert "the weights of drn_d_22 could not be downloaded" in str(error)
    assert "copy drn_d_22-4bd2f8ea.pth or drnd22-0823-5c2c6a0c.pth or " in error.hint
    assert str(unreachable) in error.hint

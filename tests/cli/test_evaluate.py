import csv
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
from drn_cli.training.checkpoint import Progress, save_checkpoint


def scores(result) -> dict:
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


@pytest.fixture
def evaluate(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    return lambda *words: CliRunner().invoke(app, ["eval", *map(str, words)])


def mean_iou(counts: np.ndarray) -> float:
    """Give mIoU where every class occurs."""
    right = np.diag(counts)
    return float((right / (counts.sum(0) + counts.sum(1) - right)).mean())


@pytest.fixture(scope="session")
def matrices(trained, data_folder) -> dict[str, np.ndarray]:
    """The confusion matrix of each picture, counted without the package's evaluation."""
    best = trained.folder / "checkpoints" / "best.safetensors"
    predictor = load_predictor(best, torch.device("cpu"))
    found = {}
    for name in (data_folder / "val_images.txt").read_text().split():
        prediction = predictor(read_image(data_folder / name)).numpy()
        label = read_label(data_folder / name.replace("pictures", "labels"))
        valid, found[name] = label != 255, np.zeros((3, 3), int)
        np.add.at(found[name], (label[valid], prediction[valid]), 1)
    return found


@pytest.fixture(scope="session")
def matrix(matrices) -> np.ndarray:
    return sum(matrices.values())


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
    result = evaluate("--json")
    found = scores(result)
    best = trained.folder / "checkpoints" / "best.safetensors"
    assert trained.cwd / found["checkpoint"] == best
    assert trained.cwd / found["run"] == trained.folder
    assert f"weights: {best.relative_to(trained.cwd)} (of the newest run with a b" in result.stderr
    assert found["confusion_matrix"] == matrix.tolist()


@pytest.fixture
def with_unproven(trained, recipe_file, tmp_path) -> Path:
    """Runs below a folder: a finished one, and a newer one that was killed before its first step.

    Gives the folder of the newer one.
    """
    shutil.copytree(trained.cwd / "runs", tmp_path / "runs")
    run = Run(tmp_path / "runs" / "easy" / "newer")
    training = prepare_in(ALONE, recipe_file, ())
    save_checkpoint(run.last, training, Progress(), 0)
    shutil.copy(trained.folder / "recipe.yaml", run.recipe)
    run.metrics.write_text("")
    return run.folder


def test_the_list_of_a_data_folder_is_scored_whole_or_not_at_all(
    evaluate, trained, own_data_folder
):
    path = own_data_folder / "pictures" / "101.png"
    path.write_bytes(path.read_bytes()[:-20])
    for words, problem in (
        ((), "101.png: broken image"),
        (("--partial",), "class folders, not for lists (correct the list or its files"),
    ):
        result = evaluate(trained.folder, "--data", own_data_folder, "--json", *words)
        assert isinstance(result.exception, DrnError)
        assert problem in str(result.exception)
        assert result.stdout == ""


UNTRAINED = "last.pt: checkpoint of step 0: this network has not been trained"


def test_a_run_that_was_killed_before_its_first_step_is_used_only_when_named(
    evaluate, with_unproven, matrix, data_folder, recipe_file, caplog
):
    newer = with_unproven.relative_to(Path.cwd())
    assert scores(evaluate("--json"))["confusion_matrix"] == matrix.tolist()
    image = data_folder / "pictures" / "0.png"
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
    # The report shows the newest run, also while it trains.
    reported = CliRunner().invoke(app, ["report", "--images", "0", "--json"])
    assert json.loads(reported.stdout)["runs"] == [str(newer)]
    assert f"run: {newer} (the one that measured last)" in reported.stderr


def test_without_a_best_network_all_verbs_say_so(evaluate, with_unproven, data_folder):
    for run in with_unproven.parent.iterdir():
        if run != with_unproven:
            shutil.rmtree(run)
    image = str(data_folder / "pictures" / "0.png")
    for words in (["eval"], ["predict", image], ["localize", image], ["export"]):
        result = CliRunner().invoke(app, words)
        assert isinstance(result.exception, DrnError)
        assert "no run here has a best network yet" in str(result.exception)
        assert "runs/easy/newer" in str(result.exception)


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
    ("words", "told"),
    [
        (["--split", "all"], "--split"),
        (["--scales", "big"], "--scales"),
        (["--scales", "0"], "--scales"),
        (["--scales", "0.5,nan"], "--scales"),
        (["--tile", "1"], "--tile"),
        (["run", "--weights", "run"], "named twice"),
        (["--images", "a"], "--labels goes with --images or --predictions"),
        (["--predictions", "a"], "--labels goes with --images or --predictions"),
        (["--labels", "a"], "--labels goes with --images or --predictions"),
        (["--labels", "a", "--images", "a", "--predictions", "a"], "two ways to score"),
        (["--images", "a", "--labels", "b", "--resize-to", "labels"], "--resize-to"),
        (["--images", "a", "--labels", "b", "--resize-to", "0x5"], "--resize-to"),
        (["--images", "a", "--labels", "b", "--resize-to", "5x"], "--resize-to"),
        (["--predictions", "a", "--labels", "b", "--labels-hold", "any"], "--labels-hold"),
        (["--classes", "256"], "--classes"),
        (["--gpus", "0"], "--gpus"),
    ],
)
def test_usage_errors(evaluate, words, told):
    result = evaluate(*words)
    assert result.exit_code == 2
    assert told in " ".join(result.stderr.replace("│", " ").split())


def test_ten_crops_are_not_for_segmenters(evaluate, trained):
    error = evaluate(trained.folder, "--ten-crop").exception
    assert isinstance(error, DrnError)
    assert "--ten-crop: is for classifiers" in str(error)


def test_missing_checkpoint(evaluate):
    for words in (["nowhere"], ["--weights", "nowhere"], ["drn_d_23"]):
        error = evaluate(*words).exception
        assert isinstance(error, DrnError)
        assert str(error) == f"{words[-1]}: no such run folder or checkpoint file"


def test_all_scales_of_the_paper_by_one_option(evaluate, trained, matrix):
    multi_scale = evaluate(trained.folder, "--ms", "--json")
    named = evaluate(trained.folder, "--scales", "0.5,0.75,1,1.25,1.5,1.75", "--json")
    assert scores(multi_scale) == scores(named)
    assert scores(named)["confusion_matrix"] != matrix.tolist()
    both = evaluate(trained.folder, "--ms", "--scales", "1")
    assert both.exit_code == 2
    assert "--ms and --scales" in both.stderr


@pytest.fixture
def unreachable(monkeypatch, tmp_path) -> Path:
    """An empty cache, and no way out: every address is asked of a proxy that is not there."""
    monkeypatch.setenv("DRN_CACHE", str(tmp_path / "cache"))
    for name in ("DRN_MIRRORS", "no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    for scheme in ("http", "https"):
        monkeypatch.setenv(f"{scheme}_proxy", "http://127.0.0.1:9")
    # urllib reads these once, and would keep them for the tests after this one.
    monkeypatch.setattr("urllib.request._opener", None)
    return tmp_path / "cache" / "weights"


@pytest.mark.parametrize("words", [["drn_d_22"], ["--weights", "DRN-D-22"]])
def test_name_of_a_network_means_its_published_weights(evaluate, data_folder, unreachable, words):
    error = evaluate(*words, "--data", data_folder).exception
    assert isinstance(error, DrnError)
    assert "the weights of drn_d_22 could not be downloaded" in str(error)
    assert "put drn_d_22-4bd2f8ea.pth or drnd22-0823-5c2c6a0c.pth or " in error.hint
    assert str(unreachable) in error.hint


def test_network_without_published_weights(evaluate, data_folder, unreachable):
    error = evaluate("drn_b_26", "--data", data_folder).exception
    assert isinstance(error, DrnError)
    assert "nobody published imagenet weights for drn_b_26" in str(error)


def test_csv_has_the_worst_picture_first(evaluate, trained, data_folder, matrices, tmp_path):
    result = evaluate(trained.folder, "--csv", "deep/pictures.csv", "--json")
    assert scores(result)["images"] == 5
    assert "written: deep/pictures.csv" in result.stderr
    with (tmp_path / "deep" / "pictures.csv").open(newline="") as file:
        header, *rows = csv.reader(file)
    assert header == ["image", "label", "miou", "pixel_accuracy", "red", "green", "blue"]
    expected = sorted(matrices, key=lambda name: mean_iou(matrices[name]))
    assert [row[0] for row in rows] == [str(data_folder / name) for name in expected]
    for name, row in zip(expected, rows, strict=True):
        counts = matrices[name]
        assert row[1] == str(data_folder / name.replace("pictures", "labels"))
        right = np.diag(counts)
        iou = right / (counts.sum(0) + counts.sum(1) - right)
        numbers = [iou.mean(), right.sum() / counts.sum(), *iou]
        assert row[2:] == [f"{number:.6f}" for number in numbers]


def test_the_worst_pictures_are_listed(evaluate, trained, data_folder, matrices):
    def listed(*words: str) -> list[list[str]]:
        lines = evaluate(trained.folder, *words).stdout.splitlines()
        return [line.split() for line in lines if line.startswith(str(data_folder))]

    order = sorted(matrices, key=lambda name: mean_iou(matrices[name]))
    expected = [
        [
            str(data_folder / name),
            f"{100 * mean_iou(matrices[name]):.2f}",
            f"{100 * np.trace(matrices[name]) / matrices[name].sum():.2f}",
        ]
        for name in order
    ]
    assert listed() == expected
    assert listed("--worst", "2") == expected[:2]
    assert listed("--worst", "0") == []


def test_report_is_a_page_with_the_score(evaluate, trained, matrix, tmp_path):
    result = evaluate(trained.folder, "--report", "eval.html", "--pictures", "2", "--json")
    assert result.exit_code == 0, result.output
    page = (tmp_path / "eval.html").read_text()
    assert f"{100 * mean_iou(matrix):.2f}" in page
    assert "1 worst and the 1 best" in page
    assert "written: eval.html" in result.stderr

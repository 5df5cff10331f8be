import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from training_runs import assert_same_run, content, go, prepare_in, read_best

from drn_cli.distributed.group import Group
from drn_cli.errors import DrnError
from drn_cli.inference.opening import read_network
from drn_cli.recipe.loading import load_recipe
from drn_cli.runs import Run
from drn_cli.training.setup import check_batch_size
from drn_cli.training.tasks import task_of
from drn_cli.training.validation import validate


def test_files_in_the_run_directory(trained, recipe_file):
    run = Run(trained.folder)
    files = sorted(str(p.relative_to(run.folder)) for p in run.folder.rglob("*") if not p.is_dir())
    assert files == [
        ".lock",
        "best.json",
        "checkpoints/best.safetensors",
        "checkpoints/last.pt",
        "environment.json",
        "metrics.jsonl",
        "recipe.yaml",
        "report.html",
    ]
    assert load_recipe(str(run.recipe)).recipe == load_recipe(str(recipe_file)).recipe


def test_metrics_of_steps_and_validations(trained):
    lines = (trained.folder / "metrics.jsonl").read_text().splitlines()
    records = [json.loads(line) for line in lines]
    # A line every ten steps and at the end of each epoch of three steps; validation every epoch.
    assert [(record["kind"], record["step"]) for record in records] == [
        ("train", 3),
        ("val", 3),
        ("train", 6),
        ("val", 6),
        ("train", 9),
        ("val", 9),
        ("train", 10),
        ("train", 12),
        ("val", 12),
        ("end", 12),
    ]
    train_records = [record for record in records if record["kind"] == "train"]
    # The learning rate of the step that was just taken.
    expected = [0.0007 * (1 - (step - 1) / 12) ** 0.9 for step in (3, 6, 9, 10, 12)]
    assert [record["lr"] for record in train_records] == pytest.approx(expected)
    assert [r["epoch"] for r in train_records] == pytest.approx([1, 2, 3, 10 / 3, 4])
    for record in train_records:
        assert record["skipped"] == 0
        assert record["grad_norm"] > 0
        assert record["images_per_second"] > 0
        assert 0 <= record["waiting"] < 1
    for record in records:
        if record["kind"] == "val":
            assert record["images"] == 5
            assert list(record["iou"]) == ["red", "green", "blue"]
            assert 0 <= record["miou"] <= 1
            assert record["seconds"] > 0
    assert records[-1]["ending"] == "finished"
    assert records[-1]["seconds"] > sum(r["seconds"] for r in records if r["kind"] == "val")


def test_it_learns(prepare, tmp_path, read_metrics):
    run = Run(tmp_path / "run")
    go(prepare("train.lr=0.05", "train.epochs=8", "train.eval_every=8"), run)
    records = read_metrics(run.folder)
    losses = [record["loss"] for record in records if record["kind"] == "train"]
    assert losses[-1] < 0.6 * losses[0]


def test_best_weights_and_their_metadata(trained, read_metrics):
    run = Run(trained.folder)
    scores = [r for r in read_metrics(run.folder) if r["kind"] == "val"]
    best = max(scores, key=lambda record: record["miou"])
    metadata, tensors = read_best(run)
    assert {key: metadata[key] for key in ("arch", "task", "classes")} == {
        "arch": "drn_a_18",
        "task": "segmentation",
        "classes": "3",
    }
    assert json.loads(metadata["mean"]) == [0.37, 0.37, 0.37]
    assert json.loads(metadata["std"]) == [0.3, 0.31, 0.32]
    assert json.loads(metadata["class_names"]) == ["red", "green", "blue"]
    assert json.loads(metadata["colours"])[1] == [40, 200, 40]
    assert float(metadata["score"]) == pytest.approx(best["miou"], abs=1e-6)
    assert int(metadata["epoch"]) == best["epoch"]
    assert content(run)["progress"]["best"] == best["miou"]
    assert tensors.keys() == content(run)["model"].keys()
    full = json.loads(run.scores.read_text())
    assert (full["step"], full["epoch"], full["miou"]) == (
        best["step"],
        best["epoch"],
        best["miou"],
    )
    matrix = np.array(full["confusion_matrix"])
    assert matrix.diagonal().sum() / matrix.sum() == pytest.approx(best["pixel_accuracy"])


def test_the_same_seed_trains_the_same_weights(prepare, tmp_path):
    """Bit for bit, with and without data loader workers."""
    runs = [Run(tmp_path / name) for name in ("one", "same", "other")]
    for run, more in zip(runs, [(), ("data.workers=2",), ("train.seed=1",)], strict=True):
        assert go(prepare("train.epochs=1", *more), run) is None
    assert_same_run(runs[0], runs[1])
    head = [content(run)["model"]["head.weight"] for run in runs]
    assert not torch.allclose(head[0], head[2])


def test_eval_every_and_the_validation_at_the_end(prepare, tmp_path, read_metrics):
    run = Run(tmp_path / "run")
    go(prepare("train.epochs=3", "train.eval_every=2", "train.batch_size=12"), run)
    steps = [record["step"] for record in read_metrics(run.folder) if record["kind"] == "val"]
    assert steps == [2, 3]


def test_void_labels_train_without_nan(
    own_data_folder, recipe_file, prepare, tmp_path, read_metrics
):
    void = Image.fromarray(np.full((48, 64), 255, np.uint8))
    for line in (own_data_folder / "train_labels.txt").read_text().splitlines():
        void.save(own_data_folder / line)
    run = Run(tmp_path / "run")
    go(prepare(f"data.root={own_data_folder}", "train.epochs=1"), run)
    record = read_metrics(run.folder)[0]
    assert (record["loss"], record["grad_norm"], record["skipped"]) == (0, 0, 0)
    weights = content(run)["model"].values()
    assert all(bool(torch.isfinite(tensor).all()) for tensor in weights)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_trains_in_16_bits(prepare, tmp_path, read_metrics, precision):
    """In fp16, steps with overflowing gradients are skipped until the scale has adapted."""
    run = Run(tmp_path / "run")
    go(prepare(f"train.precision={precision}", "train.epochs=1"), run)
    assert np.isfinite(read_metrics(run.folder)[0]["loss"])
    saved = content(run)
    assert {tensor.dtype for tensor in saved["model"].values()} == {torch.float32, torch.int64}
    assert all(bool(torch.isfinite(tensor).all()) for tensor in saved["model"].values())
    assert saved["scaler"]["scale"] == 1 if precision == "bf16" else saved["scaler"]["scale"] > 1


@pytest.mark.slow
def test_a_compiled_network_trains_the_same(prepare, tmp_path, read_metrics):
    overrides = ("train.epochs=1", "train.batch_size=6", "train.lr=0.0001")
    plain, compiled = Run(tmp_path / "plain"), Run(tmp_path / "compiled")
    go(prepare(*overrides), plain)
    training = prepare(*overrides, "train.compile=true")
    assert training.compiled
    go(training, compiled)
    losses = [read_metrics(run.folder)[0]["loss"] for run in (plain, compiled)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)
    assert content(plain)["model"].keys() == content(compiled)["model"].keys()


def test_activation_checkpointing_trains_the_same(prepare, tmp_path):
    runs = Run(tmp_path / "plain"), Run(tmp_path / "again")
    for run, again in zip(runs, ("false", "true"), strict=True):
        go(prepare("train.epochs=1", f"train.checkpoint_activations={again}"), run)
    assert_same_run(*runs)


def test_the_ema_is_validated_and_saved(prepare, tmp_path, read_metrics):
    run = Run(tmp_path / "run")
    go(prepare("train.epochs=1", "train.ema=0.5"), run)
    saved, best = content(run), read_best(run)[1]
    assert all(torch.equal(best[key], saved["averaged"][key]) for key in best)
    assert not torch.equal(best["head.weight"], saved["model"]["head.weight"])
    training = prepare()
    training.model.load_state_dict(saved["averaged"])
    scores = validate(training, training.data.val)
    assert scores is not None
    assert scores.value == read_metrics(run.folder)[1]["miou"]


def test_starts_from_weights(prepare, trained):
    best = Run(trained.folder).best
    training = prepare(f"model.weights={best}")
    expected = read_network(best).model.state_dict()
    torch.testing.assert_close(training.model.state_dict(), expected, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("overrides", "processes", "message"),
    [
        (["train.batch_size=13"], 1, "13 is more than the 12 training images"),
        (
            ["train.batch_size=6"],
            4,
            r"size 6 is not divisible by 4 .*--gpus 1, 2, 3, 6, or .*=4",
        ),
        (
            ["train.batch_size=12", "train.accumulate=2"],
            4,
            r"micro-batch size 6 is not divisible by 4 processes \(use --gpus 1, 2, 3, 6, .*=8\)",
        ),
        (
            ["train.batch_size=1"],
            4,
            r"by 4 processes \(use --gpus 1, or train.batch_size=4\)",
        ),
        (["data.classes=4"], 1, "has 3 classes"),
        (["data.root=nowhere"], 1, "nowhere: no such data folder"),
    ],
)
def test_refuses_invalid_data_and_batch_sizes(recipe_file, overrides, processes, message):
    recipe = load_recipe(str(recipe_file), overrides).recipe
    with pytest.raises(DrnError, match=message):
        check_batch_size(recipe, len(task_of(recipe).load_data(recipe).train), processes)


@pytest.mark.parametrize(("sync_bn", "warned"), [("true", True), ("false", True)])
def test_warns_about_batch_norm_over_single_images(prepare, caplog, sync_bn, warned):
    prepare("train.batch_size=4", "train.accumulate=4", f"train.sync_bn={sync_bn}")
    assert ("batch norm sees one image at a time" in caplog.text) is warned
    caplog.clear()
    prepare("train.batch_size=4", "train.accumulate=2", f"train.sync_bn={sync_bn}")
    assert caplog.text == ""


def train_in_two(group: Group, path: Path, folder: Path, overrides: tuple[str, ...]) -> None:
    go(prepare_in(group, path, overrides), Run(folder))


@pytest.mark.parametrize(
    "more", [(), ("train.accumulate=2", "loss.class_weights=[1,2,0.5]")], ids=["plain", "passes"]
)
def test_two_processes_train_the_same_as_one(
    spawn, prepare, recipe_file, tmp_path, read_metrics, more
):
    # Few steps and a low learning rate, since rounding errors grow with each step.
    overrides = ("train.epochs=1", "train.lr=0.0001", *more)
    one, two = Run(tmp_path / "one"), Run(tmp_path / "two")
    go(prepare(*overrides), one)
    spawn(train_in_two, 2, recipe_file, two.folder, overrides)
    found, expected = content(two), content(one)
    torch.testing.assert_close(found["model"], expected["model"], rtol=1e-5, atol=1e-5)
    for name in ("epoch", "step_in_epoch", "steps"):
        assert found["progress"][name] == expected["progress"][name]
    for record, other in zip(read_metrics(two.folder), read_metrics(one.folder), strict=True):
        assert record.keys() == other.keys()
        if record["kind"] == "train":
            assert record["loss"] == pytest.approx(other["loss"], rel=1e-4)
            assert record["grad_norm"] == pytest.approx(other["grad_norm"], rel=1e-3)


def test_without_sync_bn_the_validated_statistics_are_saved(
    spawn, prepare, recipe_file, tmp_path, read_metrics
):
    run = Run(tmp_path / "run")
    spawn(train_in_two, 2, recipe_file, run.folder, ("train.epochs=1", "train.sync_bn=false"))
    training = prepare()
    training.model.load_state_dict(content(run)["model"])
    found = validate(training, training.data.val)
    assert found is not None
    record = read_metrics(run.folder)[-2]
    assert record["kind"] == "val"
    assert record["miou"] == found.scores["miou"]
    assert record["pixel_accuracy"] == found.scores["pixel_accuracy"]

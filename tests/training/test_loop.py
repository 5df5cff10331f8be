import dataclasses
import itertools
import json
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open

from drn_cli.data.batches import Batch
from drn_cli.distributed.group import Group
from drn_cli.errors import DrnError
from drn_cli.inference.loading import load_predictor
from drn_cli.recipe.loading import load_recipe
from drn_cli.runs import Run
from drn_cli.training import loop
from drn_cli.training.loop import interruptible, take_step, train
from drn_cli.training.setup import Training, find_material, set_up

GROUP = Group(0, 1, torch.device("cpu"))

Prepare = Callable[..., Training]


@pytest.fixture
def prepare(recipe_file: Path) -> Prepare:
    def make(*overrides: str) -> Training:
        recipe = load_recipe(str(recipe_file), overrides).recipe
        return set_up(recipe, find_material(recipe, 1), GROUP)

    return make


def content(run: Run) -> dict[str, Any]:
    return torch.load(run.last, weights_only=True)


def assert_same_state(found: Run, expected: Run) -> None:
    """Weights, statistics, momentum and progress, bit for bit."""
    one, other = content(found), content(expected)
    torch.testing.assert_close(one["model"], other["model"], rtol=0, atol=0)
    buffers = [run["optimiser"]["state"] for run in (one, other)]
    assert buffers[0] and buffers[0].keys() == buffers[1].keys()
    for number in buffers[0]:
        momenta = [buffer[number]["momentum_buffer"] for buffer in buffers]
        assert torch.equal(*momenta)
    assert one["progress"] == other["progress"]
    assert one["optimiser"]["param_groups"] == other["optimiser"]["param_groups"]


def read_best(run: Run) -> tuple[dict[str, str], dict[str, torch.Tensor]]:
    with safe_open(run.best, "pt") as file:
        return file.metadata(), {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118


def assert_same_best(found: Run, expected: Run) -> None:
    assert read_best(found)[0] == read_best(expected)[0]
    torch.testing.assert_close(read_best(found)[1], read_best(expected)[1], rtol=0, atol=0)


def test_the_run_folder_says_everything(trained, recipe_file, data_folder):
    run = Run(trained.folder)
    files = sorted(str(p.relative_to(run.folder)) for p in run.folder.rglob("*") if not p.is_dir())
    assert files == [
        "checkpoints/best.safetensors",
        "checkpoints/last.pt",
        "environment.json",
        "metrics.jsonl",
        "recipe.yaml",
    ]
    assert load_recipe(str(run.recipe)).recipe == load_recipe(str(recipe_file)).recipe
    environment = json.loads(run.environment.read_text())
    assert environment["torch"] == torch.__version__
    assert (environment["device"], environment["processes"]) == ("cpu", 1)
    assert (environment["train_pictures"], environment["val_pictures"]) == (12, 5)
    assert str(recipe_file) in environment["command"]


def test_metrics_have_steps_and_validations(trained, read_metrics):
    records = read_metrics(trained.folder)
    # A line each ten steps and at the end of each epoch of three; a validation each epoch.
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
    ]
    train_records = [record for record in records if record["kind"] == "train"]
    # The rate is that of the step that was just taken.
    expected = [0.0007 * (1 - (step - 1) / 12) ** 0.9 for step in (3, 6, 9, 10, 12)]
    assert [record["lr"] for record in train_records] == pytest.approx(expected)
    assert [r["epoch"] for r in train_records] == pytest.approx([1, 2, 3, 10 / 3, 4])
    for record in records:
        if record["kind"] == "val":
            assert record["images"] == 5
            assert list(record["iou"]) == ["red", "green", "blue"]
            assert 0 <= record["miou"] <= 1


def test_it_learns(trained, read_metrics):
    records = read_metrics(trained.folder)
    losses = [record["loss"] for record in records if record["kind"] == "train"]
    assert losses[-1] < 0.6 * losses[0]


def test_the_best_network_is_kept_with_what_its_reader_needs(trained, read_metrics):
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
    assert float(metadata["miou"]) == pytest.approx(best["miou"], abs=1e-6)
    assert int(metadata["epoch"]) == best["epoch"]
    assert content(run)["progress"]["best"] == best["miou"]
    assert tensors.keys() == content(run)["model"].keys()


def test_seed_decides(prepare, tmp_path):
    """Two trainings with a seed are the same bit for bit, whoever reads the pictures."""
    overrides = ("train.epochs=1", "train.eval_every=1")
    runs = [Run(tmp_path / name) for name in ("one", "same", "other")]
    for run, more in zip(runs, [(), ("data.workers=2",), ("train.seed=1",)], strict=True):
        assert train(prepare(*overrides, *more), run) == "finished"
    assert_same_state(runs[0], runs[1])
    head = [content(run)["model"]["head.weight"] for run in runs]
    assert not torch.allclose(head[0], head[2])


def interrupt_after(steps: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Send this process a SIGINT while it takes a step."""
    counter = itertools.count(1)

    def step(*arguments: Any) -> Any:
        totals = take_step(*arguments)
        if next(counter) == steps:
            signal.raise_signal(signal.SIGINT)
        return totals

    monkeypatch.setattr(loop, "take_step", step)


@pytest.mark.parametrize(("step", "place"), [(4, (1, 1)), (6, (1, 3)), (11, (3, 2))], ids=str)
def test_a_resumed_run_is_the_uninterrupted_one(
    prepare, trained, tmp_path, monkeypatch, read_metrics, step, place
):
    """Interrupted in the middle of an epoch, after its last step, and after an early line."""
    run = Run(tmp_path / "run")
    before = signal.getsignal(signal.SIGINT)
    interrupt_after(step, monkeypatch)
    assert train(prepare(), run) == "interrupted"
    assert signal.getsignal(signal.SIGINT) is before
    progress = content(run)["progress"]
    assert (progress["epoch"], progress["step_in_epoch"]) == place
    assert progress["steps"] == step
    monkeypatch.undo()
    assert train(prepare(), run, resume=True) == "finished"
    assert_same_state(run, Run(trained.folder))
    assert read_metrics(run.folder) == read_metrics(trained.folder)
    assert_same_best(run, Run(trained.folder))


def test_a_run_that_crashed_goes_on_from_its_last_checkpoint(
    prepare, trained, tmp_path, monkeypatch, read_metrics
):
    """What was measured between checkpoint and crash is measured again, not twice."""
    run = Run(tmp_path / "run")

    interrupt_after(2, monkeypatch)  # the checkpoint; then five steps more, and the crash
    train(prepare(), run)
    monkeypatch.undo()
    kept = run.last.read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(loop, "_save", lambda *_: None)
        patch.setattr(loop, "take_step", _crash_after(5))
        with pytest.raises(RuntimeError, match="crash"):
            train(prepare(), run, resume=True)
    assert run.last.read_bytes() == kept
    assert [record["step"] for record in read_metrics(run.folder)][-1] > 3
    assert train(prepare(), run, resume=True) == "finished"
    assert read_metrics(run.folder) == read_metrics(trained.folder)
    assert_same_state(run, Run(trained.folder))


def _crash_after(steps: int) -> Callable[..., Any]:
    counter = itertools.count(1)

    def step(*arguments: Any) -> Any:
        if next(counter) > steps:
            raise RuntimeError("crash")
        return take_step(*arguments)

    return step


def test_a_finished_run_has_nothing_left_to_do(prepare, trained, tmp_path, read_metrics):
    run = Run(Path(shutil.copytree(trained.folder, tmp_path / "run")))
    assert train(prepare(), run, resume=True) == "finished"
    assert_same_state(run, Run(trained.folder))
    assert read_metrics(run.folder) == read_metrics(trained.folder)


def test_second_interrupt_is_heeded_at_once():
    with pytest.raises(KeyboardInterrupt), interruptible(aloud=False) as interrupt:
        signal.raise_signal(signal.SIGINT)
        assert interrupt.is_set
        signal.raise_signal(signal.SIGINT)


def test_sigterm_is_an_interrupt_too():
    before = signal.getsignal(signal.SIGTERM)
    with interruptible(aloud=False) as interrupt:
        assert not interrupt.is_set
        signal.raise_signal(signal.SIGTERM)
        assert interrupt.is_set
    assert signal.getsignal(signal.SIGTERM) is before


def test_validation_is_rare_if_asked_but_never_left_out_at_the_end(prepare, tmp_path, read_metrics):
    run = Run(tmp_path / "run")
    train(prepare("train.epochs=3", "train.eval_every=2", "train.batch_size=12"), run)
    steps = [record["step"] for record in read_metrics(run.folder) if record["kind"] == "val"]
    assert steps == [2, 3]


def batch_of(labels: int) -> Batch:
    images = torch.randint(0, 256, (2, 32, 32, 3), dtype=torch.uint8)
    return Batch(images, torch.full((2, 32, 32), labels, dtype=torch.uint8))


def test_a_batch_of_void_teaches_nothing(prepare):
    training = prepare("train.weight_decay=0")
    before = {name: p.detach().clone() for name, p in training.model.named_parameters()}
    training.model.train()
    assert take_step(training, batch_of(255), 0.1).tolist() == [0, 0]
    torch.testing.assert_close(dict(training.model.named_parameters()), before, rtol=0, atol=0)
    total, pixels = take_step(training, batch_of(1), 0.1).tolist()
    assert np.isfinite(total) and pixels == 2 * 32 * 32
    assert not torch.equal(training.model.head.weight, before["head.weight"])


def test_a_folder_of_void_trains_without_nan(own_data_folder, recipe_file, tmp_path, read_metrics):
    void = Image.fromarray(np.full((48, 64), 255, np.uint8))
    for line in (own_data_folder / "train_labels.txt").read_text().splitlines():
        void.save(own_data_folder / line)
    recipe = load_recipe(
        str(recipe_file), [f"data.root={own_data_folder}", "train.epochs=1"]
    ).recipe
    run = Run(tmp_path / "run")
    train(set_up(recipe, find_material(recipe, 1), GROUP), run)
    assert read_metrics(run.folder)[0]["loss"] == 0
    weights = content(run)["model"].values()
    assert all(bool(torch.isfinite(tensor).all()) for tensor in weights)


def test_loss_is_the_mean_over_valid_pixels(prepare):
    """Void pixels weigh nothing: the step is the same as if they were not there."""
    training = prepare()
    training.model.eval()  # so that the pictures do not see each other
    batch = batch_of(1)
    batch.labels[1] = 255
    total, pixels = take_step(training, batch, 0.0).tolist()
    alone = take_step(training, Batch(batch.images[:1], batch.labels[:1]), 0.0).tolist()
    assert pixels == 32 * 32
    assert [total, pixels] == pytest.approx(alone, rel=1e-5)


def test_a_loss_that_is_not_finite_is_an_error(prepare, tmp_path):
    run = Run(tmp_path / "run")
    with pytest.raises(DrnError, match=r"the loss is (nan|inf) at step \d+ \(a lower train.lr"):
        train(prepare("train.lr=1e9"), run)
    if run.last.is_file():  # what was saved before is of use
        weights = content(run)["model"].values()
        assert all(bool(torch.isfinite(tensor).all()) for tensor in weights)


def test_interrupted_with_a_loss_that_is_not_finite_keeps_the_earlier_checkpoint(
    prepare, trained, tmp_path, monkeypatch
):
    run = Run(tmp_path / "run")
    training = prepare()
    with torch.no_grad():
        training.model.head.bias.fill_(torch.nan)
    interrupt_after(1, monkeypatch)
    with pytest.raises(DrnError, match="the loss is nan"):
        train(training, run)
    assert not run.last.exists()


def test_the_checkpoint_of_another_network_is_refused(prepare, trained, tmp_path):
    run = Run(Path(shutil.copytree(trained.folder, tmp_path / "run")))
    with pytest.raises(DrnError, match="does not fit this run"):
        train(prepare("model.arch=drn_d_22"), run, resume=True)


def test_bf16_trains(prepare, tmp_path, read_metrics):
    run = Run(tmp_path / "run")
    train(prepare("train.precision=bf16", "train.epochs=1"), run)
    assert np.isfinite(read_metrics(run.folder)[0]["loss"])
    assert {tensor.dtype for tensor in content(run)["model"].values()} == {
        torch.float32,
        torch.int64,
    }


def test_starts_from_weights(prepare, trained):
    best = Run(trained.folder).best
    training = prepare(f"model.weights={best}")
    expected = load_predictor(best, GROUP.device).network.state_dict()  # type: ignore[attr-defined]
    torch.testing.assert_close(training.model.state_dict(), expected, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("overrides", "processes", "message"),
    [
        (["train.batch_size=13"], 1, "13 is more than the 12 training pictures"),
        (["train.batch_size=5"], 2, "5 pictures a step cannot be shared by 2 processes"),
        (["task=classification"], 1, "trains segmentation only"),
        (["data.classes=4"], 1, "names 3 classes"),
        (["data.root=nowhere"], 1, "nowhere: no such data folder"),
    ],
)
def test_mistakes_show_before_anything_starts(recipe_file, overrides, processes, message):
    recipe = load_recipe(str(recipe_file), overrides).recipe
    with pytest.raises(DrnError, match=message):
        find_material(recipe, processes)


def learn_in_two(group: Group, path: Path, folder: Path, overrides: list[str]) -> str:
    recipe = load_recipe(str(path), overrides).recipe
    return train(set_up(recipe, find_material(recipe, group.world), group), Run(folder))


def test_two_processes_train_what_one_does(spawn, prepare, recipe_file, tmp_path, read_metrics):
    # In few steps and with a low rate: float's rounding grows with each of them.
    overrides = ["train.epochs=1", "train.lr=0.0001"]
    one, two = Run(tmp_path / "one"), Run(tmp_path / "two")
    train(prepare(*overrides), one)
    assert spawn(learn_in_two, 2, recipe_file, two.folder, overrides) == ["finished"] * 2
    found, expected = content(two), content(one)
    torch.testing.assert_close(found["model"], expected["model"], rtol=1e-5, atol=1e-5)
    assert dataclasses.asdict(run_progress(found)) == dataclasses.asdict(run_progress(expected))
    for record, other in zip(read_metrics(two.folder), read_metrics(one.folder), strict=True):
        assert record.keys() == other.keys()
        if record["kind"] == "train":
            assert record["loss"] == pytest.approx(other["loss"], rel=1e-4)


def run_progress(saved: dict[str, Any]) -> loop.Progress:
    progress = loop.Progress(**saved["progress"])
    progress.best = None  # a pixel may fall to the other side
    return progress


def test_without_sync_bn_the_saved_network_is_the_validated_one(
    spawn, recipe_file, tmp_path, read_metrics, data_folder
):
    """Each process has statistics of its own then; those that are saved are those that count."""
    run = Run(tmp_path / "run")
    overrides = ["train.epochs=1", "train.sync_bn=false"]
    spawn(learn_in_two, 2, recipe_file, run.folder, overrides)
    recipe = load_recipe(str(recipe_file)).recipe
    training = set_up(recipe, find_material(recipe, 1), GROUP)
    training.model.load_state_dict(content(run)["model"])
    scores = loop.validate(training)
    record = read_metrics(run.folder)[-1]
    assert record["kind"] == "val"
    assert record["miou"] == scores.miou
    assert record["pixel_accuracy"] == scores.pixel_accuracy

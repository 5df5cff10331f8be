import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from drn_cli.recipe.loading import load_recipe
from drn_cli.recipe.schema import Recipe
from drn_cli.training.checkpoint import TrainProgress, save_checkpoint
from drn_cli.training.memory import GIB
from drn_cli.training.missing import missing_disk_space, missing_weights
from drn_cli.training.plan import DeviceInfo, DryRun, make_plan
from drn_cli.training.setup import TrainState

CPU = DeviceInfo("cpu", "CPU")


@pytest.fixture
def recipe_of(recipe_file: Path) -> Any:
    full_width = "model.width=1"
    return lambda *overrides: load_recipe(str(recipe_file), [full_width, *overrides]).recipe


def plan_of(recipe: Recipe, folder: Path, **options: Any) -> DryRun:
    fixed = {"processes": 1, "nodes": 1, "device": CPU, "precision": "fp32"}
    return make_plan(recipe, folder=folder, **{**fixed, **options})


def test_plan_of_a_run_that_can_start(recipe_of: Any, tmp_path: Path) -> None:
    recipe = recipe_of("train.batch_size=8", "train.accumulate=2", "train.eval_every=3")
    folder = tmp_path / "runs" / "easy"
    plan = plan_of(recipe, folder, processes=2)
    assert plan.missing == ()
    assert list(tmp_path.iterdir()) == []  # nothing is written
    assert (plan.train_images, plan.val_images) == (12, 5)
    assert (plan.micro_batch, plan.steps_per_epoch, plan.dropped) == (2, 1, 4)
    assert plan.validations == 2  # after epoch 3 and the last, 4
    assert plan.compiled is False
    rows = dict(plan.rows())
    assert rows["processes"] == "2 on 1 node; CPU"
    assert rows["step"] == "8 images = 2 processes x 2 micro-batches x 2 crops of 32"
    assert rows["epoch"] == "1 step; 4 of 12 images dropped"
    assert rows["training"] == "4 epochs, 4 steps"
    assert rows["validation"] == "2 validations of 5 images"
    assert rows["memory"].startswith("about 0.2 GiB per process (estimate): weights 0.04, ")
    values = json.loads(json.dumps(plan.to_json()))
    assert values["memory"]["total"] == plan.memory.total
    assert values["recipe"]["train"]["accumulate"] == 2
    assert values["run"] == str(folder)
    assert values["missing"] == []


def rates(recipe: Recipe, tmp_path: Path) -> tuple[list[tuple[float, float]], str]:
    plan = plan_of(recipe, tmp_path)
    found = [(pytest.approx(rate.epoch), pytest.approx(rate.rate)) for rate in plan.rates]
    return found, dict(plan.rows())["learning rate"]


def test_learning_rates_of_a_step_schedule(recipe_of: Any, tmp_path: Path) -> None:
    schedule = ("train.schedule.kind=step", "train.schedule.step=2", "train.lr=0.1")
    found, row = rates(recipe_of(*schedule, "train.epochs=5"), tmp_path)
    assert found == [(0, 0.1), (2, 0.01), (4, 0.001), (4 + 2 / 3, 0.001)]
    assert row == "0.1; 0.01 after 2 epochs; 0.001 after 4 epochs; 0.001 at the end (step)"
    _, row = rates(recipe_of(*schedule, "train.epochs=50"), tmp_path)
    assert row.endswith("1e-05 after 8 epochs; 1e-25 at the end; 20 more changes (step)")


def test_learning_rates_with_warm_up(recipe_of: Any, tmp_path: Path) -> None:
    recipe = recipe_of("train.schedule.warmup=0.5", "train.lr=0.1", "train.schedule.power=1")
    found, row = rates(recipe, tmp_path)
    # Three steps an epoch, four epochs, poly at each step.
    assert found == [(0, 0), (0.5, 0.1 * (1 - 0.5 / 4)), (4 - 1 / 3, 0.1 / 12)]
    assert row == "0; 0.0875 after 0.5 epochs; 0.00833 at the end (poly)"


def test_estimated_checkpoint_size(
    recipe_of: Any, prepare: Callable[..., TrainState], tmp_path: Path
) -> None:
    options = ("model.width=1", "train.ema=0.9", "train.keep_last=3")
    plan = plan_of(recipe_of(*options), tmp_path)
    path = tmp_path / "last.pt"
    save_checkpoint(path, prepare(*options), TrainProgress(), 0)
    assert path.stat().st_size == pytest.approx(plan.checkpoint, rel=0.02)
    assert plan.disk_space > 4 * plan.checkpoint
    assert "the last 3 kept" in dict(plan.rows())["checkpoint"]


def test_reports_everything_that_is_missing(
    recipe_of: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    (tmp_path / "file").touch()
    recipe = recipe_of(
        f"data.root={tmp_path}/none",
        f"model.weights={tmp_path}/none.pth",
        "train.tensorboard=true",
        "train.momentum=0",
        "train.optimiser.nesterov=true",
        "augment.crop=960",
    )
    gpu = DeviceInfo("cuda", "a small GPU", 1, GIB)
    plan = plan_of(
        recipe, tmp_path / "file" / "run", processes=4, nodes=2, device=gpu, precision="bf16"
    )
    expected = (
        f"{tmp_path}/none: no such data folder",
        f"model.weights: {tmp_path}/none.pth: no such file",
        "train.optimiser.nesterov: needs momentum",
        "train.tensorboard: the package tensorboard is not installed",
        "--gpus 2: this machine has 1",
        "memory: 1 crop of 960 needs about",
        f"{tmp_path}/file/run: cannot be written",
    )
    assert len(plan.missing) == len(expected)
    for line, start in zip(plan.missing, expected, strict=True):
        assert line.startswith(start)
        assert "\n" not in line
    assert "train.checkpoint_activations=true" in plan.missing[5]
    rows = dict(plan.rows())
    assert rows["epoch"] == "unknown: no data"
    assert rows["training"] == "4 epochs"
    assert " of 1.0 GiB" in rows["memory"]
    assert plan.compiled is None
    json.dumps(plan.to_json())


def test_checks_samples_and_batch_size(
    recipe_of: Any, own_data_folder: Path, tmp_path: Path
) -> None:
    (own_data_folder / "labels" / "0.png").write_bytes(b"broken")
    plan = plan_of(recipe_of(f"data.root={own_data_folder}"), tmp_path, processes=3)
    assert len(plan.missing) == 2
    assert "0.png" in plan.missing[0]
    assert plan.missing[1].startswith("train.batch_size: batch size 4 is not divisible by 3")
    assert plan.train_images == 12


def test_finds_cached_weights_without_downloading(
    recipe_of: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DRN_CACHE", str(tmp_path))
    monkeypatch.setenv("DRN_MIRRORS", "http://127.0.0.1:9")  # where no server answers

    def missing(arch: str) -> list[str]:
        recipe = recipe_of(f"model.arch={arch}", "model.weights=imagenet")
        return list(missing_weights(recipe))

    folder = tmp_path / "weights"
    (line,) = missing("drn_d_22")
    assert line.startswith(f"model.weights: drn_d_22-4bd2f8ea.pth is not cached in {folder}")
    assert not folder.exists()
    (line,) = missing("drn_d_24")
    assert line.startswith("model.weights: ") and "weights are published for drn_d_24" in line
    folder.mkdir()
    (folder / "drn_d_22-4bd2f8ea.pth").write_bytes(b"another content")
    assert len(missing("drn_d_22")) == 1
    (folder / "drnd22-0823-5c2c6a0c.pth.zip").touch()  # its content is checked when it is unpacked
    assert missing("drn_d_22") == []
    assert list(missing_weights(recipe_of())) == []


def test_disk_space_of_the_nearest_existing_folder(tmp_path: Path) -> None:
    folder = tmp_path / "not" / "yet"
    assert list(missing_disk_space(folder, 1000)) == []
    (line,) = missing_disk_space(folder, 10**18)
    assert line.startswith(f"{folder}: ")
    assert "checkpoints need 1000000.0 TB" in line
    assert not folder.parent.exists()

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
from drn_cli.training.missing import missing_room, missing_weights
from drn_cli.training.plan import DeviceInfo, DryRun, make_plan
from drn_cli.training.setup import TrainState

CPU = DeviceInfo("cpu", "CPU")


@pytest.fixture
def recipe_of(recipe_file: Path) -> Any:
    full_width = "model.width=1"
    return lambda *overrides: load_recipe(str(recipe_file), [full_width, *overrides]).recipe


def plan_of(recipe: Recipe, folder: Path, **options: Any) -> DryRun:
    fixed = {"processes": 1, "machines": 1, "device": CPU, "precision": "fp32"}
    return make_plan(recipe, folder=folder, **{**fixed, **options})


def test_plan_of_a_run_that_can_start(recipe_of: Any, tmp_path: Path) -> None:
    recipe = recipe_of("train.batch_size=8", "train.accumulate=2", "train.eval_every=3")
    folder = tmp_path / "runs" / "easy"
    plan = plan_of(recipe, folder, processes=2)
    assert plan.missing == ()
    assert list(tmp_path.iterdir()) == []  # nothing is written
    assert (plan.train_pictures, plan.val_pictures) == (12, 5)
    assert (plan.crops, plan.steps_per_epoch, plan.dropped) == (2, 1, 4)
    assert plan.validations == 2  # after epoch 3 and the last, 4
    assert plan.compiled is False
    rows = dict(plan.rows())
    assert rows["processes"] == "2 on 1 machine; CPU"
    assert rows["step"] == "8 images = 2 processes x 2 passes x 2 crops of 32"
    assert rows["epoch"] == "1 step; 4 of 12 images left out each time"
    assert rows["training"] == "4 epochs, 4 steps"
    assert rows["validation"] == "2 validations of 5 images"
    assert rows["memory"].startswith("about 0.2 GiB a process by estimate: weights 0.04, ")
    told = json.loads(json.dumps(plan.to_json()))
    assert told["memory"]["total"] == plan.memory.total
    assert told["recipe"]["train"]["accumulate"] == 2
    assert told["run"] == str(folder)
    assert told["missing"] == []


def rates(recipe: Recipe, tmp_path: Path) -> tuple[list[tuple[float, float]], str]:
    plan = plan_of(recipe, tmp_path)
    found = [(pytest.approx(rate.epoch), pytest.approx(rate.rate)) for rate in plan.rates]
    return found, dict(plan.rows())["learning rate"]


def test_rates_of_a_step_schedule_are_told_where_they_change(
    recipe_of: Any, tmp_path: Path
) -> None:
    schedule = ("train.schedule.kind=step", "train.schedule.step=2", "train.lr=0.1")
    found, row = rates(recipe_of(*schedule, "train.epochs=5"), tmp_path)
    assert found == [(0, 0.1), (2, 0.01), (4, 0.001), (4 + 2 / 3, 0.001)]
    assert row == "0.1; 0.01 after 2 epochs; 0.001 after 4 epochs; 0.001 at the end (step)"
    _, row = rates(recipe_of(*schedule, "train.epochs=50"), tmp_path)
    assert row.endswith("1e-05 after 8 epochs; 1e-25 at the end; 20 changes more (step)")


def test_rates_of_a_warm_up_and_of_the_last_step_are_told(recipe_of: Any, tmp_path: Path) -> None:
    recipe = recipe_of("train.schedule.warmup=0.5", "train.lr=0.1", "train.schedule.power=1")
    found, row = rates(recipe, tmp_path)
    # Three steps an epoch, four epochs, poly at each step.
    assert found == [(0, 0), (0.5, 0.1 * (1 - 0.5 / 4)), (4 - 1 / 3, 0.1 / 12)]
    assert row == "0; 0.0875 after 0.5 epochs; 0.00833 at the end (poly)"


def test_checkpoint_is_about_as_large_as_said(
    recipe_of: Any, prepare: Callable[..., TrainState], tmp_path: Path
) -> None:
    options = ("model.width=1", "train.ema=0.9", "train.keep_last=3")
    plan = plan_of(recipe_of(*options), tmp_path)
    path = tmp_path / "last.pt"
    save_checkpoint(path, prepare(*options), TrainProgress(), 0)
    assert path.stat().st_size == pytest.approx(plan.checkpoint, rel=0.02)
    assert plan.room > 4 * plan.checkpoint
    assert "the last 3 kept" in dict(plan.rows())["checkpoint"]


def test_everything_that_is_missing_is_told_at_once(
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
        recipe, tmp_path / "file" / "run", processes=4, machines=2, device=gpu, precision="bf16"
    )
    expected = (
        f"{tmp_path}/none: no such data folder",
        f"model.weights: {tmp_path}/none.pth: no such file",
        "train.optimiser.nesterov: there is no momentum",
        "train.tensorboard: it is not installed",
        "--gpus 2: this machine has 1",
        "memory: 1 crop of 960 takes about",
        f"{tmp_path}/file/run: cannot be written",
    )
    assert len(plan.missing) == len(expected)
    for line, start in zip(plan.missing, expected, strict=True):
        assert line.startswith(start)
        assert "\n" not in line
    assert "train.checkpoint_activations=true" in plan.missing[5]
    rows = dict(plan.rows())  # what can be told is
    assert rows["epoch"] == "unknown: the data are missing"
    assert rows["training"] == "4 epochs"
    assert " of 1.0 GiB" in rows["memory"]
    assert plan.compiled is None
    json.dumps(plan.to_json())


def test_data_that_are_there_are_looked_at_and_shared_out(
    recipe_of: Any, own_data_folder: Path, tmp_path: Path
) -> None:
    (own_data_folder / "labels" / "0.png").write_bytes(b"broken")
    plan = plan_of(recipe_of(f"data.root={own_data_folder}"), tmp_path, processes=3)
    assert len(plan.missing) == 2
    assert "0.png" in plan.missing[0]
    assert plan.missing[1].startswith("train.batch_size: 4 images a step cannot be shared by 3")
    assert plan.train_pictures == 12


def test_published_weights_are_looked_for_and_not_downloaded(
    recipe_of: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DRN_CACHE", str(tmp_path))
    monkeypatch.setenv("DRN_MIRRORS", "http://127.0.0.1:9")  # where nobody answers

    def missing(arch: str) -> list[str]:
        recipe = recipe_of(f"model.arch={arch}", "model.weights=imagenet")
        return list(missing_weights(recipe))

    folder = tmp_path / "weights"
    (line,) = missing("drn_d_22")
    assert line.startswith(f"model.weights: drn_d_22-4bd2f8ea.pth is not in {folder}")
    assert not folder.exists()
    (line,) = missing("drn_d_24")
    assert line.startswith("model.weights: nobody published imagenet weights for drn_d_24")
    folder.mkdir()
    (folder / "drn_d_22-4bd2f8ea.pth").write_bytes(b"another content")
    assert len(missing("drn_d_22")) == 1
    (folder / "drnd22-0823-5c2c6a0c.pth.zip").touch()  # its content is checked when it is unpacked
    assert missing("drn_d_22") == []
    assert list(missing_weights(recipe_of())) == []


def test_room_on_the_disk_is_that_of_the_nearest_folder(tmp_path: Path) -> None:
    folder = tmp_path / "not" / "yet"
    assert list(missing_room(folder, 1000)) == []
    (line,) = missing_room(folder, 10**18)
    assert line.startswith(f"{folder}: ")
    assert "the checkpoints need 1000000.0 TB" in line
    assert not folder.parent.exists()

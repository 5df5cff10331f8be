import subprocess
import sys
from pathlib import Path

import pytest
import torch

from drn_cli.networks import create_model, list_models
from drn_cli.recipe.loading import (
    load_recipe,
    read_text,
    resolved_yaml,
    shipped_recipe,
    shipped_recipes,
)

CITYSCAPES = ["drn_a_50", "drn_c_26", "drn_c_42", "drn_d_105", "drn_d_22", "drn_d_38"]
NAMES = list(shipped_recipes())


@pytest.mark.parametrize("name", NAMES)
def test_resolves_and_builds_its_network(name: str, tmp_path: Path) -> None:
    loaded = load_recipe(name)
    recipe = loaded.recipe
    assert loaded.name == name
    with torch.device("meta"):
        model = create_model(recipe.model.arch, recipe.task, recipe.data.classes)
        size = recipe.augment.crop
        # logits, whatever the size: a crop that the network cannot take would fail here
        shape = model.eval()(torch.empty(1, 3, size, size)).shape
    grown = (size, size) if recipe.task == "segmentation" else ()
    assert shape == (1, recipe.data.classes, *grown)
    (tmp_path / "again.yaml").write_text(resolved_yaml(recipe), encoding="utf-8")
    assert load_recipe(str(tmp_path / "again.yaml")).recipe == recipe


@pytest.mark.parametrize("name", NAMES)
def test_starts_with_a_summary_and_commands(name: str) -> None:
    summary, *rest = read_text(shipped_recipes()[name]).splitlines()
    comment = [line for line in rest if line.startswith("#")]
    assert summary.startswith("# ") and summary.endswith(".") and len(summary) <= 100
    assert any(f"drn train {name}" in line for line in comment)
    # a name that was copied from another recipe would send its reader there
    trained = {line.split()[3] for line in comment if line.startswith("#   drn train ")}
    assert trained == {name}


def test_names_are_those_of_the_paper_without_bases() -> None:
    assert sorted(NAMES) == NAMES
    assert set(NAMES) == {
        "demo",
        "drn_c_26_camvid",
        "drn_d_22_camvid",
        *(f"{arch}_cityscapes" for arch in CITYSCAPES),
        *(f"{arch}_imagenet" for arch in list_models()),
    }
    assert shipped_recipe("_camvid").is_file()


@pytest.mark.parametrize("name", [name for name in NAMES if name != "demo"])
def test_network_and_data_match_the_name(name: str) -> None:
    arch, _, data = name.rpartition("_")
    recipe = load_recipe(name).recipe
    assert recipe.model.arch == arch
    assert recipe.data.root == f"data/{data}"


@pytest.mark.parametrize("arch", list_models())
def test_imagenet_recipes_have_the_published_settings(arch: str) -> None:
    recipe = load_recipe(f"{arch}_imagenet").recipe
    train, schedule = recipe.train, recipe.train.schedule
    assert (recipe.task, recipe.data.classes, recipe.model.weights) == (
        "classification",
        1000,
        None,
    )
    assert recipe.augment.model_dump() == {"crop": 224, "scale": 1, "rotate": 0, "flip": True}
    assert (train.epochs, train.batch_size, train.lr) == (120, 256, 0.1)
    assert (train.momentum, train.weight_decay) == (0.9, 1e-4)
    assert (schedule.kind, schedule.step, schedule.per, schedule.warmup) == ("step", 30, "epoch", 0)


@pytest.mark.parametrize("arch", CITYSCAPES)
def test_cityscapes_recipes_have_the_published_settings(arch: str) -> None:
    recipe = load_recipe(f"{arch}_cityscapes").recipe
    train, schedule, best = recipe.train, recipe.train.schedule, arch == "drn_d_105"
    assert (recipe.task, recipe.data.classes) == ("segmentation", 19)
    assert recipe.model.weights == "imagenet"
    assert recipe.augment.model_dump() == (
        {"crop": 840, "scale": 2, "rotate": 10, "flip": True}
        if best
        else {"crop": 896, "scale": 1, "rotate": 0, "flip": True}
    )
    assert (train.epochs, train.batch_size) == ((500, 16) if best else (250, 32))
    assert (train.lr, train.momentum, train.weight_decay) == (0.01, 0.9, 1e-4)
    assert (schedule.kind, schedule.per) == ("poly" if best else "step", "epoch")
    assert schedule.power == 0.9 if best else schedule.step == 100
    assert train.sync_bn is best
    assert recipe.eval.scales == (1,)


def test_reading_recipes_does_not_import_torch() -> None:
    code = (
        "import sys; from drn_cli.recipe.loading import load_recipe; load_recipe('demo');"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from drn_cli.networks.catalog import architecture
from drn_cli.recipe.loading import load_recipe
from drn_cli.recipe.schema import Loss, Recipe
from drn_cli.training.memory import GIB, advice, estimate, max_micro_batch, micro_batch_bytes

Make = Callable[..., Recipe]


@pytest.fixture
def make(recipe_file: Path) -> Make:
    """Make a recipe with 8 crops of 64, and overrides."""
    fixed = ("model.width=1", "train.batch_size=8", "augment.crop=64")
    return lambda *overrides: load_recipe(str(recipe_file), [*fixed, *overrides]).recipe


def on_cpu(recipe: Recipe, world: int = 1) -> Any:
    return estimate(recipe, world, precision="fp32", on_gpu=False)


def network_pass(arch: str, crop: int, precision: Any) -> float:
    return (
        micro_batch_bytes(architecture(arch), "segmentation", 19, Loss(), crop, 1, precision, False)
        / GIB
    )


def test_peak_is_slightly_above_the_saved_activations() -> None:
    # What is saved for the backward pass, by itself, is 0.9 GiB for D-22 and 4.9 GiB for D-105.
    assert 0.9 < network_pass("drn_d_22", 896, "fp32") < 1.1
    assert 4.9 < network_pass("drn_d_105", 840, "fp32") < 5.2


def test_activations_need_half_in_16_bits() -> None:
    fp32, bf16 = (network_pass("drn_d_22", 896, precision) for precision in ("fp32", "bf16"))
    assert 0.5 * fp32 < bf16 < 0.65 * fp32  # logits and loss stay in float32


def test_memory_grows_linearly_with_the_micro_batch() -> None:
    one, two, eight = (
        micro_batch_bytes(
            architecture("drn_a_18"), "classification", 10, Loss(), 64, images, "bf16", False
        )
        for images in (1, 2, 8)
    )
    assert eight - one == pytest.approx(7 * (two - one), rel=0.01)


REAL_STEP = """
import sys
from pathlib import Path
import torch
from drn_cli.data.batches import Batch
from drn_cli.data.folders import Sample
from drn_cli.distributed.group import Group
from drn_cli.recipe.loading import load_recipe
from drn_cli.training.memory import estimate
from drn_cli.training.setup import build_train_state
from drn_cli.training.step import StepStats, take_step
from drn_cli.training.tasks import task_of

def peak():
    # Of this program only: getrusage includes the process before exec.
    [line] = [line for line in open("/proc/self/status") if line.startswith("VmHWM")]
    return int(line.split()[1]) * 1024

# Memory that the libraries allocate at their first use.
layer = torch.nn.Conv2d(3, 4, 3)
first = torch.optim.SGD(layer.parameters(), 0.1, momentum=0.9, foreach=True)
layer(torch.zeros(1, 3, 8, 8)).sum().backward()
first.step()

recipe = load_recipe(sys.argv[1], sys.argv[2:]).recipe
data = task_of(recipe).load_data(recipe)
crop, count = recipe.augment.crop, recipe.train.batch_size
images = torch.randint(256, (count, crop, crop, 3), dtype=torch.uint8)
labels = torch.randint(3, (count, crop, crop), dtype=torch.uint8)
before = peak()
training = build_train_state(recipe, data, Group(0, 1, torch.device("cpu")))
take_step(training, [Batch(images, labels)], 0.001, 0, StepStats(torch.device("cpu")))
taken = peak() - before
needed = estimate(recipe, 1, precision=training.precision, on_gpu=False)
print(needed.total / taken)
"""


def test_estimate_of_a_real_step(recipe_file: Path) -> None:
    overrides = ["model.arch=drn_d_22", "model.width=1", "augment.crop=160", "train.batch_size=4"]
    done = subprocess.run(
        [sys.executable, "-c", REAL_STEP, recipe_file, *overrides],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert 0.6 < float(done.stdout) < 1.6


def test_parts_of_an_estimate(make: Make) -> None:
    plain = on_cpu(make())
    assert plain.gradients == plain.optimiser < plain.weights < 1.01 * plain.gradients
    assert plain.average == 0
    parts = plain.to_json()
    assert parts.pop("total") == sum(parts.values()) == plain.total
    assert on_cpu(make("train.momentum=0")).optimiser == 0
    assert on_cpu(make("train.optimiser.kind=adamw")).optimiser == 2 * plain.gradients
    assert on_cpu(make("train.ema=0.99")).average == plain.weights
    assert on_cpu(make("train.accumulate=4")) == on_cpu(make(), 4)
    again = on_cpu(make("train.checkpoint_activations=true"))
    assert again.activations < 0.7 * plain.activations
    on_gpu = estimate(make(), 1, precision="fp32", on_gpu=True)
    assert on_gpu.workspace > plain.workspace
    assert on_gpu.activations == plain.activations


def test_largest_micro_batch_that_fits(make: Make) -> None:
    budget = on_cpu(make("train.batch_size=5")).total
    for more, fitting in ((-1, 4), (0, 5)):
        found = max_micro_batch(make(), 1, budget + more, precision="fp32", on_gpu=False)
        assert found == fitting
    one = on_cpu(make("train.batch_size=1")).total
    assert max_micro_batch(make(), 1, one - 1, precision="fp32", on_gpu=False) == 0
    assert max_micro_batch(make(), 2, 1000 * budget, precision="fp32", on_gpu=False) == 4


def hint(recipe: Recipe, memory: int | None, world: int = 1, *, on_gpu: bool = True) -> str:
    error = advice(recipe, world, precision="fp32", on_gpu=on_gpu, total_memory=memory)
    assert error.message.startswith("out of memory in training: ")
    assert "\n" not in str(error)
    assert error.hint is not None
    return error.hint


def test_advice_starts_with_the_cheapest_setting(make: Make) -> None:
    def needs(*overrides: str, precision: Any = "fp32") -> int:
        return estimate(make(*overrides), 1, precision=precision, on_gpu=True).total

    assert hint(make(), needs("train.accumulate=2")) == "try train.accumulate=2"
    assert hint(make(), needs("train.accumulate=2") - 1) == "try train.accumulate=4"
    one, again = ("train.batch_size=1", "augment.crop=256"), "train.checkpoint_activations=true"
    assert hint(make(*one), needs(*one) - 1) == f"try {again}"
    assert hint(make(*one), needs(*one, again) - 1) == f"try {again} train.precision=bf16"
    least = needs(*one, again, precision="bf16") - 1
    smaller = f"try {again} train.precision=bf16 augment.crop="
    assert hint(make(*one), least).startswith(smaller)
    assert hint(make(), GIB // 2).startswith("use a smaller network")


def test_advises_the_largest_crop_that_fits(make: Make) -> None:
    def needs(side: int) -> int:
        recipe = make(
            "train.batch_size=1", f"augment.crop={side}", "train.checkpoint_activations=true"
        )
        return on_cpu(recipe).total

    recipe = make("train.batch_size=1", "augment.crop=640")
    words = hint(recipe, needs(320), on_gpu=False).split()
    assert words[:-1] == ["try", "train.checkpoint_activations=true"]
    side = int(words[-1].removeprefix("augment.crop="))
    assert needs(side) <= needs(320) < needs(side + 8 + 8)


def test_advice_for_several_processes_and_unknown_memory(
    make: Make,
) -> None:
    assert hint(make(), None) == "try train.accumulate=2"
    assert hint(make(), 1000 * GIB) == "try train.accumulate=2"
    two = hint(make("train.accumulate=2"), 1000 * GIB, 2)
    assert two == "try train.accumulate=4"
    alone = hint(make("train.compile=true", "train.batch_size=1", "augment.crop=256"), None)
    assert alone == "try train.checkpoint_activations=true train.compile=false"


def test_advice_contains_needed_and_available_memory(make: Make) -> None:
    error = advice(make(), 2, precision="fp32", on_gpu=True, total_memory=GIB)
    assert "4 crops of 64 need about" in error.message
    assert error.message.endswith("the device has 1.0 GiB")

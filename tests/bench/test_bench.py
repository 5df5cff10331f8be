"""`drn bench`: the cases, what runs in them, timing, and the comparison with a baseline."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from drn_cli.bench.cases import (
    WHATS,
    BenchCase,
    BenchTarget,
    activation_bytes,
    image_flops,
    open_target,
    plan_cases,
)
from drn_cli.bench.runner import (
    BenchResult,
    TimingBudget,
    Timings,
    add_baseline,
    check_data,
    measure,
    prepare_call,
    read_baseline,
    time_calls,
    to_json,
)
from drn_cli.environment import machine_info
from drn_cli.errors import DrnError
from drn_cli.inference.loading import load_classifier, load_predictor
from drn_cli.networks import create_model, profiling
from drn_cli.networks.checkpoints import save_weights
from drn_cli.recipe.loading import load_recipe
from drn_cli.recipe.schema import MULTI_SCALE, Eval, Loss
from drn_cli.runs import Run
from drn_cli.training.loss import make_loss

CPU = torch.device("cpu")
ONCE = TimingBudget(warmup=1, rounds=1)
MACHINE = machine_info(CPU)
TASKS = ("segmentation", "classification")


@pytest.fixture(scope="module")
def targets(tmp_path_factory: pytest.TempPathFactory) -> dict[str, BenchTarget]:
    """A thin network of each task, with five classes."""
    folder = tmp_path_factory.mktemp("weights")
    for task in TASKS:
        model = create_model("drn_a_18", task, 5, width=0.0625)
        save_weights(folder / f"{task}.safetensors", model)
    return {task: open_target(str(folder / f"{task}.safetensors")) for task in TASKS}


def a_case(what: str, runtime: str | None = "pytorch", /, **changes: object) -> BenchCase:
    case = BenchCase(
        what=what, runtime=runtime, precision="fp32", compiled=False, batch=2, height=64, width=64
    )
    return replace(case, **changes)


def loader_case(**changes: object) -> BenchCase:
    kept = {"precision": None, "height": 32, "width": 32, "workers": 0}
    return a_case("input", None, **kept | changes)


def rows(target: BenchTarget, **options: object) -> list[BenchCase]:
    return plan_cases(target, CPU, **{"whats": ("forward",)} | options)


def test_combinations_are_planned_once(targets) -> None:
    found = rows(
        targets["segmentation"],
        whats=("train", "forward", "input"),
        batches=(1, 4),
        sizes=((16, 16), (32, 32)),
        precisions=("auto", "fp32", "bf16"),  # auto is fp32 on a CPU
        compiled=True,
        runtimes=("eager", "pytorch"),
        workers=3,
    )
    assert len(found) == len(set(found)) == 2 * 2 * 2 * 2 * 2 + 2 * 2 * 2 * 2 + 2 * 2
    first = a_case("forward", "eager", batch=1, height=16, width=16)
    assert found[0] == first
    assert [case.what for case in found] == ["forward"] * 32 + ["train"] * 16 + ["input"] * 4
    assert {case.runtime for case in found[32:]} == {None}
    assert {(case.precision, case.compiled, case.workers) for case in found[48:]} == {
        (None, False, 3)
    }


def test_defaults(targets, recipe_file: Path) -> None:
    def defaults(target: BenchTarget, *whats: str) -> list[tuple[object, ...]]:
        return [(c.batch, c.height, c.width, c.precision) for c in rows(target, whats=whats)]

    segmenter, classifier = targets.values()
    image, crop = (1, 512, 1024, "fp32"), (4, 512, 512)
    assert defaults(segmenter, *WHATS) == [image] * 3 + [(*crop, "fp32"), (*crop, None)]
    assert defaults(classifier, "forward", "train") == [(n, 224, 224, "fp32") for n in (1, 4)]
    recipe = load_recipe(str(recipe_file), ["train.accumulate=2", "train.precision=bf16"]).recipe
    of_run = replace(segmenter, recipe=recipe)
    assert defaults(of_run, "forward", "train") == [image, (2, 32, 32, "bf16")]
    assert rows(of_run, whats=("train",), precisions=("fp32",))[0].precision == "fp32"
    assert rows(of_run, whats=("input",))[0].workers == 0


def test_impossible_cases_are_refused(targets, recipe_file: Path) -> None:
    segmenter, classifier = targets.values()
    recipe = load_recipe(str(recipe_file), ["train.checkpoint_activations=true"]).recipe
    oblong = ((32, 32), (32, 64))
    for target, options, message in (
        (segmenter, {"runtimes": ("onnxruntime",)}, "onnxruntime: cannot run .*pytorch,eager"),
        (classifier, {"whats": ("multi-scale",)}, "multi-scale: is for segmenters"),
        (segmenter, {"whats": ("input",), "sizes": oblong}, "64x32: crops are square.*--size 32"),
        (classifier, {"whats": ("predict",), "sizes": oblong}, "crops are square"),
        (
            replace(segmenter, recipe=recipe),
            {"whats": ("train",), "compiled": True},
            "checkpoint_activations",
        ),
    ):
        with pytest.raises(DrnError, match=message):
            rows(target, **options)
    assert rows(segmenter, whats=("forward", "predict", "train"), sizes=oblong)


def test_sources(tmp_path: Path, recipe_file: Path, targets) -> None:
    target = open_target("DRN-A-18", "classification", 5)
    assert (target.name, target.task, target.classes) == ("drn_a_18", "classification", 5)
    assert target.verified is None and target.parameters == 11_179_077
    run = Run(tmp_path / "run")
    save_weights(run.best, targets["segmentation"].network.model)
    run.recipe.write_bytes(recipe_file.read_bytes())
    target = open_target(str(run.folder))
    assert target.recipe is not None and target.recipe.augment.crop == 32
    with pytest.raises(DrnError, match="has its own"):
        open_target(str(run.best), "segmentation")
    with pytest.raises(DrnError, match="no such run directory or file"):
        open_target("runs/trial")


def test_costs_of_each_case(targets) -> None:
    target = targets["segmentation"]
    network = (target.arch, "segmentation", 5)

    def flops(side: int) -> int:
        return profiling.forward_flops(*network, height=side, width=side)

    def needed(side: int, **settings: object) -> profiling.ActivationBytes:
        return profiling.activation_bytes(*network, (2, side, side), **settings)

    loss = make_loss(Loss(), "segmentation", CPU)
    step = profiling.step_flops(*network, height=64, width=64)
    folded = needed(64, folded=True).peak
    for case, operations, memory in (
        (a_case("forward"), flops(64), folded),
        (a_case("forward", "eager"), flops(64), needed(64).peak),
        (a_case("predict"), flops(64), folded),
        (
            a_case("multi-scale"),
            sum(map(flops, (32, 48, 64, 80, 96, 112))),
            needed(112, folded=True).peak,
        ),
        (a_case("train", None), step, needed(64, loss=loss).saved),
        (loader_case(), None, None),
    ):
        assert (image_flops(target, case), activation_bytes(target, case)) == (operations, memory)


@pytest.mark.parametrize("runtime", ["pytorch", "eager"])
@pytest.mark.parametrize("task", TASKS)
def test_calls_compute_what_prediction_does(targets, task: str, runtime: str) -> None:
    target = targets[task]
    shape = (2, 5, 8, 8) if task == "segmentation" else (2, 5)
    for precision, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        scores = prepare_call(target, a_case("forward", runtime, precision=precision), CPU)()
        assert (scores.shape, scores.dtype) == (shape, dtype)
        assert not scores.requires_grad
    pixels = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3), dtype=np.uint8)
    if task == "classification":
        found = prepare_call(target, a_case("predict", runtime), CPU)()
        expected = load_classifier(target.network, CPU).log_probabilities(
            torch.from_numpy(pixels)[:, None]
        )
        torch.testing.assert_close(found, expected, atol=1e-3, rtol=1e-3)
        return
    for what, view in (("predict", Eval()), ("multi-scale", Eval(scales=MULTI_SCALE))):
        expected = load_predictor(target.network, CPU, view=view).batch(list(pixels))
        found = prepare_call(target, a_case(what, runtime), CPU)()
        for one, two in zip(found, expected, strict=True):
            assert (one == two).float().mean() > 0.99  # they differ in rounding


@pytest.mark.parametrize("task", TASKS)
def test_every_case_is_measured(targets, task: str) -> None:
    whats = [what for what in WHATS if task == "segmentation" or what != "multi-scale"]
    for case in rows(targets[task], whats=tuple(whats), batches=(2,), sizes=((32, 32),), workers=0):
        found = measure(targets[task], case, CPU, ONCE).to_json()
        assert found["error"] is None and found["seconds"]["rounds"] == 1
        assert found["images_per_second"] == pytest.approx(2 / found["seconds"]["p50"])


def test_a_case_without_memory_is_a_result(targets) -> None:
    case = a_case("forward", batch=10**6, height=1024, width=1024)
    result = measure(targets["segmentation"], case, CPU, ONCE).to_json()
    assert result["error"].startswith("out of memory: needs ")
    assert (result["seconds"], result["images_per_second"]) == (None, None)


def test_loader_data(targets, recipe_file: Path, data_folder: Path, tmp_path: Path) -> None:
    recipe = load_recipe(str(recipe_file)).recipe
    of_run = replace(open_target("drn_a_18", "segmentation", 3), recipe=recipe)
    with pytest.raises(DrnError, match=r"elsewhere: no such data folder \(.*--data"):
        check_data(of_run, [loader_case()], tmp_path / "elsewhere")
    with pytest.raises(DrnError, match=r"--batch 13: .* has 12 training images"):
        check_data(of_run, [loader_case(batch=12), loader_case(batch=13)], None)
    check_data(of_run, [loader_case(batch=12)], data_folder)
    check_data(of_run, [a_case("forward")], tmp_path / "elsewhere")  # reads nothing
    check_data(targets["segmentation"], [loader_case()], None)  # synthetic images
    assert measure(of_run, loader_case(), CPU, ONCE, data_folder).failure is None


class Clock:
    """Calls take the given seconds; all further calls take the last of them."""

    def __init__(self, *takes: float) -> None:
        self.takes, self.calls, self.now = takes, 0, 0.0

    def __call__(self) -> float:
        return self.now

    def work(self) -> None:
        self.now += self.takes[min(self.calls, len(self.takes) - 1)]
        self.calls += 1


@pytest.mark.parametrize(
    ("budget", "warmup", "rounds"),
    [
        ((3, 20, 1000), 3, 20),
        ((3, 20, 5), 3, 5),  # each takes a second
        ((9, 20, 5), 5, 5),
        ((3, 20, 0.5), 1, 3),  # three at least
        ((3, 2, 0.5), 1, 2),  # unless fewer are asked for
    ],
)
def test_timing_budget(budget: tuple[int, int, float], warmup: int, rounds: int) -> None:
    clock = Clock(1)
    limits = TimingBudget(**dict(zip(("warmup", "rounds", "seconds"), budget, strict=True)))
    assert time_calls(clock.work, limits, clock).rounds == rounds
    assert clock.calls == warmup + rounds


def test_timings() -> None:
    clock = Clock(50, 40, 1, 2, 3, 4)
    timings = time_calls(clock.work, TimingBudget(warmup=2, rounds=4, seconds=1000), clock)
    assert (timings.rounds, timings.least, timings.p50) == (4, 1, 2.5)
    timings = Timings.of([float(number) for number in range(100, -1, -1)])
    assert timings == Timings(rounds=101, least=0, p50=50, p90=90, p99=99)


@pytest.fixture
def written(targets, tmp_path: Path) -> Callable[..., dict]:
    """Write a document of medians of the forward case with some changes."""

    def write(*medians: tuple[float | None, dict], machine=MACHINE) -> dict:
        results = [
            BenchResult(
                case=a_case("forward", **changes),
                flops=1,
                activation_bytes=1,
                timings=None if seconds is None else Timings.of([seconds]),
            )
            for seconds, changes in medians
        ]
        document = json.loads(json.dumps(to_json(targets["segmentation"], machine, results)))
        (tmp_path / "earlier.json").write_text(json.dumps(document))
        return document

    return write


def test_baseline(written, tmp_path: Path) -> None:
    others = {"what": "predict", "runtime": "eager", "precision": "bf16", "compiled": True}
    others |= {"batch": 3, "height": 32, "width": 32, "workers": 3}
    now = written((2.0, {}), (None, {"batch": 3}), (1.0, {"batch": 9}))
    then = replace(MACHINE, torch="1.0")
    earlier = written((3.0, {}), *((7.0, {key: value}) for key, value in others.items()),
                      (None, {"batch": 9}), machine=then)  # fmt: skip
    found = add_baseline(now, read_baseline(tmp_path / "earlier.json"))
    assert [(row["earlier"], row["speed"]) for row in found["results"]] == [
        (3.0, 1.5), (7.0, None), (None, None)
    ]  # fmt: skip
    assert found["differences"] == [f"torch was 1.0, is {MACHINE.torch}"]
    del earlier["results"][0]["batch"]
    for other, message in (
        ([], "not written by this `drn bench`"),
        ({"format": "drn bench 0"}, "not written by this `drn bench`"),
        (earlier, "is damaged: 'batch'"),
    ):
        (tmp_path / "earlier.json").write_text(json.dumps(other))
        with pytest.raises(DrnError, match=message):
            read_baseline(tmp_path / "earlier.json")


def test_tables_fit_a_terminal(drn_here, targets) -> None:
    asked = ["bench", targets["segmentation"].name, "--size", "32", "--rounds", "1"]
    code, stdout, stderr = drn_here(*asked, "--out", "earlier.json")
    assert code == 0, stderr
    name, machine, _, costs, cost, _, times, time = stdout.splitlines()
    assert name.endswith(
        f"segmentation of 5 classes, {targets['segmentation'].parameters:,} parameters"
    )
    assert machine == str(machine_info(CPU))
    assert costs.split() == ["what", "how", "size", "batch", "GFLOPs", "activations"]
    assert cost.split()[:5] == ["forward", "pytorch", "fp32", "32x32", "1"]
    assert times.split() == [
        "what",
        "how",
        "size",
        "batch",
        "p50",
        "ms",
        "p90",
        "ms",
        "p99",
        "ms",
        "images/s",
    ]
    assert time.split()[:5] == cost.split()[:5]
    code, stdout, stderr = drn_here(*asked, "--batch", "1,2", "--compare", "earlier.json")
    *_, times, one, two = stdout.splitlines()
    assert times.split() == [
        "what",
        "how",
        "size",
        "batch",
        "p50",
        "ms",
        "earlier",
        "speed",
        "images/s",
    ]
    assert one.split()[-2].endswith("x") and len(two.split()) == 7
    assert max(map(len, (costs, cost, times, one, two))) <= 80
    code, stdout, stderr = drn_here(*asked, "--batch", "3", "--compare", "earlier.json")
    assert "the earlier result has none of these cases" in stderr

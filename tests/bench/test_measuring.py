"""Rows: every kind of them really runs, and one that memory is short for does not end the rest."""

import inspect
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from drn_cli.bench import measuring, networks
from drn_cli.bench.cases import Case, Size, Wanted, plan
from drn_cli.bench.measuring import Row, measure
from drn_cli.bench.subject import Subject, resolve
from drn_cli.bench.timing import Effort, Times
from drn_cli.inference.loading import load_classifier, load_predictor
from drn_cli.inference.winograd import WinogradConvolution
from drn_cli.networks.models import DRN
from drn_cli.recipe.loading import load_recipe
from drn_cli.recipe.schema import MULTI_SCALE, Eval
from drn_cli.training import step

CPU = torch.device("cpu")
ONCE = Effort(warmup=1, rounds=1)
SIZE = Size(64, 64)


@pytest.fixture(scope="module")
def segmenter() -> Subject:
    return resolve("drn_a_18", "segmentation", 5)


@pytest.fixture(scope="module")
def classifier() -> Subject:
    return resolve("drn_a_18", "classification", 5)


def a_case(what: str, runtime: str | None = "pytorch", precision: str = "fp32") -> Case:
    return Case(what=what, runtime=runtime, precision=precision, compiled=False, batch=2, size=SIZE)


@pytest.mark.parametrize("what", ["forward", "predict"])
def test_runtimes_run_what_they_say(
    segmenter: Subject, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    seen: list[str] = []  # what of a network runs, by the name of its class
    for kind in (torch.nn.BatchNorm2d, WinogradConvolution):
        plain = kind.forward

        def forward(self, x, plain=plain):
            seen.append(type(self).__name__)
            return plain(self, x)

        monkeypatch.setattr(kind, "forward", forward)
    assert measure(segmenter, a_case(what, "eager"), CPU, ONCE).times is not None
    assert set(seen) == {"BatchNorm2d"}
    seen.clear()
    assert measure(segmenter, a_case(what, "pytorch"), CPU, ONCE).times is not None
    assert set(seen) == {"WinogradConvolution"}


@pytest.mark.parametrize("runtime", ["pytorch", "eager"])
def test_what_is_timed_are_predictions(segmenter: Subject, runtime: str) -> None:
    case = a_case("predict", runtime)
    images = list(networks.noise(case))
    assert not np.array_equal(*images)
    views = {"predict": Eval(), "multi-scale": Eval(scales=MULTI_SCALE)}
    expected = {
        what: load_predictor(segmenter.network, CPU, view=view).batch(images)
        for what, view in views.items()
    }
    assert not torch.equal(*(answers[0] for answers in expected.values()))
    for what, answers in expected.items():
        found = networks.predict(segmenter, replace(case, what=what), CPU)()
        # Rounding alone tells the two ways apart.
        assert [one.shape for one in found] == [(64, 64)] * 2
        assert all(
            (one == two).float().mean() > 0.99 for one, two in zip(found, answers, strict=True)
        )


@pytest.mark.parametrize("runtime", ["pytorch", "eager"])
def test_what_is_timed_are_classifications(classifier: Subject, runtime: str) -> None:
    case = a_case("predict", runtime)
    found = networks.predict(classifier, case, CPU)()
    expected = load_classifier(classifier.network, CPU).log_probabilities(
        torch.from_numpy(networks.noise(case))[:, None]
    )
    torch.testing.assert_close(found, expected, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("runtime", ["pytorch", "eager"])
@pytest.mark.parametrize("task", ["segmentation", "classification"])
def test_networks_compute_as_asked(
    segmenter: Subject, classifier: Subject, task: str, runtime: str
) -> None:
    subject = segmenter if task == "segmentation" else classifier
    shape = (2, 5, 8, 8) if task == "segmentation" else (2, 5)
    for precision, kind in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        scores = networks.forward(subject, a_case("forward", runtime, precision), CPU)()
        assert (scores.shape, scores.dtype) == (shape, kind)
        assert not scores.requires_grad


@pytest.mark.parametrize("task", ["segmentation", "classification"])
def test_training_steps_are_those_of_training(
    segmenter: Subject, classifier: Subject, task: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    subject = segmenter if task == "segmentation" else classifier
    made = []

    def take_step(training, passes, *rest):
        before = training.model.head.weight.detach().clone()
        step.take_step(training, passes, *rest)
        assert not torch.equal(before, training.model.head.weight)
        (batch,) = passes
        assert batch.images.shape == (2, 64, 64, 3)
        assert batch.labels.shape == ((2, 64, 64) if task == "segmentation" else (2,))
        assert batch.labels.max() < 5
        made.append(training.precision)

    monkeypatch.setattr("drn_cli.bench.training.take_step", take_step)
    for precision in ("fp32", "bf16"):
        row = measure(subject, a_case("train", None, precision), CPU, ONCE)
        assert row.times is not None and row.times.rounds == 1
    assert made == ["fp32"] * 2 + ["bf16"] * 2


def test_training_steps_are_those_of_the_run(segmenter: Subject, recipe_file: Path) -> None:
    changes = ["data.classes=5", "train.optimiser.kind=adamw"]
    recipe = load_recipe(str(recipe_file), [*changes, "train.checkpoint_activations=true"]).recipe
    call = measuring.training_step(replace(segmenter, recipe=recipe), a_case("train", None), CPU)
    training = inspect.getclosurevars(call).nonlocals["training"]
    assert isinstance(training.optimiser, torch.optim.AdamW)
    assert "forward" in vars(training.model.backbone.layer1[0])  # run again, on the way back


def test_a_row_for_machines(classifier: Subject) -> None:
    case = a_case("forward")
    times = Times(rounds=7, least=0.1, p50=0.5, p90=0.6, p99=0.7)
    row = Row(case=case, flops=8_000, activation_bytes=9, times=times)
    assert json.loads(json.dumps(row.to_json())) == {
        "what": "forward",
        "runtime": "pytorch",
        "precision": "fp32",
        "compiled": False,
        "batch": 2,
        "height": 64,
        "width": 64,
        "workers": None,
        "flops": 8_000,
        "activation_bytes": 9,
        "seconds": {"rounds": 7, "least": 0.1, "p50": 0.5, "p90": 0.6, "p99": 0.7},
        "pictures_per_second": 4.0,
        "flops_per_second": 32_000.0,
        "failure": None,
    }


def test_what_does_not_fit_is_not_tried(
    classifier: Subject, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measuring, "available", lambda _: 100_000)
    row = measure(classifier, a_case("forward"), CPU, ONCE)
    assert row.times is None and row.pictures_per_second is None
    assert row.failure is not None
    assert row.failure.startswith("out of memory: needs ") and "100.0 kB are free" in row.failure
    assert row.to_json()["seconds"] is None and row.flops
    # Predictions help themselves: they see less at once.
    assert measure(classifier, a_case("predict"), CPU, ONCE).failure is None


def test_running_out_of_memory_is_a_row(
    classifier: Subject, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(model: DRN, x: torch.Tensor) -> torch.Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory")

    with monkeypatch.context() as changes:
        changes.setattr(DRN, "scores", fail)
        changes.setattr("drn_cli.networks.models.Classifier.forward", fail)
        changes.setattr(measuring, "activation_bytes", lambda *_: 0)
        changes.setattr(measuring, "picture_flops", lambda *_: 0)
        row = measure(classifier, a_case("forward"), CPU, ONCE)
    assert (row.times, row.failure) == (None, "out of memory")
    assert measure(classifier, a_case("forward"), CPU, ONCE).failure is None


def test_other_failures_are_raised(classifier: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("a mistake of the program")

    monkeypatch.setattr(networks, "forward", fail)
    with pytest.raises(RuntimeError, match="a mistake of the program"):
        measure(classifier, a_case("forward"), CPU, ONCE)


def test_compiled_networks_are_compiled(
    classifier: Subject, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiled = []

    def compile_(call, **options):
        assert options == {"dynamic": False}  # code for the one size is the fastest
        return lambda x: (compiled.append(tuple(x.shape)), call(x))[1]

    monkeypatch.setattr(torch, "compile", compile_)
    wanted = Wanted(
        whats=("forward", "train"),
        batches=(2,),
        sizes=(Size(32, 32),),
        compiled=True,
        runtimes=("pytorch", "eager"),
    )
    for case in plan(classifier, wanted, CPU):
        compiled.clear()
        measure(classifier, case, CPU, ONCE)
        assert compiled == ([(2, 3, 32, 32)] * 2 if case.compiled else [])

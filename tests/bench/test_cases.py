"""Which rows there are, what is usual for each, and what is refused."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from drn_cli.bench.cases import WHATS, Case, Size, Wanted, plan
from drn_cli.bench.subject import Subject, resolve
from drn_cli.errors import DrnError
from drn_cli.recipe.loading import load_recipe

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def segmenter() -> Subject:
    return resolve("drn_a_18")


@pytest.fixture(scope="module")
def classifier() -> Subject:
    return resolve("drn_a_18", "classification")


def rows(subject: Subject, **wanted: object) -> list[Case]:
    return plan(subject, Wanted(**wanted), CPU)


def test_every_combination_once(segmenter: Subject) -> None:
    found = rows(
        segmenter,
        whats=("train", "forward"),
        batches=(1, 4),
        sizes=(Size(8, 16), Size(32, 32)),
        precisions=("auto", "fp32", "bf16"),  # auto is fp32 on a CPU
        compiled=True,
        runtimes=("eager", "pytorch"),
    )
    assert len(found) == len(set(found)) == 2 * 2 * 2 * 2 * 2 + 2 * 2 * 2 * 2
    assert found[0] == Case(
        what="forward", runtime="eager", precision="fp32", compiled=False, batch=1, size=Size(8, 16)
    )
    # Training comes last: it tunes the process for itself. Nothing but it runs the network there.
    assert [case.what for case in found] == ["forward"] * 32 + ["train"] * 16
    assert {case.runtime for case in found if case.what == "train"} == {None}


def test_reading_depends_on_little(segmenter: Subject) -> None:
    found = rows(
        segmenter,
        whats=("input",),
        precisions=("fp32", "bf16"),
        compiled=True,
        runtimes=("eager", "pytorch"),
        workers=3,
    )
    assert found == [
        Case(
            what="input",
            runtime=None,
            precision=None,
            compiled=False,
            batch=4,
            size=Size(512, 512),
            workers=3,
        )
    ]


def test_usual_of_an_architecture(segmenter: Subject, classifier: Subject) -> None:
    found = {case.what: case for case in rows(segmenter, whats=WHATS)}
    assert list(found) == list(WHATS)
    for what in ("forward", "predict", "multi-scale"):
        assert (found[what].batch, found[what].size) == (1, Size(512, 1024))
        assert (found[what].runtime, found[what].precision) == ("pytorch", "fp32")
    assert (found["train"].batch, found["train"].size) == (4, Size(512, 512))
    assert found["input"].workers == "auto"
    found = {case.what: case for case in rows(classifier, whats=("forward", "train"))}
    assert {case.size for case in found.values()} == {Size(224, 224)}


def test_usual_of_a_run(segmenter: Subject, recipe_file: Path) -> None:
    changes = ["train.accumulate=2", "train.precision=bf16"]
    of_run = replace(segmenter, recipe=load_recipe(str(recipe_file), changes).recipe)
    found = {case.what: case for case in rows(of_run, whats=("forward", "train", "input"))}
    assert (found["forward"].size, found["forward"].precision) == (Size(512, 1024), "fp32")
    # As many crops as it learns from at once.
    assert (found["train"].batch, found["train"].size) == (2, Size(32, 32))
    assert found["train"].precision == "bf16"
    assert (found["input"].batch, found["input"].workers) == (2, 0)
    (asked,) = rows(of_run, whats=("train",), precisions=("fp32",))
    assert asked.precision == "fp32"


def test_refuses_what_cannot_be(segmenter: Subject, classifier: Subject, recipe_file: Path) -> None:
    with pytest.raises(DrnError, match=r"onnxruntime: cannot run drn_a_18.*pytorch,eager"):
        rows(segmenter, runtimes=("onnxruntime",))
    with pytest.raises(DrnError, match="multi-scale: is for segmenters"):
        rows(classifier, whats=("multi-scale",))
    oblong = (Size(32, 32), Size(32, 64))
    with pytest.raises(DrnError, match=r"--size 64x32: crops are square.*--size 32"):
        rows(segmenter, whats=("forward", "input"), sizes=oblong)
    assert rows(segmenter, whats=("forward", "predict", "train"), sizes=oblong)
    with pytest.raises(DrnError, match="crops are square"):
        rows(classifier, whats=("predict",), sizes=oblong)
    recipe = load_recipe(str(recipe_file), ["train.checkpoint_activations=true"]).recipe
    with pytest.raises(DrnError, match="checkpoint_activations"):
        rows(replace(segmenter, recipe=recipe), whats=("train",), compiled=True)

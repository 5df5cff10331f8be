"""Comparison of two networks, and its limits."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from exported_networks import STATISTICS, lively, noise
from torch import Tensor

from drn_cli.errors import DrnError
from drn_cli.export.parity import OutputDifference, Parity, compare
from drn_cli.export.probes import ParityInput
from drn_cli.inference.opening import TrainedNetwork
from drn_cli.inference.runtimes import ExportedNetwork
from drn_cli.networks.catalog import Task
from drn_cli.networks.models import DRN

SAME = OutputDifference(
    inputs="photographs", real=True, shape=(2, 3, 40, 56), difference=0.0, largest=20, agreement=1.0
)
INPUTS = [
    ParityInput(
        "images", True, np.stack([noise(33, 47, seed) for seed in (1, 2)]), ["a.png", "b.png"]
    ),
    ParityInput("random pixels", False, noise(24, 40, 3)[None], ["random pixels"]),
]


@pytest.mark.parametrize(
    ("precision", "change", "passes"),
    [
        ("float32", {}, True),
        ("float32", {"difference": 0.0019}, True),
        ("float32", {"difference": 0.0021}, False),
        ("float32", {"difference": 0.00009, "largest": 0.1}, True),
        ("float32", {"difference": 0.00011, "largest": 0.1}, False),
        ("float32", {"difference": math.nan}, False),
        ("float32", {"difference": math.inf}, False),
        ("float32", {"difference": math.inf, "largest": math.inf}, False),
        ("float32", {"difference": None, "agreement": 0.9991}, True),
        ("float32", {"difference": None, "agreement": 0.9989}, False),
        ("float16", {"difference": 1.0, "agreement": 0.9991}, True),
        ("float16", {"difference": 0.0, "agreement": 0.9989}, False),
        ("float16", {"real": False, "agreement": 0.5}, False),
        ("int8", {"agreement": 0.981}, True),
        ("int8", {"agreement": 0.979}, False),
        ("int8", {"real": False, "agreement": 0.5}, True),
        ("int8", {"agreement": math.nan}, False),
        ("float16", {"difference": math.nan}, False),
        ("int8", {"real": False, "difference": math.nan}, False),
    ],
)
def test_limits(precision: Any, change: dict[str, Any], passes: bool) -> None:
    assert replace(SAME, **change).passes(precision) is passes


def test_describes_the_worst_difference() -> None:
    bad = replace(SAME, inputs="random pixels", shape=(1, 3, 8, 9), difference=2.5, agreement=0.75)
    parity = Parity(
        runtime="this", original="that", precision="float32", comparisons=[SAME, bad, SAME]
    )
    assert not parity.passed
    assert parity.worst == (
        "logits differ by 2.5, and 75.000 % of the classes agree on random pixels (1 of 9x8)"
    )
    indices = replace(bad, difference=None)
    assert replace(parity, comparisons=[indices]).worst.startswith("75.000 % of the classes")


def network(task: Task) -> tuple[TrainedNetwork, DRN]:
    model = lively(task)
    return TrainedNetwork(Path("weights.pth"), model, {}, verified=True), model


@pytest.mark.parametrize("task", ["segmentation", "classification"])
def test_a_network_agrees_with_itself(task: Task) -> None:
    one, _ = network(task)
    parity = compare(one, one, STATISTICS, "float32", INPUTS)
    assert parity.passed
    assert [found.difference for found in parity.comparisons] == [0.0, 0.0]
    assert [found.agreement for found in parity.comparisons] == [1.0, 1.0]
    assert [found.shape for found in parity.comparisons] == [(2, 3, 33, 47), (1, 3, 24, 40)]
    assert all(found.largest > 0.1 for found in parity.comparisons)


@torch.no_grad()
@pytest.mark.parametrize("task", ["segmentation", "classification"])
@pytest.mark.parametrize("change", ["one weight", "constant"])
def test_detects_other_weights(task: Task, change: str) -> None:
    one, _ = network(task)
    other, model = network(task)
    if change == "one weight":
        model.backbone.layer4[0].conv1.weight[3, 4, 1, 1] += 1
    else:
        model.head.weight.zero_()
    parity = compare(one, other, STATISTICS, "float32", INPUTS)
    assert not parity.passed
    assert "logits differ by" in parity.worst


@torch.no_grad()
@pytest.mark.parametrize("task", ["segmentation", "classification"])
@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("which", ["original", "exported"])
def test_non_finite_scores_are_an_error_with_the_image(
    task: Task, value: float, which: str
) -> None:
    one, _ = network(task)
    other, model = network(task)
    model.head.bias[1] = value
    pair = (other, one) if which == "original" else (one, other)
    called = "the network, weights.pth," if which == "original" else "the export, in .*"
    with pytest.raises(DrnError, match=f"a.png: the scores of {called} are not finite"):
        compare(*pair, STATISTICS, "float32", INPUTS)


def test_index_maps_with_marked_pixels_are_an_error_with_the_image() -> None:
    one, _ = network("segmentation")

    def run(x: Tensor, _: str) -> Tensor:
        classes = one.model(x).argmax(1)
        classes[-1, 2, 3] = 255
        return classes

    metadata = {"classes": "3", "input": "normalised", "outputs": "classes"}
    other = ExportedNetwork(
        path=Path("a.onnx"), metadata=metadata, runtime="R", start=lambda *_: run
    )
    with pytest.raises(DrnError, match=r"b\.png: the scores of the export, in R, are not finite"):
        compare(one, other, STATISTICS, "float32", INPUTS)

"""Bytes of activations, against real passes, and operations of a case."""

from typing import Any

import torch

from drn_cli.bench.cases import Case, Size
from drn_cli.bench.cost import activation_bytes, picture_flops
from drn_cli.bench.subject import resolve
from drn_cli.networks import profiling
from drn_cli.networks.catalog import architecture
from drn_cli.networks.profiling import forward_flops, step_flops
from drn_cli.recipe.schema import Loss
from drn_cli.training.loss import make_loss


def a_case(what: str, runtime: str | None = "pytorch") -> Case:
    return Case(
        what=what, runtime=runtime, precision="fp32", compiled=False, batch=2, size=Size(64, 96)
    )


def test_operations_of_each_case() -> None:
    subject = resolve("drn_a_18", "segmentation", 5)

    def at(height: int, width: int) -> int:
        return forward_flops(subject.arch, "segmentation", 5, height=height, width=width)

    assert picture_flops(subject, a_case("forward")) == at(64, 96)
    assert picture_flops(subject, a_case("predict")) == at(64, 96)
    six = ((32, 48), (48, 72), (64, 96), (80, 120), (96, 144), (112, 168))
    assert picture_flops(subject, a_case("multi-scale")) == sum(at(*size) for size in six)
    step = step_flops(subject.arch, "segmentation", 5, height=64, width=96)
    assert picture_flops(subject, a_case("train")) == step
    assert picture_flops(subject, a_case("input")) is None


def test_memory_of_each_case() -> None:
    subject = resolve("drn_a_18", "segmentation", 5)

    def bytes_of(height: int, width: int, **settings: Any) -> profiling.ActivationBytes:
        return profiling.activation_bytes(
            architecture("drn_a_18"), "segmentation", 5, (2, height, width), **settings
        )

    assert activation_bytes(subject, a_case("forward")) == bytes_of(64, 96, folded=True).peak
    assert activation_bytes(subject, a_case("forward", "eager")) == bytes_of(64, 96).peak
    largest = bytes_of(112, 168, folded=True).peak
    assert activation_bytes(subject, a_case("multi-scale")) == largest
    saved = bytes_of(64, 96, loss=make_loss(Loss(), "segmentation", torch.device("cpu"))).saved
    assert activation_bytes(subject, a_case("train", None)) == saved
    assert activation_bytes(subject, a_case("input", None)) is None

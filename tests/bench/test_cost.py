"""Bytes of activations, against real passes, and operations of a case."""

import pytest
import torch
from torch import Tensor, nn

from drn_cli.bench.cases import Case, Size
from drn_cli.bench.cost import activation_bytes, kept_bytes, peak_bytes, picture_flops
from drn_cli.bench.subject import resolve
from drn_cli.inference.preparation import prepared
from drn_cli.networks import create_model
from drn_cli.networks.catalog import architecture
from drn_cli.networks.cost import forward_flops, step_flops
from drn_cli.networks.live_bytes import LiveBytes
from drn_cli.networks.models import DRN
from drn_cli.recipe.schema import Loss

CPU = torch.device("cpu")
SIZE = Size(64, 96)
A18 = architecture("drn_a_18")
D22 = architecture("drn_d_22")


def really_at_once(model: DRN, batch: int) -> int:
    """Run a network on real pictures."""
    with torch.inference_mode(), LiveBytes([*model.parameters(), *model.buffers()]) as live:
        model.scores(torch.zeros(batch, 3, *SIZE))
    return live.peak


@pytest.mark.parametrize("name", ["drn_a_18", "drn_d_22"])
def test_peak_is_that_of_a_real_pass(name: str) -> None:
    model = create_model(name, "segmentation", 5).eval()
    plain = peak_bytes(architecture(name), "segmentation", 5, 2, SIZE, "fp32", folded=False)
    assert plain == really_at_once(model, 2)
    folded = peak_bytes(architecture(name), "segmentation", 5, 2, SIZE, "fp32", folded=True)
    assert folded == really_at_once(prepared(model, CPU, exact=False), 2)
    assert folded < plain


def test_peak_in_16_bits_is_half_but_for_the_pictures() -> None:
    full, half = (
        peak_bytes(D22, "segmentation", 5, 1, SIZE, precision, folded=True)
        for precision in ("fp32", "bf16")
    )
    pictures = 4 * 3 * SIZE.height * SIZE.width
    assert half <= full / 2 + pictures
    assert half == peak_bytes(D22, "segmentation", 5, 1, SIZE, "fp16", folded=True)


def really_kept(model: DRN, pictures: Tensor) -> int:
    """Add up what layers need to go back: convolutions their input, batch norms too, ReLU's output.

    ReLU works in place on what batch norm made, and the next convolution's input is the same map.
    """
    needed: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> None:
        needed[tensor.untyped_storage().data_ptr()] = tensor.detach()

    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.BatchNorm2d | nn.MaxPool2d):
            module.register_forward_hook(lambda _, given, out: keep(given[0]))
        if isinstance(module, nn.ReLU):
            module.register_forward_hook(lambda _, given, out: keep(out))
    model.train()(pictures)
    return sum(tensor.untyped_storage().nbytes() for tensor in needed.values())


def test_kept_is_what_layers_need() -> None:
    model, pictures = create_model("drn_d_22", "segmentation", 5), torch.zeros(2, 3, *SIZE)
    layers = really_kept(model, pictures)
    found = kept_bytes(D22, "segmentation", 5, Loss(), 2, SIZE, "fp32", recompute=False)
    # Besides, the loss keeps its log-probabilities and the labels, and batch norms their moments.
    pixels = 2 * SIZE.height * SIZE.width
    assert layers + 4 * 5 * pixels <= found <= layers + 6 * 4 * 5 * pixels + 100_000


def test_kept_is_less_with_recomputation_and_in_16_bits() -> None:
    def kept(precision: str = "fp32", *, recompute: bool = False, batch: int = 2) -> int:
        arch, task = "drn_d_22", "segmentation"
        return kept_bytes(
            architecture(arch), task, 5, Loss(), batch, SIZE, precision, recompute=recompute
        )

    assert kept(recompute=True) < 0.6 * kept()
    assert 0.5 * kept() < kept("bf16") < 0.7 * kept()  # loss and up-sampling are in fp32
    assert kept(batch=4) == pytest.approx(2 * kept(), rel=0.01)


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

    def peak(size: Size, *, folded: bool) -> int:
        return peak_bytes(A18, "segmentation", 5, 2, size, "fp32", folded=folded)

    assert activation_bytes(subject, a_case("forward")) == peak(SIZE, folded=True)
    assert activation_bytes(subject, a_case("forward", "eager")) == peak(SIZE, folded=False)
    largest = Size(112, 168)
    assert activation_bytes(subject, a_case("multi-scale")) == peak(largest, folded=True)
    kept = kept_bytes(A18, "segmentation", 5, Loss(), 2, SIZE, "fp32", recompute=False)
    assert activation_bytes(subject, a_case("train", None)) == kept
    assert activation_bytes(subject, a_case("input", None)) is None

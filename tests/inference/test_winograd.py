"""Winograd convolutions compared with PyTorch's."""

import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from drn_cli.inference import winograd
from drn_cli.inference.winograd import WinogradConvolution, is_supported

SIZES = [(16, 16), (33, 47), (61, 35), (20, 64), (5, 3)]


@pytest.fixture
def always(monkeypatch: pytest.MonkeyPatch) -> None:
    """Use Winograd for small inputs too."""
    monkeypatch.setattr(winograd, "WORTHWHILE", math.inf)


def convolution(
    inputs: int = 8, outputs: int = 12, dilation: int = 1, dtype: torch.dtype = torch.float64
) -> nn.Conv2d:
    torch.manual_seed(dilation)
    made = nn.Conv2d(inputs, outputs, 3, padding=dilation, dilation=dilation, dtype=dtype)
    return made.requires_grad_(False)


def maps(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def error(found: Tensor, expected: Tensor) -> float:
    """Return the largest difference relative to the largest value."""
    assert found.shape == expected.shape
    return float((found - expected).abs().max() / expected.abs().max())


def made_directly(convolution: nn.Conv2d, x: Tensor) -> Tensor:
    assert convolution.bias is not None
    weight, bias = convolution.weight.double(), convolution.bias.double()
    dilation = convolution.dilation
    return F.conv2d(x.double(), weight, bias, padding=dilation, dilation=dilation)


def count_direct(made: WinogradConvolution) -> list[int]:
    """Return a list that collects the batch size of each direct convolution."""
    seen: list[int] = []
    made.direct.register_forward_hook(lambda _, x, __: seen.append(len(x[0])))
    return seen


@pytest.mark.usefixtures("always")
@pytest.mark.parametrize("dilation", [1, 2, 4])
@pytest.mark.parametrize("size", [*SIZES, (1, 1), (1, 37), (29, 1)], ids=str)
def test_output_equals_convolution(size: tuple[int, int], dilation: int) -> None:
    plain = convolution(dilation=dilation)
    made = WinogradConvolution(plain)
    seen = count_direct(made)
    x = maps(2, 8, *size)
    assert error(made(x), made_directly(plain, x)) < 1e-12
    assert not seen


@pytest.mark.parametrize(("inputs", "outputs"), [(128, 160), (512, 128)])
@pytest.mark.parametrize("dilation", [1, 2, 4])
def test_rounding_error(inputs: int, outputs: int, dilation: int) -> None:
    plain = convolution(inputs, outputs, dilation, torch.float32)
    made = WinogradConvolution(plain)
    seen = count_direct(made)
    x = maps(1, inputs, 32, 48).float().relu()
    found = made(x)
    assert not seen
    assert found.dtype == torch.float32
    # The usual points 1, -1, 2 and -2 lose more.
    assert error(found.double(), made_directly(plain, x)) < 5e-6


def cropped(x: Tensor) -> Tensor:
    return F.pad(x, (3, 2, 1, 4), value=9)[..., 1:-4, 3:-2]


@pytest.mark.parametrize(
    "laid_out",
    [
        lambda x: x.contiguous(memory_format=torch.channels_last),
        cropped,
        lambda x: cropped(x.contiguous(memory_format=torch.channels_last)),
        lambda x: x.mT.contiguous().mT,
        lambda x: x[:, :1].expand_as(x),
    ],
    ids=["channels last", "cropped", "cropped, channels last", "columns first", "expanded"],
)
def test_memory_formats(laid_out) -> None:
    plain = convolution(dilation=2)
    made = WinogradConvolution(plain)
    x = laid_out(maps(3, 8, 37, 43))
    before = x.clone()
    found = made(x)
    assert error(found, made_directly(plain, x)) < 1e-12
    assert found.stride(1) == 1  # channels last, for the next convolution
    assert torch.equal(x, before)


@pytest.mark.parametrize("dilation", [1, 2, 4])
@pytest.mark.parametrize("tiles", [1, 20, 50])
def test_bands_do_not_matter(monkeypatch: pytest.MonkeyPatch, tiles: int, dilation: int) -> None:
    plain = convolution(dilation=dilation)
    x = maps(1, 8, 67, 35)
    monkeypatch.setattr(winograd, "TILES_PER_BAND", 10**9)
    whole = WinogradConvolution(plain)(x)
    monkeypatch.setattr(winograd, "TILES_PER_BAND", tiles)
    assert error(WinogradConvolution(plain)(x), whole) < 1e-12


def test_small_inputs_are_convolved_directly() -> None:
    plain = convolution(dilation=4)
    made = WinogradConvolution(plain)
    seen = count_direct(made)
    for size in ((1, 1), (5, 7), (1, 400)):
        x = maps(2, 8, *size)
        assert torch.equal(made(x), plain(x))
        assert error(made(x), made_directly(plain, x)) < 1e-12
    assert seen == [2] * 9
    made(maps(2, 8, 64, 64))
    assert seen == [2] * 9


def test_convolutions_of_drn_are_supported() -> None:
    for dilation in (1, 2, 4):
        assert is_supported(nn.Conv2d(512, 512, 3, padding=dilation, dilation=dilation))
    assert is_supported(nn.Conv2d(128, 256, 3, padding=1))


@pytest.mark.parametrize(
    "other",
    [
        {"stride": 2},
        {"kernel_size": 1, "padding": 0},
        {"kernel_size": 7, "padding": 3},
        {"kernel_size": (3, 1)},
        {"groups": 2},
        {"padding": 0},
        {"dilation": 2},
        {"dilation": (1, 2), "padding": (1, 2)},
        {"in_channels": 16},
        {"out_channels": 16},
    ],
    ids=str,
)
def test_other_convolutions_are_unsupported(other: dict[str, object]) -> None:
    settings = {"in_channels": 256, "out_channels": 256, "kernel_size": 3, "padding": 1}
    assert is_supported(nn.Conv2d(**settings))
    assert not is_supported(nn.Conv2d(**settings | other))

"""Properties of all networks: sizes, memory formats, precision, compilers."""

import pytest
import torch
from torch import Tensor, nn

from drn_cli.networks import create_model, list_models
from drn_cli.networks.catalog import ARCHITECTURES
from drn_cli.networks.models import DRN

CLASSES = 5
TASKS = ("classification", "segmentation")
# One of each family for both tasks; the others differ only in the number of blocks.
BOTH = ("drn_a_18", "drn_b_26", "drn_c_26", "drn_d_22")
EACH = [(arch, task) for arch in list_models() for task in TASKS]
TRACED = [(arch, task) for arch, task in EACH if task == "segmentation" or arch in BOTH]
# Inductor takes ten seconds or more per network; the others are only traced.
INDUCTOR = [
    ("drn_a_18", "segmentation"),
    ("drn_c_26", "segmentation"),
    ("drn_d_22", "classification"),
    ("drn_d_54", "segmentation"),
]
SEGMENTERS = [(arch, "segmentation") for arch in list_models()]


def models(cases: list[tuple[str, str]]) -> pytest.MarkDecorator:
    named = [pytest.param(case, id="-".join(case)) for case in cases]
    return pytest.mark.parametrize("model", named, indirect=True)


@pytest.fixture(scope="module")
def model(request: pytest.FixtureRequest) -> DRN:
    """Build a network with small weights, so that activations stay small at any depth.

    With those of a fresh network they grow, and the least difference with them.
    """
    arch, task = request.param
    torch.manual_seed(0)
    built = create_model(arch, task, CLASSES).eval()
    for module in built.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.normal_(module.weight, std=module.weight[0].numel() ** -0.5)
    return built


def images(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


def expected_shape(model: DRN, x: Tensor) -> tuple[int, ...]:
    batch, _, height, width = x.shape
    tail = (height, width) if model.task == "segmentation" else ()
    return (batch, CLASSES, *tail)


def assert_near(found: Tensor, expected: Tensor, tolerance: float) -> None:
    """Compare relative to the largest value, as single logits may be close to zero."""
    assert found.shape == expected.shape
    assert found.isfinite().all()
    difference = (found.float() - expected).abs().max().item()
    assert difference <= tolerance * expected.abs().max().item()


@torch.no_grad()
@models(EACH)
@pytest.mark.parametrize("size", [(37, 53), (1, 1), (8, 9), (64, 32)])
def test_supports_any_size(model: DRN, size: tuple[int, int]) -> None:
    x = images(2, 3, *size)
    logits = model(x)
    assert tuple(logits.shape) == expected_shape(model, x)
    assert logits.isfinite().all()
    assert not torch.equal(logits[0], logits[1])


@torch.no_grad()
@models(SEGMENTERS)
def test_features_of_each_level(model: DRN) -> None:
    arch = ARCHITECTURES[model.arch]
    expansion = 4 if arch.bottleneck else 1
    if arch.family == "A":
        strides = (2, 4, 8, 8, 8)
        channels = [64, *(width * expansion for width in (64, 128, 256, 512))]
    else:
        strides = (1, 1, 2, 4, 8, 8, 8, 8, 8)
        channels = [16, 16, 32, *(width * expansion for width in (64, 128, 256, 512)), 512, 512]
    x = images(1, 3, 37, 53)
    maps = model.features(x)
    assert {name: tuple(level.shape) for name, level in maps.items()} == {
        f"layer{level}": (1, channels[level], -(-37 // stride), -(-53 // stride))
        for level, stride in enumerate(strides)
    }
    assert torch.equal(list(maps.values())[-1], model.backbone(x))


@torch.no_grad()
@models(EACH)
def test_channels_last_gives_the_same_output(model: DRN) -> None:
    x = images(2, 3, 37, 53)
    expected = model(x)
    model.to(memory_format=torch.channels_last)
    try:
        found = model(x.to(memory_format=torch.channels_last))
    finally:
        model.to(memory_format=torch.contiguous_format)
    assert_near(found, expected, 1e-5)


@torch.no_grad()
@models(EACH)
def test_bfloat16_is_close(model: DRN) -> None:
    x = images(2, 3, 37, 53)
    with torch.autocast("cpu", torch.bfloat16):
        found = model(x)
    assert_near(found, model(x), 0.03)
    assert not torch.equal(found.float(), model(x))  # autocast has an effect


@pytest.mark.slow
@models(TRACED)
def test_exports_with_any_batch_and_size(model: DRN) -> None:
    dynamic = dict.fromkeys((0, 2, 3), torch.export.Dim.DYNAMIC)
    program = torch.export.export(model, (images(2, 3, 40, 56),), dynamic_shapes=(dynamic,))
    with torch.no_grad():
        for x in (images(3, 3, 37, 53), images(1, 3, 9, 70)):
            assert_near(program.module()(x), model(x), 1e-5)


@pytest.mark.slow
@models([case for case in TRACED if case not in INDUCTOR])
def test_compiles_in_one_graph(model: DRN) -> None:
    assert_compiles(model, "aot_eager", 1e-5)


# Inductor imports modules that emit deprecation warnings.
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.slow
@models(INDUCTOR)
def test_compiles_with_inductor(model: DRN) -> None:
    assert_compiles(model, "inductor", 1e-4)


def assert_compiles(model: DRN, backend: str, tolerance: float) -> None:
    torch.compiler.reset()
    compiled = torch.compile(model, fullgraph=True, backend=backend)
    x = images(2, 3, 37, 53)
    with torch.no_grad():
        assert_near(compiled(x), model(x), tolerance)

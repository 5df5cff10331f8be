"""Activation memory, against real passes and against the numbers of version 0.1.0."""

import pytest
import torch
from torch import Tensor, nn

from drn_cli.inference.memory import bytes_per_pixel
from drn_cli.inference.preparation import for_inference
from drn_cli.networks import create_model
from drn_cli.networks.catalog import architecture
from drn_cli.networks.models import DRN
from drn_cli.networks.profiling import ActivationBytes, MemoryTracker, activation_bytes
from drn_cli.recipe.schema import Loss
from drn_cli.training.loss import make_loss
from drn_cli.training.memory import micro_batch_bytes

CPU = torch.device("cpu")
SHAPE = (2, 64, 96)
D22 = architecture("drn_d_22")


def measured(name: str, dtype: torch.dtype | None = None, *, folded: bool = False) -> int:
    arch = architecture(name)
    return activation_bytes(arch, "segmentation", 5, SHAPE, dtype=dtype, folded=folded).peak


def really_at_once(model: DRN) -> int:
    """Run a network on real images."""
    with torch.inference_mode(), MemoryTracker([*model.parameters(), *model.buffers()]) as tracker:
        model.scores(torch.zeros(SHAPE[0], 3, *SHAPE[1:]))
    return tracker.peak


@pytest.mark.parametrize("name", ["drn_a_18", "drn_d_22"])
def test_peak_is_that_of_a_real_pass(name: str) -> None:
    model = create_model(name, "segmentation", 5).eval()
    plain, folded = measured(name), measured(name, folded=True)
    assert plain == really_at_once(model)
    assert folded == really_at_once(for_inference(model, CPU, exact=False))
    assert folded < plain


def test_peak_in_16_bits_is_half_but_for_the_images() -> None:
    full, half = (measured("drn_d_22", dtype, folded=True) for dtype in (None, torch.bfloat16))
    assert half <= full / 2 + 4 * 3 * SHAPE[0] * SHAPE[1] * SHAPE[2]
    assert half == measured("drn_d_22", torch.float16, folded=True)


def really_saved(model: DRN, images: Tensor) -> int:
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
    model.train()(images)
    return sum(tensor.untyped_storage().nbytes() for tensor in needed.values())


def step(
    dtype: torch.dtype | None = None, *, checkpointing: bool = False, batch: int = 2, **loss: object
) -> ActivationBytes:
    """Measure a training step of a D-22 of 5 classes."""
    return activation_bytes(
        D22,
        "segmentation",
        5,
        (batch, *SHAPE[1:]),
        dtype=dtype,
        loss=make_loss(Loss(**loss), "segmentation", CPU),
        checkpointing=checkpointing,
    )


def test_saved_is_what_layers_need() -> None:
    model, images = create_model("drn_d_22", "segmentation", 5), torch.zeros(2, 3, *SHAPE[1:])
    layers, found = really_saved(model, images), step().saved
    # Besides, the loss keeps its log-probabilities and the labels, and batch norms their moments.
    pixels = SHAPE[0] * SHAPE[1] * SHAPE[2]
    assert layers + 4 * 5 * pixels <= found <= layers + 6 * 4 * 5 * pixels + 100_000


def test_a_step_with_checkpointing_in_16_bits_and_with_more_images() -> None:
    plain = step()
    assert plain.saved < plain.peak
    assert step(checkpointing=True).saved < 0.6 * plain.saved
    # Loss and up-sampling are in float32.
    assert 0.5 * plain.saved < step(torch.bfloat16).saved < 0.7 * plain.saved
    assert step(batch=4).saved == pytest.approx(2 * plain.saved, rel=0.01)
    weighted = step(class_weights=(1.0, 2.0, 1.0, 1.0, 1.0))
    assert weighted.saved == pytest.approx(plain.saved, rel=0.1)


# Measured by three separate programs of version 0.1.0, in bytes (tiles: bytes a pixel).
EARLIER = {
    "tile drn_a_18": 439.2,
    "tile drn_d_22": 612.0,
    "tile drn_d_105": 1346.4,
    "peak drn_a_50 segmentation fp32 plain": 20029440,
    "peak drn_d_22 segmentation bf16 folded": 4915200,
    "peak drn_d_22 classification fp32 folded": 9461760,
    "saved drn_d_22 segmentation fp32 cross_entropy False": 39106564,
    "saved drn_d_22 segmentation bf16 cross_entropy True": 9175044,
    "saved drn_a_18 segmentation fp16 ohem False": 16763652,
    "saved drn_c_26 classification bf16 cross_entropy False": 23950828,
    "pass drn_d_22 segmentation fp32 cross_entropy False": 49299468,
    "pass drn_d_22 segmentation bf16 cross_entropy True": 40160438,
    "pass drn_a_18 segmentation fp16 ohem False": 47683724,
    "pass drn_d_22 classification bf16 cross_entropy False": 58924232,
    "pass drn_c_26 segmentation fp32 ohem True": 28555276,
}


@pytest.mark.parametrize("key", EARLIER)
def test_numbers_of_version_0_1_0(key: str) -> None:
    kind, name, *settings = key.split()
    arch = architecture(name)
    if kind == "tile":
        assert bytes_per_pixel(arch) == pytest.approx(EARLIER[key])
        return
    task, precision, *settings = settings
    dtype = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]
    if kind == "peak":
        folded = settings == ["folded"]
        found = activation_bytes(arch, task, 19, (2, 96, 160), dtype=dtype, folded=folded).peak
    else:
        loss, checkpointing = Loss(kind=settings[0]), settings[1] == "True"
        if kind == "pass":
            found = micro_batch_bytes(arch, task, 19, loss, 128, 2, precision, checkpointing)
        else:
            found = activation_bytes(
                arch,
                task,
                19,
                (2, 128, 128),
                dtype=dtype,
                loss=make_loss(loss, task, CPU),
                checkpointing=checkpointing,
            ).saved
    assert found == pytest.approx(EARLIER[key], rel=1e-3)

"""FLOPs of the networks, compared with torch's counter."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from drn_cli.networks import create_model
from drn_cli.networks.catalog import ARCHITECTURES, architecture
from drn_cli.networks.profiling import forward_flops, step_flops


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_agrees_with_torchs_counter(name: str) -> None:
    with torch.device("meta"):
        model, image = create_model(name, "classification", 7), torch.empty(1, 3, 41, 64)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model.eval()(image)
    expected = counter.get_total_flops()
    assert forward_flops(architecture(name), "classification", 7, height=41, width=64) == expected


def test_agrees_with_torch_on_real_passes() -> None:
    model = create_model("drn_d_22", "segmentation", 5)
    image, arch = torch.zeros(1, 3, 48, 64), architecture("drn_d_22")
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model.eval()(image)
    forward = forward_flops(arch, "segmentation", 5, height=48, width=64)
    assert forward == counter.get_total_flops()
    with FlopCounterMode(display=False) as counter:
        model.train()(image).sum().backward()
    step = step_flops(arch, "segmentation", 5, height=48, width=64)
    assert step == counter.get_total_flops()
    # The backward pass has two products per convolution, except for the input image.
    assert step == 3 * forward - 2 * 7 * 7 * 3 * 16 * 48 * 64


def test_defaults_are_those_of_imagenet() -> None:
    arch = architecture("drn_a_50")
    assert forward_flops(arch) == forward_flops(arch, "classification", 1000, height=224, width=224)
    # A dilated ResNet-50: 19.1 instead of 4.1 GMACs, because of its larger maps.
    assert forward_flops(arch) == pytest.approx(2 * 19.1e9, rel=0.01)


def test_published_miou() -> None:
    known = {name: arch.miou for name, arch in ARCHITECTURES.items() if arch.miou is not None}
    assert known == {
        "drn_a_50": 67.3,
        "drn_c_26": 68.0,
        "drn_c_42": 70.9,
        "drn_d_22": 68.0,
        "drn_d_38": 71.4,
        "drn_d_105": 75.6,
    }

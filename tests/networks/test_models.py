"""The networks agree with the original code and with the paper."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from drn_cli.errors import DrnError
from drn_cli.networks import create_model, list_models
from drn_cli.networks.catalog import ARCHITECTURES
from drn_cli.networks.conversion import to_original_keys, upsampling_weight
from drn_cli.networks.models import parameters, upsample

GOLDEN = json.loads((Path(__file__).parent / "golden.json").read_text())
UNUSED_SHORTCUT = 1_049_600  # parameters in drn_c_58 that the original does not use


def image(seed: int, height: int, width: int) -> Tensor:
    values = np.random.RandomState(seed).normal(size=(1, 3, height, width))
    return torch.from_numpy(values.astype(np.float32))


def test_golden_numbers_cover_all_networks_of_the_original() -> None:
    assert set(list_models()) == set(GOLDEN) | {"drn_b_26"}
    assert len(list_models()) == 15


@torch.inference_mode()
@pytest.mark.parametrize("arch", GOLDEN)
def test_classifies_as_the_original(arch: str, filled_network) -> None:
    logits = filled_network(arch)(image(224, 224, 224))[0]
    golden = GOLDEN[arch]["classification"]
    assert logits.shape == (1000,)
    torch.testing.assert_close(logits[:8], torch.tensor(golden["first8"]), atol=1e-4, rtol=0)
    assert int(logits.argmax()) == golden["argmax"]
    # Errors of a thousand logits cancel out.
    assert logits.sum().item() == pytest.approx(golden["sum"], abs=1e-2)


@torch.inference_mode()
@pytest.mark.parametrize("arch", GOLDEN)
def test_segments_as_the_original(arch: str, filled_network) -> None:
    logits = filled_network(arch, "segmentation")(image(72, 72, 104))
    golden = GOLDEN[arch]["segmentation"]
    assert logits.shape == (1, 19, 72, 104)
    log_probabilities = logits[0].log_softmax(0)
    for place, name in (((0, 0), "corner"), ((36, 52), "centre")):
        found = log_probabilities[:, place[0], place[1]]
        torch.testing.assert_close(found, torch.tensor(golden[name]), atol=1e-4, rtol=0)


@pytest.mark.parametrize("arch", GOLDEN)
def test_has_as_many_parameters_as_the_original(arch: str) -> None:
    unused = UNUSED_SHORTCUT if arch == "drn_c_58" else 0
    assert parameters(ARCHITECTURES[arch]) == GOLDEN[arch]["params"] - unused


@pytest.mark.parametrize("arch", GOLDEN)
@pytest.mark.parametrize("task", ["classification", "segmentation"])
def test_has_the_keys_and_shapes_of_the_original(arch: str, task: str, keys_digest) -> None:
    with torch.device("meta"):
        tensors = to_original_keys(create_model(arch, task))
    assert keys_digest(tensors) == GOLDEN[arch][task]["keys"]


def test_b_26_is_c_26_with_shortcuts_in_the_last_levels() -> None:
    """A block with a zero last batch norm returns its input in B, and zeros in C."""
    assert parameters(ARCHITECTURES["drn_b_26"]) == 21_126_584
    for arch, passes_on in (("drn_b_26", True), ("drn_c_26", False)):
        model = create_model(arch).eval()
        for level in ("layer7", "layer8"):
            last = model.backbone.get_submodule(level)[0].bn2
            torch.nn.init.zeros_(last.weight)
        with torch.inference_mode():
            maps = model.features(torch.randn(1, 3, 32, 32))
        assert maps["layer6"].any()
        assert torch.equal(maps["layer8"], maps["layer6"]) is passes_on
        assert bool(maps["layer8"].any()) is passes_on


@pytest.mark.parametrize("size", [(8, 8), (16, 40), (72, 104)])
def test_upsampling_is_the_original_transposed_convolution(size: tuple[int, int]) -> None:
    scores = torch.randn(2, 5, size[0] // 8, size[1] // 8)
    expected = F.conv_transpose2d(scores, upsampling_weight(5), stride=8, padding=4, groups=5)
    torch.testing.assert_close(upsample(scores, *size), expected)


def test_initialization_has_the_published_deviation() -> None:
    torch.manual_seed(0)
    model = create_model("drn_d_22", "segmentation", 11)
    convolution = model.backbone.get_submodule("layer7.0")
    assert convolution.weight.std().item() == pytest.approx((2 / (9 * 512)) ** 0.5, rel=0.01)
    assert model.head.weight.std().item() == pytest.approx((2 / 11) ** 0.5, rel=0.05)
    assert not model.head.bias.any()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("drn_d_23",), "unknown architecture 'drn_d_23'.*did you mean drn_d_"),
        (("drn_d_22", "detection"), "unknown task 'detection'"),
        (("drn_d_22", "segmentation", 0), "classes=0"),
    ],
)
def test_rejects_invalid_arguments(arguments: tuple, message: str) -> None:
    with pytest.raises(DrnError, match=message):
        create_model(*arguments)

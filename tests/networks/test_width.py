"""Channel multipliers: channels of each level, files and messages."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from drn_cli.errors import DrnError
from drn_cli.inference.opening import open_network
from drn_cli.networks import create_model, list_models
from drn_cli.networks.backbones import projection
from drn_cli.networks.catalog import ARCHITECTURES, architecture
from drn_cli.networks.checkpoints import read_checkpoint, save_weights
from drn_cli.networks.importing import import_weights
from drn_cli.networks.models import parameters
from drn_cli.networks.weights import load_weights

WIDTHS = (0.0625, 0.3, 0.5, 1.5)
BCD = (16, 32, 64, 128, 256, 512, 512, 512)


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("name", list_models())
def test_channels_of_each_level(name: str, width: float) -> None:
    """A multiple of 8, at least 8; a bottleneck has 4 times its inner channels."""
    scaled = [max(8, 8 * round(stock * width / 8)) for stock in BCD]
    with torch.device("meta"):
        model = create_model(name, "segmentation", 3, width=width)
        maps = model.features(torch.empty(1, 3, 37, 53))
        assert model(torch.empty(1, 3, 37, 53)).shape == (1, 3, 37, 53)
    arch = architecture(name, width)
    assert (model.architecture, model.arch, model.width) == (arch, name, width)
    expansion = 4 if arch.bottleneck else 1
    if arch.family == "A":
        expected = [scaled[2], *(count * expansion for count in scaled[2:6])]
    else:
        expected = [scaled[0], *scaled[:2], *(n * expansion for n in scaled[2:6]), *scaled[6:]]
    assert [level.shape[1] for level in maps.values()] == expected
    assert model.head.in_channels == arch.out_channels == expected[-1]


def test_width_1_is_the_paper() -> None:
    assert architecture("drn_d_22", 1) is architecture("drn_d_22") is ARCHITECTURES["drn_d_22"]
    assert architecture("drn_d_22").label == "drn_d_22"
    half = architecture("drn_d_22", 0.5)
    assert (half.one_crop, half.ten_crop, half.miou) == (None, None, None)
    assert half.label == "drn_d_22 (width 0.5)"
    assert parameters(half, "segmentation", 19) == 3_978_603


@pytest.mark.parametrize("side", [8, 9])
@pytest.mark.parametrize("channels", [8, 24])
def test_projection_of_few_channels_is_a_strided_convolution(channels: int, side: int) -> None:
    convolution, norm = projection(channels, 16, 2)
    plain = nn.Conv2d(channels, 16, 1, stride=2, bias=False)
    plain.load_state_dict(convolution.state_dict())
    x = torch.randn(2, channels, side, side)
    torch.testing.assert_close(convolution(x), plain(x))
    assert isinstance(norm, nn.BatchNorm2d)


STEPS = """
import torch
from drn_cli.networks import create_model
for arch in ("drn_d_22", "drn_a_18"):
    model = create_model(arch, "segmentation", 19, width=0.0625).train()
    model.to(memory_format=torch.channels_last)
    x = torch.rand(4, 3, 128, 128).to(memory_format=torch.channels_last)
    for _ in range(3):
        model(x).square().mean().backward()
"""


def test_training_in_channels_last_memory_does_not_crash() -> None:
    """In a separate process, as a library that writes past its buffers would crash this one."""
    done = subprocess.run([sys.executable, "-c", STEPS], capture_output=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("width", [0, -0.5, 4.1, float("nan"), float("inf")])
def test_width_out_of_range(width: float) -> None:
    with pytest.raises(DrnError, match=r"width .*: out of range \(use a width above 0"):
        create_model("drn_d_22", width=width)


@pytest.fixture
def thin(tmp_path: Path) -> Path:
    """A file of a network of width 1/16."""
    save_weights(tmp_path / "thin.safetensors", create_model("drn_d_22", "segmentation", 3,
                                                             width=0.0625))  # fmt: skip
    return tmp_path / "thin.safetensors"


def test_files_keep_the_width(thin: Path) -> None:
    assert read_checkpoint(thin).metadata["width"] == "0.0625"
    found = open_network(thin)
    assert (found.arch, found.architecture.width) == ("drn_d_22", 0.0625)
    again = create_model("drn_d_22", "segmentation", 3, weights=thin, width=0.0625)
    state = found.model.state_dict()
    assert all(torch.equal(value, state[key]) for key, value in again.state_dict().items())


def test_files_without_width_have_width_1(tmp_path: Path) -> None:
    model = create_model("drn_a_18", "segmentation", 3)
    torch.save(
        {"format": "drn", "arch": "drn_a_18", "task": "segmentation", "classes": "3",
         "model": model.state_dict()}, tmp_path / "old.pt")  # fmt: skip
    assert open_network(tmp_path / "old.pt").architecture is ARCHITECTURES["drn_a_18"]


@pytest.mark.parametrize(("width", "other"), [(1.0, 0.0625), (0.5, 0.0625)])
def test_weights_of_another_width(thin: Path, width: float, other: float) -> None:
    with pytest.raises(
        DrnError,
        match=rf"thin\.safetensors: contains drn_d_22 of width {other}, but the network has width "
        rf"{width} \(use width {other} \(model\.width in a recipe\)\)",
    ):
        load_weights(create_model("drn_d_22", "segmentation", 3, width=width), thin)


def test_published_weights_need_width_1() -> None:
    with pytest.raises(DrnError, match=r"the published imagenet weights need width 1\.0, not 0\.5"):
        create_model("drn_d_22", weights="imagenet", width=0.5)


def test_import_of_another_width(thin: Path, tmp_path: Path) -> None:
    with pytest.raises(
        DrnError, match=r"width 0\.0625 exists in files of drn only.*drn export FILE"
    ):
        import_weights(thin, tmp_path / "out.safetensors")
    assert not (tmp_path / "out.safetensors").exists()

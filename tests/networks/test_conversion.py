"""Files of other implementations are recognized by their keys and give the same outputs."""

from pathlib import Path

import pytest
import pytorchcv.model_provider
import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional as F

from drn_cli.errors import DrnError
from drn_cli.networks import create_model, list_models
from drn_cli.networks.checkpoints import Checkpoint
from drn_cli.networks.conversion import Conversion, convert, to_original_keys

PYTORCHCV = ("drnc26", "drnc42", "drnc58", "drnd22", "drnd38", "drnd54", "drnd105")


def converted(tensors: dict[str, Tensor], **metadata: str) -> Conversion:
    return convert(Checkpoint(dict(tensors), metadata), Path("x.pth"))


def meta(name: str, task: str = "classification", classes: int | None = None) -> nn.Module:
    with torch.device("meta"):
        return create_model(name, task, classes)


def own_keys(model: nn.Module) -> set[str]:
    return {key for key in model.state_dict() if not key.endswith("num_batches_tracked")}


def disturb(model: nn.Module) -> nn.Module:
    """Set random batch norm parameters, so that confused layers change the output."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, std=0.1)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
            nn.init.uniform_(module.weight, 0.5, 1)
    return model.eval()


@pytest.mark.parametrize("arch", list_models())
@pytest.mark.parametrize("task", ["classification", "segmentation"])
def test_recognizes_files_of_the_original(arch: str, task: str) -> None:
    model = meta(arch, task, 7)
    found = converted(to_original_keys(model))
    # B-26 has the same keys and shapes as C-26, for which it is taken.
    twins = ("drn_c_26", "drn_b_26")
    assert found.archs == (twins if arch in twins else (arch,))
    assert (found.task, found.classes) == (task, 7)
    own = "torchvision" if arch.startswith("drn_a") else "original"
    assert found.format == (own if task == "classification" else "original segmentation")
    assert found.tensors.keys() == own_keys(model)
    shapes = {key: value.shape for key, value in model.state_dict().items()}
    assert all(value.shape == shapes[key] for key, value in found.tensors.items())


@pytest.mark.parametrize("arch", ["drn_a_18", "drn_c_58", "drn_d_24"])
@pytest.mark.parametrize("task", ["classification", "segmentation"])
def test_converts_to_the_original_and_back(arch: str, task: str) -> None:
    model = disturb(create_model(arch, task, 3))
    found = converted(to_original_keys(model)).tensors
    assert found.keys() == own_keys(model)
    assert all(torch.equal(value, model.state_dict()[key]) for key, value in found.items())


@pytest.mark.parametrize("task", ["classification", "segmentation"])
def test_c_58_has_the_unused_shortcut_only_in_original_files(task: str) -> None:
    prefix = "layer7.0.downsample." if task == "classification" else "base.9.0.downsample."
    tensors = to_original_keys(create_model("drn_c_58", task))
    unused = {key: value for key, value in tensors.items() if key.startswith(prefix)}
    assert sum(value.numel() for value in unused.values()) == 1_049_600 + 2 * 512
    assert not any(value.any() for value in unused.values())
    tensors[f"{prefix}1.num_batches_tracked"] = torch.tensor(3)
    assert converted(tensors).archs == ("drn_c_58",)
    # In C-42 these keys are unknown.
    with pytest.raises(DrnError, match=r"resembles drn_c_42, but with unknown keys \(5\)"):
        converted(to_original_keys(meta("drn_c_42", task)) | unused)


@pytest.mark.parametrize("name", PYTORCHCV)
def test_recognizes_pytorchcv(name: str) -> None:
    with torch.device("meta"):
        theirs = pytorchcv.model_provider.get_model(name)
    arch = f"drn_{name[3]}_{name[4:]}"
    found = converted(theirs.state_dict())
    assert (found.format, found.archs[0]) == ("pytorchcv", arch)
    assert (found.task, found.classes) == ("classification", 1000)
    assert found.tensors.keys() == meta(arch).state_dict().keys()


@torch.inference_mode()
@pytest.mark.parametrize("name", ["drnc26", "drnc58", "drnd22"])
def test_agrees_with_pytorchcv_bit_for_bit(name: str) -> None:
    torch.manual_seed(0)
    theirs = disturb(pytorchcv.model_provider.get_model(name))
    ours = create_model(f"drn_{name[3]}_{name[4:]}").eval()
    ours.load_state_dict(converted(theirs.state_dict()).tensors)
    x = torch.randn(1, 3, 224, 224)
    expected = theirs(x)
    features = ours.backbone(x)
    assert torch.equal(features, theirs.features[:-1](x))
    assert torch.equal(ours.head(F.avg_pool2d(features, 28)).flatten(1), expected)
    # `forward` takes the mean, which sums in another order than the pooling layer.
    assert (ours(x) - expected).abs().max() <= 1e-5 * expected.abs().max()


@torch.inference_mode()
@pytest.mark.parametrize("name", ["resnet18", "resnet34", "resnet50"])
def test_reads_resnets_of_torchvision(name: str) -> None:
    theirs = disturb(getattr(torchvision.models, name)(num_classes=10))
    found = converted(theirs.state_dict())
    assert (found.format, found.archs) == ("torchvision", (f"drn_a_{name[6:]}",))
    assert (found.task, found.classes) == ("classification", 10)
    ours = create_model(found.archs[0], "classification", 10).eval()
    ours.load_state_dict(found.tensors)
    x = torch.randn(1, 3, 33, 47)
    undilated = nn.Sequential(*list(theirs.children())[:6])  # to the end of layer2
    assert torch.equal(ours.features(x)["layer2"], undilated(x))
    assert torch.equal(ours.head.weight.flatten(1), theirs.fc.weight)


def test_own_files_state_architecture_and_task() -> None:
    model = meta("drn_b_26", "segmentation", 4)
    found = converted(
        model.state_dict(), format="drn", arch="drn_b_26", task="segmentation", classes="4"
    )
    assert found.archs == ("drn_b_26",)
    assert (found.format, found.task, found.classes) == ("drn", "segmentation", 4)
    bare = converted(model.state_dict())
    assert bare.archs == ("drn_c_26", "drn_b_26")
    assert (bare.format, bare.task, bare.classes) == ("drn", None, 4)


def test_reads_backbones_without_head() -> None:
    tensors = to_original_keys(meta("drn_d_22", "segmentation"))
    found = converted({key: v for key, v in tensors.items() if key.startswith("base.")})
    assert (found.archs, found.task, found.classes) == (("drn_d_22",), None, None)
    assert not {"head.weight", "head.bias"} & found.tensors.keys()


def test_refuses_half_a_head() -> None:
    tensors = to_original_keys(meta("drn_d_22"))
    del tensors["fc.bias"]
    with pytest.raises(
        DrnError, match=r"resembles drn_d_22, but with missing keys \(1\): fc\.bias"
    ):
        converted(tensors)


def test_names_missing_and_unknown_keys() -> None:
    tensors = to_original_keys(meta("drn_d_22"))
    for index in range(7):
        tensors[f"extra{index}"] = torch.ones(1)
    del tensors["layer3.0.bn1.weight"], tensors["layer8.0.weight"]
    message = (
        r"^x\.pth: resembles drn_d_22, but with missing keys \(2\): layer3\.0\.bn1\.weight, "
        r"layer8\.0\.weight and unknown keys \(7\): extra0, extra1, extra2, extra3, extra4, \.\.\.$"
    )
    with pytest.raises(DrnError, match=message):
        converted(tensors)


@pytest.mark.parametrize("name", ["vgg11_bn", "densenet121", "mobilenet_v2"])
def test_refuses_other_networks(name: str) -> None:
    with torch.device("meta"):
        theirs = getattr(torchvision.models, name)(weights=None)
    with pytest.raises(DrnError, match="not the weights of a DRN: its keys are "):
        converted(theirs.state_dict())


def test_refuses_tensors_of_no_network() -> None:
    with pytest.raises(DrnError, match="not the weights of a DRN: its keys are a, b "):
        converted({"b": torch.ones(1), "a": torch.ones(1)})


def test_refuses_other_shapes() -> None:
    with torch.device("meta"):
        wide = torchvision.models.wide_resnet50_2(weights=None)
    message = (
        r"has the keys of drn_a_50, but backbone\.layer1\.0\.conv1\.weight is "
        r"\(128, 64, 1, 1\), not \(64, 64, 1, 1\)"
    )
    with pytest.raises(DrnError, match=message):
        converted(wide.state_dict())


@pytest.mark.parametrize(
    ("key", "shape"),
    [("fc.weight", (10, 512, 3, 3)), ("fc.weight", (10, 7)), ("fc.bias", (9,)), ("fc.weight", ())],
)
def test_refuses_other_heads(key: str, shape: tuple[int, ...]) -> None:
    tensors = to_original_keys(meta("drn_d_22", "classification", 10))
    tensors[key] = torch.zeros(shape)
    with pytest.raises(DrnError, match=r"drn_d_22, but head\..* of \d+ shapes differ"):
        converted(tensors)


def test_refuses_own_files_with_wrong_metadata() -> None:
    state = meta("drn_d_22").state_dict()
    with pytest.raises(DrnError, match=r"resembles drn_d_24, but with missing keys"):
        converted(state, format="drn", arch="drn_d_24")
    with pytest.raises(DrnError, match="metadata classes: 19, but its head has 1000"):
        converted(state, format="drn", arch="drn_d_22", classes="19")

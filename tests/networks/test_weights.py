"""Loading weights: completely or not at all, with a warning about what is skipped."""

import logging
from pathlib import Path

import pytest
import torch
from torch import Tensor

from drn_cli.errors import DrnError
from drn_cli.networks import create_model
from drn_cli.networks.catalog import architecture
from drn_cli.networks.checkpoints import save_weights
from drn_cli.networks.conversion import to_original_keys
from drn_cli.networks.models import DRN
from drn_cli.networks.weights import load_weights, weights_file


def snapshot(model: DRN) -> dict[str, Tensor]:
    return {key: value.clone() for key, value in model.state_dict().items()}


def differing(model: DRN, other: dict[str, Tensor]) -> set[str]:
    return {key for key, value in model.state_dict().items() if not torch.equal(value, other[key])}


def original_file(path: Path, arch: str, task: str, classes: int) -> Path:
    model = create_model(arch, task, classes)
    torch.nn.init.uniform_(model.head.bias)  # zero biases would look as if they were loaded
    torch.save(to_original_keys(model), path)
    return path


@pytest.mark.parametrize("arch", ["drn_a_18", "drn_d_22"])
@pytest.mark.parametrize("task", ["classification", "segmentation"])
def test_loads_matching_files_completely(
    tmp_path: Path, arch: str, task: str, caplog: pytest.LogCaptureFixture
) -> None:
    path = original_file(tmp_path / "x.pth", arch, task, 5)
    model = create_model(arch, task, 5)
    with caplog.at_level(logging.WARNING):
        report = load_weights(model, path)
    theirs = torch.load(path, weights_only=True)
    assert all(torch.equal(value, theirs[key]) for key, value in to_original_keys(model).items())
    assert not report.new_head
    assert (report.path, report.arch, report.task, report.classes) == (path, arch, task, 5)
    assert str(report).startswith(f"x.pth: {arch} for {task} with 5 classes loaded")
    assert not caplog.records


def test_own_files_round_trip_bit_for_bit(tmp_path: Path) -> None:
    saved = create_model("drn_c_26", "segmentation", 4)
    saved.train()(torch.randn(2, 3, 32, 32))  # updates the statistics of batch norm
    save_weights(tmp_path / "best.safetensors", saved)
    model = create_model("drn_c_26", "segmentation", 4, weights=tmp_path / "best.safetensors")
    assert not differing(model, snapshot(saved))
    report = load_weights(model, str(tmp_path / "best.safetensors"))
    assert report.format == "drn"
    assert model.backbone.layer0[1].num_batches_tracked == 1


@pytest.mark.parametrize(
    ("task", "classes", "said"),
    [
        ("segmentation", 1000, "the file has a head of 1000 classes for classification, the "
         "network 1000 classes for segmentation: loaded the backbone, not the head"),
        ("classification", 11, "the file has a head of 1000 classes for classification, the "
         "network 11 classes for classification: loaded the backbone, not the head"),
    ],
)  # fmt: skip
def test_loads_only_the_backbone_for_another_task(
    tmp_path: Path, task: str, classes: int, said: str, caplog: pytest.LogCaptureFixture
) -> None:
    path = original_file(tmp_path / "drn_d_22-4bd2f8ea.pth", "drn_d_22", "classification", 1000)
    model = create_model("drn_d_22", task, classes)
    before = snapshot(model)
    report = load_weights(model, path)
    assert report.new_head
    assert [record.getMessage() for record in caplog.records] == [f"{path.name}: {said}"]
    assert caplog.records[0].levelno == logging.WARNING
    changed = differing(model, before)
    assert not {"head.weight", "head.bias"} & changed
    theirs = torch.load(path, weights_only=True)
    assert torch.equal(model.backbone.layer8[0].weight, theirs["layer8.0.weight"])
    assert torch.equal(model.backbone.layer0[0].weight, theirs["layer0.0.weight"])


def test_warns_about_files_without_head(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    tensors = to_original_keys(create_model("drn_d_22"))
    torch.save({k: v for k, v in tensors.items() if not k.startswith("fc.")}, tmp_path / "x.pth")
    report = load_weights(create_model("drn_d_22"), tmp_path / "x.pth")
    assert report.new_head
    assert report.classes is None
    assert "x.pth: the file has no head, the network 1000 classes" in caplog.text


@pytest.mark.parametrize("damage", ["another network", "a missing key", "another shape"])
def test_errors_leave_the_network_unchanged(tmp_path: Path, damage: str) -> None:
    model = create_model("drn_d_22", "classification", 5)
    before = snapshot(model)
    path = original_file(tmp_path / "x.pth", "drn_d_22", "classification", 5)
    tensors = torch.load(path, weights_only=True)
    if damage == "another network":
        original_file(path, "drn_d_24", "classification", 5)
        expected = r"x\.pth: contains drn_d_24, but the network is drn_d_22$"
    elif damage == "a missing key":
        del tensors["layer8.1.bias"]
        torch.save(tensors, path)
        expected = r"missing keys \(1\): layer8\.1\.bias$"
    else:
        tensors["layer8.0.weight"] = torch.zeros(512, 512, 1, 1)
        torch.save(tensors, path)
        expected = r"layer8\.0\.weight is \(512, 512, 1, 1\), not \(512, 512, 3, 3\)"
    with pytest.raises(DrnError, match=expected):
        load_weights(model, path)
    assert not differing(model, before)


def test_b_26_and_c_26_load_files_of_others_but_not_of_each_other(tmp_path: Path) -> None:
    path = original_file(tmp_path / "x.pth", "drn_c_26", "classification", 5)
    for arch in ("drn_b_26", "drn_c_26"):
        model = create_model(arch, "classification", 5, weights=path)
        assert not load_weights(model, path).new_head
    own = tmp_path / "own.safetensors"
    save_weights(own, create_model("drn_c_26", "classification", 5))
    with pytest.raises(DrnError, match="contains drn_c_26, but the network is drn_b_26"):
        load_weights(create_model("drn_b_26", "classification", 5), own)


def test_half_precision_files_load_into_full_precision(tmp_path: Path) -> None:
    tensors = {
        key: value.half() for key, value in to_original_keys(create_model("drn_d_22")).items()
    }
    torch.save(tensors, tmp_path / "half.pth")
    model = create_model("drn_d_22", weights=tmp_path / "half.pth")
    assert model.head.weight.dtype == torch.float32
    assert torch.equal(model.head.weight.half(), tensors["fc.weight"])


def test_finds_files_by_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "x.pth").write_bytes(b"")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert weights_file(architecture("drn_d_22"), "~/x.pth") == tmp_path / "x.pth"
    with pytest.raises(DrnError, match=r"imagnet: no such file \(use a weight file, imagenet or"):
        weights_file(architecture("drn_d_22"), "imagnet")


@pytest.mark.parametrize("arch", ["drn_b_26", "drn_d_24", "drn_d_40", "drn_d_56", "drn_d_107"])
@pytest.mark.parametrize("keyword", ["imagenet", "imagenet-retrained"])
def test_unpublished_weights_are_an_error(arch: str, keyword: str) -> None:
    with pytest.raises(DrnError, match=f"no {keyword} weights are published for {arch} .*drn_d_22"):
        weights_file(architecture(arch), keyword)

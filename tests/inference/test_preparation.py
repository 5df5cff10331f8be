"""Networks prepared for inference: equal outputs, and unchanged originals."""

import copy
import math

import pytest
import torch
from torch import Tensor, nn

from drn_cli.distributed.batchnorm import SyncBatchNormCPU, convert_sync_batchnorm
from drn_cli.inference import preparation, winograd
from drn_cli.inference.preparation import for_inference
from drn_cli.inference.winograd import WinogradConvolution
from drn_cli.networks import create_model, list_models
from drn_cli.networks.models import DRN
from drn_cli.networks.recomputation import enable_activation_checkpointing

CPU = torch.device("cpu")
CLASSES = 5


def network(arch: str) -> DRN:
    """Build a segmenter with nontrivial batch norms whose activations stay small."""
    with torch.device("meta"):
        model = create_model(arch, "segmentation", CLASSES)
    model.to_empty(device=CPU).eval()
    random = torch.Generator().manual_seed(0)
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            bound = (3 / module.weight[0].numel()) ** 0.5
            nn.init.uniform_(module.weight, -bound, bound, generator=random)
            if module.bias is not None:
                nn.init.uniform_(module.bias, -1, 1, generator=random)
        elif isinstance(module, nn.BatchNorm2d):
            for tensor, low, high in (
                (module.weight, 0.5, 1),
                (module.bias, -0.2, 0.2),
                (module.running_mean, -0.2, 0.2),
                (module.running_var, 0.5, 1.5),
            ):
                nn.init.uniform_(tensor, low, high, generator=random)
            module.num_batches_tracked.fill_(7)
    return model


def images(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


def kinds(model: nn.Module, kind: type[nn.Module]) -> int:
    return sum(isinstance(module, kind) for module in model.modules())


def difference(found: Tensor, expected: Tensor) -> float:
    """Return the largest difference relative to the largest logit."""
    assert found.shape == expected.shape
    return float((found - expected).abs().max() / expected.abs().max())


def classifier(segmenter: DRN) -> DRN:
    """Build a classifier with the same weights."""
    with torch.device("meta"):
        model = create_model(segmenter.arch, "classification", CLASSES)
    model.load_state_dict(segmenter.state_dict(), assign=True)
    return model.eval()


@torch.no_grad()
@pytest.mark.parametrize("arch", list_models())
def test_outputs_are_unchanged(monkeypatch: pytest.MonkeyPatch, arch: str) -> None:
    monkeypatch.setattr(winograd, "WORTHWHILE", math.inf)  # small as the maps are
    segmenter, x = network(arch), images(1, 3, 40, 56)
    # Both tasks have the same convolutions: they are transformed for one.
    for model, exact in ((segmenter, True), (classifier(segmenter), False)):
        made = for_inference(model, CPU, exact=exact)
        assert (made.arch, made.task, made.classes) == (arch, model.task, CLASSES)
        assert kinds(made, nn.BatchNorm2d) == 0
        assert (kinds(made, WinogradConvolution) > 0) == exact
        assert difference(made(x), model(x)) < 1e-4


@torch.no_grad()
def test_tolerance_detects_wrong_batch_norm() -> None:
    model, x = network("drn_a_18"), images(1, 3, 40, 56)
    exact = copy.deepcopy(model).double()(x.double())
    assert difference(for_inference(model, CPU)(x), exact) < 1e-5
    *_, last = (module for module in model.modules() if isinstance(module, nn.BatchNorm2d))
    last.running_mean += 1e-3
    assert difference(for_inference(model, CPU)(x), exact) > 1e-4


@torch.no_grad()
def test_large_inputs_use_winograd() -> None:
    model, x = network("drn_d_22"), images(1, 3, 257, 200)
    made, direct = for_inference(model, CPU), []
    for module in made.modules():
        if isinstance(module, WinogradConvolution):
            module.direct.register_forward_hook(lambda *_: direct.append(1))
    assert difference(made.scores(x), model.scores(x)) < 1e-4
    assert not direct
    made(x[..., :8, :8])
    assert len(direct) == kinds(made, WinogradConvolution)


@torch.no_grad()
def test_model_in_training_mode() -> None:
    model, x = network("drn_a_18"), images(1, 3, 40, 56)
    expected = model(x)
    enable_activation_checkpointing(model)
    convert_sync_batchnorm(model.train(), CPU)
    assert kinds(model, SyncBatchNormCPU) > 0
    made = for_inference(model, CPU)
    assert difference(made(x), expected) < 1e-4
    assert kinds(made, nn.BatchNorm2d) == 0
    assert not made.training
    assert not any(parameter.requires_grad for parameter in made.parameters())


def test_model_and_random_state_are_unchanged() -> None:
    model = network("drn_d_22").train()
    model.backbone.layer0.requires_grad_(False)
    model.backbone.layer1.eval()
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    before = {name: tensor.detach().clone() for name, tensor in tensors.items()}
    learning = [parameter.requires_grad for parameter in model.parameters()]
    modules = [(name, type(module), module.training) for name, module in model.named_modules()]
    strides = [parameter.stride() for parameter in model.parameters()]
    state = torch.random.get_rng_state()

    made = for_inference(model, CPU)
    made(images(1, 3, 40, 56))

    assert torch.equal(torch.random.get_rng_state(), state)
    after = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    assert all(after[name] is tensor for name, tensor in tensors.items())
    assert all(torch.equal(after[name], values) for name, values in before.items())
    assert [parameter.requires_grad for parameter in model.parameters()] == learning
    assert [(n, type(m), m.training) for n, m in model.named_modules()] == modules
    assert [parameter.stride() for parameter in model.parameters()] == strides


@torch.no_grad()
def test_copy_is_independent() -> None:
    model, x = network("drn_a_18"), images(1, 3, 40, 56)
    made = for_inference(model, CPU)
    before = made(x)
    for tensor in [*model.parameters(), *model.buffers()]:
        tensor.add_(1)
    assert torch.equal(made(x), before)


@torch.no_grad()
def test_16_bit_networks_do_not_use_winograd() -> None:
    model, x = network("drn_d_22"), images(1, 3, 129, 136)
    made = for_inference(model, CPU, exact=False)
    assert kinds(made, WinogradConvolution) == 0
    assert kinds(made, nn.BatchNorm2d) == 0
    assert difference(made.scores(x), model.scores(x)) < 1e-4
    with torch.autocast("cpu", torch.bfloat16):
        found, expected = made.scores(x), model.scores(x)
    assert found.dtype == expected.dtype == torch.bfloat16
    # Folded weights are rounded to other numbers: no closer than bfloat16 is to float32.
    assert difference(found.float(), expected.float()) < 0.03


def test_no_winograd_without_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    model = network("drn_a_18")
    all_of_them = kinds(for_inference(model, CPU), WinogradConvolution)
    assert all_of_them > 3
    made = 0

    class Heavy(WinogradConvolution):
        def __init__(self, convolution: nn.Conv2d) -> None:
            nonlocal made
            made += 1
            if made == all_of_them:
                torch.empty(1 << 60)  # more than any machine has
            super().__init__(convolution)

    monkeypatch.setattr(preparation, "WinogradConvolution", Heavy)
    copied = for_inference(model, CPU)
    assert made == all_of_them
    assert kinds(copied, WinogradConvolution) == 0
    x = images(1, 3, 40, 56)
    with torch.inference_mode():
        assert difference(copied.scores(x), model.scores(x)) < 1e-4

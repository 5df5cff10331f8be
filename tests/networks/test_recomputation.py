import copy
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel

from drn_cli.distributed.batchnorm import convert_sync_batchnorm
from drn_cli.distributed.group import Group
from drn_cli.networks import create_model
from drn_cli.networks.models import DRN
from drn_cli.networks.recomputation import enable_activation_checkpointing

CPU = torch.device("cpu")
ARCHITECTURES = ("drn_a_18", "drn_a_50", "drn_c_26", "drn_d_22")


def network(arch: str, prepare: Callable[[DRN], Any] = lambda _: None) -> DRN:
    torch.manual_seed(0)
    model = create_model(arch, "segmentation", 3).train()
    prepare(model)
    return model


def make_batches(part: slice = slice(None)) -> list[tuple[Tensor, Tensor]]:
    random = torch.Generator().manual_seed(1)
    return [
        (
            torch.randn(3, 3, 32, 24, generator=random)[part],
            torch.randint(0, 3, (3, 32, 24), generator=random)[part],
        )
        for _ in range(2)
    ]


def learn(
    model: DRN,
    runner: nn.Module,
    batches: list[tuple[Tensor, Tensor]],
    dtype: torch.dtype | None = None,
) -> dict[str, Any]:
    """Accumulate gradients over micro-batches; DDP reduces them in the last one."""
    losses = []
    for number, (images, targets) in enumerate(batches, start=1):
        parallel = isinstance(runner, DistributedDataParallel) and number < len(batches)
        with (
            runner.no_sync() if parallel else nullcontext(),
            torch.autocast("cpu", dtype, enabled=dtype is not None),
        ):
            loss = F.cross_entropy(runner(images).float(), targets)
            loss.backward()
        losses.append(loss.detach())
    return {
        "losses": losses,
        "gradients": {name: p.grad for name, p in model.named_parameters()},
        "state": model.state_dict(),
    }


def same(found: Any, expected: Any) -> None:
    torch.testing.assert_close(found, expected, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("arch", "dtype"), [*((arch, None) for arch in ARCHITECTURES), ("drn_d_22", torch.bfloat16)]
)
def test_training_is_identical_bit_for_bit(arch, dtype):
    plain, recomputing = network(arch), network(arch, enable_activation_checkpointing)
    expected = learn(plain, plain, make_batches(), dtype)
    found = learn(recomputing, recomputing, make_batches(), dtype)
    assert list(found["state"]) == list(expected["state"])
    same(found, expected)
    counters = [v for key, v in found["state"].items() if key.endswith("num_batches_tracked")]
    assert counters and all(value == 2 for value in counters)


def test_with_synchronized_batch_norm_of_gpus():
    plain = network("drn_d_22", nn.SyncBatchNorm.convert_sync_batchnorm)
    assert any(isinstance(module, nn.SyncBatchNorm) for module in plain.modules())
    recomputing = copy.deepcopy(plain)
    enable_activation_checkpointing(recomputing)
    expected = learn(plain, plain, make_batches())
    same(learn(recomputing, recomputing, make_batches()), expected)


def learn_together(group: Group, arch: str) -> list[dict[str, Any]]:
    """Train without and with activation checkpointing."""
    found = []
    for recompute in (lambda _: None, enable_activation_checkpointing):
        model = network(arch, lambda model: convert_sync_batchnorm(model, CPU))
        recompute(model)
        runner = DistributedDataParallel(model, gradient_as_bucket_view=True, bucket_cap_mb=1)
        # Shards of different sizes.
        part = slice(0, 2) if group.is_main else slice(2, 3)
        found.append(learn(model, runner, make_batches(part)))
    return found


def test_several_processes_with_synchronized_batch_norm(spawn):
    first, second = spawn(learn_together, 2, "drn_a_18")
    for expected, found in (first, second):
        same(found, expected)
    same(first[1]["state"], second[1]["state"])
    same(first[1]["gradients"], second[1]["gradients"])


def kept_bytes(model: DRN, images: Tensor) -> int:
    """Return the bytes that a forward pass saves for the backward pass, without weights."""
    weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    kept: dict[int, Tensor] = {}  # references, so that no address is reused

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        model(images)
    return sum(
        tensor.untyped_storage().nbytes()
        for address, tensor in kept.items()
        if address not in weights
    )


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_saves_fewer_activations(arch):
    images = make_batches()[0][0]
    plain = kept_bytes(network(arch), images)
    assert 0 < kept_bytes(network(arch, enable_activation_checkpointing), images) < plain / 2


def count_runs(model: DRN) -> list[str]:
    """Return a list that records the convolutions of the backbone as they run."""
    runs: list[str] = []
    for name, module in model.backbone.named_modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(lambda *_, name=name: runs.append(name))
    return runs


def test_units_run_twice_in_training_only():
    model = network("drn_d_22", enable_activation_checkpointing)
    runs = count_runs(model)
    convolutions = sum(isinstance(module, nn.Conv2d) for module in model.backbone.modules())
    images = make_batches()[0][0]
    model(images).sum().backward()
    assert sorted(runs) == sorted(2 * list(dict.fromkeys(runs)))
    assert len(runs) == 2 * convolutions
    for training, gradients in ((False, True), (True, False)):
        runs.clear()
        with torch.set_grad_enabled(gradients):
            out = model.train(training)(images)
        if gradients:
            out.sum().backward()
        assert len(runs) == convolutions


def test_evaluation_is_identical():
    images = make_batches()[0][0]
    plain = network("drn_d_22").eval()
    recomputing = network("drn_d_22", enable_activation_checkpointing).eval()
    same(recomputing(images), plain(images))
    same(recomputing.features(images), plain.features(images))


def test_a_deep_copy_uses_its_own_weights():
    model = network("drn_a_18", enable_activation_checkpointing)
    twin = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    expected = network("drn_a_18")
    images = make_batches()[0][0]
    same(twin(images), expected(images))
    twin(images).sum().backward()
    assert all(parameter.grad is not None for parameter in twin.parameters())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_a_failing_backward_pass_restores_the_statistics():
    model = network("drn_a_18", enable_activation_checkpointing)
    buffers = dict(model.named_buffers())
    out = model(make_batches()[0][0])

    def fail(*_: Any) -> None:
        raise RuntimeError("out of memory")

    model.backbone.get_submodule("layer3.1.conv2").register_forward_hook(fail)
    with pytest.raises(RuntimeError, match="out of memory"):
        out.sum().backward()
    found = dict(model.named_buffers())
    assert all(found[name] is buffer for name, buffer in buffers.items())

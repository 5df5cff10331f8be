import copy
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from drn_cli.distributed.batchnorm import SyncBatchNormCPU, convert_sync_batchnorm
from drn_cli.distributed.group import Group
from drn_cli.networks import create_model
from drn_cli.recipe import schema
from drn_cli.training.loss import make_loss

CLASSES = 3
CPU = torch.device("cpu")
STEPS = 3


def network(name: str) -> nn.Module:
    torch.manual_seed(1)
    if name != "stack":
        # In double: over twenty layers, rounding in float32 alone exceeds the tolerance.
        model = create_model(name, "segmentation", CLASSES).double()
        model.register_forward_pre_hook(lambda _, x: (x[0].double(),))
        return model
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3, padding=1),
        nn.BatchNorm2d(8, eps=1e-3, momentum=0.3),
        nn.ReLU(),
        nn.Conv2d(8, CLASSES, 1),
    )


def batches(size: int) -> list[tuple[Tensor, Tensor]]:
    """Return batches whose images differ in mean and in the number of ignored pixels."""
    random = torch.Generator().manual_seed(2)
    made = []
    for _ in range(STEPS):
        images = torch.randn(size, 3, 32, 32, generator=random)
        labels = torch.randint(0, CLASSES, (size, 32, 32), generator=random)
        for number in range(size):
            images[number] = images[number] / (number + 1) - number / 2
            labels[number, : 5 * number] = 255
        made.append((images, labels))
    return made


def learn(group: Group, name: str, parts: Sequence[int], synced: bool = True) -> dict[str, Any]:
    """Train on this process's part of each batch, with the loss of all processes."""
    model = network(name)
    if synced and group.world > 1:
        convert_sync_batchnorm(model, CPU)
    loss_of = make_loss(schema.Loss(), "segmentation", CPU)
    optimiser = torch.optim.SGD(model.parameters(), 1e-3, momentum=0.9, weight_decay=1e-4)
    runner: nn.Module = model
    if group.world > 1:
        runner = DistributedDataParallel(
            model, broadcast_buffers=not synced, gradient_as_bucket_view=True
        )
    start = sum(parts[: group.rank])
    mine = slice(start, start + parts[group.rank])
    outputs: list[Tensor] = []
    gradients: list[list[Tensor]] = []
    totals: list[list[float]] = []
    for images, labels in batches(sum(parts)):
        optimiser.zero_grad()
        logits = runner(images[mine])
        loss, weight = loss_of(logits, labels[mine])
        total = group.sum(torch.stack([loss.detach(), weight]))
        # DistributedDataParallel divides the gradients by the number of processes.
        (loss * (group.world / total[1])).backward()
        optimiser.step()
        outputs.append(logits.detach())
        gradients.append([p.grad.clone() for p in model.parameters() if p.grad is not None])
        totals.append(total.tolist())
    return {
        "outputs": outputs,
        "gradients": gradients,
        "state": {key: value.clone() for key, value in model.state_dict().items()},
        "totals": totals,
    }


def alone(name: str, size: int) -> dict[str, Any]:
    return learn(Group(0, 1, CPU), name, [size])


def close(found: Any, expected: Any) -> None:
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("stack", (2, 2)),
        ("stack", (3, 1)),
        ("stack", (5, 2)),
        ("stack", (3, 1, 2)),
        ("drn_d_22", (3, 1)),
        ("drn_a_18", (2, 1, 1)),
    ],
)
def test_several_processes_train_as_one_does(spawn, name, parts):
    expected = alone(name, sum(parts))
    found = spawn(learn, len(parts), name, parts)
    for step in range(STEPS):
        close(torch.cat([one["outputs"][step] for one in found]), expected["outputs"][step])
    for one in found:
        close(one["state"], expected["state"])
        close(one["gradients"], expected["gradients"])
        torch.testing.assert_close(one["totals"], expected["totals"], rtol=1e-5, atol=0)
    counters = [v for k, v in found[0]["state"].items() if k.endswith("num_batches_tracked")]
    assert counters and all(int(value) == STEPS for value in counters)


def test_without_synchronization_they_do_not(spawn):
    expected = alone("stack", 4)
    found = spawn(learn, 2, "stack", (3, 1), False)
    assert not torch.allclose(found[0]["outputs"][0], expected["outputs"][0][:3], atol=1e-3)
    mean = "1.running_mean"
    assert not torch.allclose(found[0]["state"][mean], expected["state"][mean], atol=1e-3)
    assert not torch.allclose(found[0]["state"][mean], found[1]["state"][mean], atol=1e-3)


def whole_batch(dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Return maps far from zero, where sums of squares lose precision, and a gradient."""
    random = torch.Generator().manual_seed(3)
    x = torch.randn(7, 4, 5, 6, generator=random, dtype=torch.float64) * 2 + 30
    x += torch.arange(7).view(7, 1, 1, 1)
    grad = torch.randn(7, 4, 5, 6, generator=random, dtype=torch.float64)
    return x.to(dtype), grad.to(dtype)


def plain_norm(momentum: float | None = 0.1) -> nn.BatchNorm2d:
    norm = nn.BatchNorm2d(4, momentum=momentum)
    torch.nn.init.uniform_(norm.weight, 0.5, 2, generator=torch.Generator().manual_seed(4))
    torch.nn.init.uniform_(norm.bias, -1, 1, generator=torch.Generator().manual_seed(5))
    return norm


def normalise_once(
    group: Group,
    norm: nn.BatchNorm2d,
    x: Tensor,
    grad: Tensor,
    parts: Sequence[int],
    passes: int = 1,
) -> dict[str, Any]:
    """Run this process's part of `x` forward, and the gradient backward."""
    start = sum(parts[: group.rank])
    mine = slice(start, start + parts[group.rank])
    model = nn.Sequential(copy.deepcopy(norm))
    if group.world > 1:
        convert_sync_batchnorm(model, CPU)
        assert isinstance(model[0], SyncBatchNormCPU)
    x = x[mine].clone().requires_grad_()
    for _ in range(passes):
        out = model(x)
    out.backward(grad[mine])
    return {
        "out": out.detach(),
        "grad_x": x.grad,
        "grads": [parameter.grad for parameter in model.parameters()],
        "buffers": dict(model.named_buffers()),
    }


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, 1e-11), (torch.float32, 2e-5)], ids=str
)
@pytest.mark.parametrize("parts", [(4, 3), (6, 1), (1, 4, 2)])
def test_gradient_is_that_of_the_whole_batch(spawn, dtype, tolerance, parts):
    x, grad = whole_batch(dtype)
    norm = plain_norm().to(dtype)
    expected = normalise_once(Group(0, 1, CPU), norm, x, grad, [7])
    found = spawn(normalise_once, len(parts), norm, x, grad, parts)
    for key in ("out", "grad_x"):
        joined = torch.cat([one[key] for one in found])
        torch.testing.assert_close(joined, expected[key], rtol=tolerance, atol=tolerance)
    for number, whole in enumerate(expected["grads"]):  # those of the weights stay local
        total = sum(one["grads"][number] for one in found)
        torch.testing.assert_close(total, whole, rtol=tolerance, atol=20 * tolerance)
    for one in found:
        torch.testing.assert_close(
            one["buffers"], expected["buffers"], rtol=tolerance, atol=tolerance
        )


def test_cumulative_statistics(spawn):
    x, grad = whole_batch(torch.float64)
    norm = plain_norm(momentum=None).double()
    expected = normalise_once(Group(0, 1, CPU), norm, x, grad, [7], passes=3)
    found = spawn(normalise_once, 2, norm, x, grad, (5, 2), 3)
    for key in ("out", "grad_x"):
        torch.testing.assert_close(torch.cat([one[key] for one in found]), expected[key])
    for one in found:
        torch.testing.assert_close(one["buffers"], expected["buffers"])
        assert one["buffers"]["0.num_batches_tracked"] == 3


def test_bfloat16_is_as_accurate_as_in_plain_batch_norm(spawn):
    """Under autocast, the maps are bfloat16, and weights and statistics are not."""
    x, grad = whole_batch(torch.bfloat16)
    expected = normalise_once(Group(0, 1, CPU), plain_norm(), x, grad, [7])
    found = spawn(normalise_once, 2, plain_norm(), x, grad, (5, 2))
    for key in ("out", "grad_x"):
        joined = torch.cat([one[key] for one in found])
        assert joined.dtype == torch.bfloat16
        torch.testing.assert_close(joined, expected[key], rtol=0.01, atol=0.01)
    for number, whole in enumerate(expected["grads"]):
        total = sum(one["grads"][number] for one in found)
        assert total.dtype == torch.float32
        torch.testing.assert_close(total, whole, rtol=1e-3, atol=1e-2)
    torch.testing.assert_close(found[0]["buffers"], expected["buffers"], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("training", [False, True])
def test_a_single_process_uses_plain_batch_norm(training):
    plain = network("drn_d_22").train(training)
    synced = convert_sync_batchnorm(copy.deepcopy(plain), CPU)
    x = torch.randn(2, 3, 32, 32)
    assert torch.equal(synced(x), plain(x))
    torch.testing.assert_close(synced.state_dict(), plain.state_dict(), rtol=0, atol=0)


def evaluate_twice(group: Group, x: Tensor) -> dict[str, Tensor]:
    plain = network("drn_a_18").eval()
    synced = convert_sync_batchnorm(copy.deepcopy(plain), CPU)
    # Only rank 0 runs: evaluation must not wait for the others.
    return {"plain": plain(x), "synced": synced(x)} if group.is_main else {}


def test_evaluation_does_not_communicate(spawn):
    found, _ = spawn(evaluate_twice, 2, torch.randn(1, 3, 32, 32))
    assert torch.equal(found["plain"], found["synced"])


def test_convert_keeps_state_dict_and_settings():
    plain = network("drn_d_22").eval()
    plain.backbone.requires_grad_(False)  # type: ignore[union-attr]
    before = {key: value.clone() for key, value in plain.state_dict().items()}
    trained = [name for name, parameter in plain.named_parameters() if parameter.requires_grad]
    norms = {name for name, m in plain.named_modules() if isinstance(m, nn.BatchNorm2d)}
    synced = convert_sync_batchnorm(plain, CPU)
    assert list(synced.state_dict()) == list(before)
    torch.testing.assert_close(synced.state_dict(), before, rtol=0, atol=0)
    found = {name for name, m in synced.named_modules() if isinstance(m, SyncBatchNormCPU)}
    assert found == norms and norms
    assert not any(module.training for module in synced.modules())
    assert [name for name, p in synced.named_parameters() if p.requires_grad] == trained
    stack = convert_sync_batchnorm(network("stack"), CPU)
    assert (stack[4].eps, stack[4].momentum) == (1e-3, 0.3)  # type: ignore[index]


def test_converting_twice_changes_nothing():
    once = convert_sync_batchnorm(network("stack"), CPU)
    norms = [module for module in once.modules() if isinstance(module, SyncBatchNormCPU)]
    again = convert_sync_batchnorm(once, CPU)
    assert [m for m in again.modules() if isinstance(m, SyncBatchNormCPU)] == norms

import copy
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from drn_cli.errors import DrnError
from drn_cli.recipe.schema import Train
from drn_cli.training.optimiser import make_optimiser

CPU = torch.device("cpu")
STEPS = 3
IMPLEMENTATIONS = ("loop", "foreach", "fused")


def settings(**options: Any) -> Train:
    train = {"epochs": 1, "batch_size": 1, "lr": 0.1, "momentum": 0.9, "weight_decay": 0.01}
    train |= {key: options.pop(key) for key in list(options) if key in train}
    return Train.model_validate({**train, "optimiser": options})


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 2, 1))


def learn(model: nn.Module, optimiser: torch.optim.Optimizer) -> list[Tensor]:
    """Take some steps."""
    random = torch.Generator().manual_seed(1)
    for _ in range(STEPS):
        optimiser.zero_grad()
        model(torch.randn(2, 3, 8, 8, generator=random)).square().mean().backward()
        optimiser.step()
    return [parameter.detach().clone() for parameter in model.parameters()]


def equal(found: list[Tensor], expected: list[Tensor]) -> bool:
    return all(map(torch.equal, found, expected))


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("nesterov", [False, True])
def test_sgd_equals_torch(nesterov, implementation):
    mine, theirs = network(), network()
    found = learn(
        mine,
        make_optimiser(settings(nesterov=nesterov, implementation=implementation), mine, CPU),
    )
    plain = torch.optim.SGD(
        theirs.parameters(),
        0.1,
        momentum=0.9,
        weight_decay=0.01,
        nesterov=nesterov,
        fused=implementation == "fused",
        foreach=implementation == "foreach",
    )
    assert equal(found, learn(theirs, plain))
    assert not equal(found, list(network().parameters()))


def test_sgd_without_momentum_has_no_buffers():
    model = network()
    optimiser = make_optimiser(settings(momentum=0), model, CPU)
    found = learn(model, optimiser)
    theirs = network()
    plain = torch.optim.SGD(theirs.parameters(), 0.1, weight_decay=0.01)
    assert equal(found, learn(theirs, plain))
    assert all(state.get("momentum_buffer") is None for state in optimiser.state.values())


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_adamw_equals_torch(implementation):
    mine, theirs = network(), network()
    options = settings(
        kind="adamw", betas=(0.8, 0.95), eps=1e-6, implementation=implementation, lr=0.01
    )
    found = learn(mine, make_optimiser(options, mine, CPU))
    plain = torch.optim.AdamW(
        theirs.parameters(),
        0.01,
        betas=(0.8, 0.95),
        eps=1e-6,
        weight_decay=0.01,
        fused=implementation == "fused",
        foreach=implementation == "foreach",
    )
    assert equal(found, learn(theirs, plain))


@pytest.fixture
def poisoned_memory() -> Iterator[None]:
    """Fill uninitialized memory with NaN."""
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.mark.usefixtures("poisoned_memory")
@pytest.mark.parametrize("kind", ["sgd", "adamw"])
@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_a_skipped_first_step_changes_nothing(implementation, kind):
    assert torch.empty(3).isnan().all()
    options = settings(kind=kind, implementation=implementation)
    undisturbed, model = network(), network()
    expected = learn(undisturbed, make_optimiser(options, undisturbed, CPU))
    optimiser = make_optimiser(options, model, CPU)
    scaler = torch.amp.GradScaler("cpu", init_scale=1)
    scaler.scale(model(torch.randn(2, 3, 8, 8)).sum() * torch.inf).backward()
    scaler.step(optimiser)
    assert equal(list(model.parameters()), list(network().parameters()))
    assert equal(learn(model, optimiser), expected)


@pytest.mark.parametrize("kind", ["sgd", "adamw"])
@pytest.mark.parametrize(
    ("wanted", "device", "found"),
    [
        ("auto", "cpu", "foreach"),
        ("auto", "cuda", "fused"),
        ("fused", "cpu", "fused"),
        ("loop", "cuda", "loop"),
        ("foreach", "cuda", "foreach"),
    ],
)
def test_implementation(kind, wanted, device, found):
    optimiser = make_optimiser(
        settings(kind=kind, implementation=wanted), network(), torch.device(device)
    )
    (group,) = optimiser.param_groups
    assert (group["fused"], group["foreach"]) == (found == "fused", found == "foreach")


@pytest.mark.parametrize("kind", ["sgd", "adamw"])
def test_weight_decay_applies_to_all_parameters(kind):
    model = network()
    before = copy.deepcopy(list(model.parameters()))
    optimiser = make_optimiser(settings(kind=kind), model, CPU)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimiser.step()
    # lr * weight_decay is 0.001, and no gradient moves them
    shrunk = [0.999 * parameter.detach() for parameter in before]
    torch.testing.assert_close([p.detach() for p in model.parameters()], shrunk)


def test_momentum_has_the_memory_format_of_its_parameter():
    model = network().to(memory_format=torch.channels_last)
    optimiser = make_optimiser(settings(), model, CPU)
    for parameter in model.parameters():
        assert optimiser.state[parameter]["momentum_buffer"].stride() == parameter.stride()


def test_nesterov_needs_momentum():
    with pytest.raises(DrnError, match=r"train\.optimiser\.nesterov") as caught:
        make_optimiser(settings(nesterov=True, momentum=0), network(), CPU)
    assert caught.value.hint is not None and "train.momentum" in caught.value.hint

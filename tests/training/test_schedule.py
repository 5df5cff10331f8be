import itertools
import math

import pytest
import torch
from torch.optim import lr_scheduler

from drn_cli.recipe.schema import Schedule
from drn_cli.training.schedule import learning_rate


def rates(schedule: Schedule, epochs: int, steps: int, base: float = 0.01) -> list[float]:
    """Return the learning rates of all steps of a training."""
    return [
        learning_rate(schedule, base, epochs, epoch, step / steps)
        for epoch in range(epochs)
        for step in range(steps)
    ]


def test_step_divides_by_ten_at_epochs():
    found = rates(Schedule(kind="step", step=2), epochs=5, steps=2)
    assert found == pytest.approx([0.01] * 4 + [0.001] * 4 + [0.0001] * 2)


def test_step_of_the_original_recipe():
    schedule = Schedule(kind="step", step=100)
    for epoch, expected in ((0, 0.01), (99, 0.01), (100, 0.001), (199, 0.001), (200, 0.0001)):
        assert learning_rate(schedule, 0.01, 250, epoch, 0.9) == pytest.approx(expected)


def test_poly_changes_at_each_epoch_only():
    found = rates(Schedule(kind="poly", power=0.9), epochs=4, steps=3)
    per_epoch = [0.01 * (1 - epoch / 4) ** 0.9 for epoch in range(4)]
    assert found == pytest.approx([rate for rate in per_epoch for _ in range(3)])
    assert found[0] == 0.01
    assert found[3] == pytest.approx(0.0077189, rel=1e-5)  # 0.01 * 0.75 ** 0.9


def test_poly_changes_at_each_step():
    found = rates(Schedule(kind="poly", power=0.9, per="step"), epochs=4, steps=3)
    assert found == pytest.approx([0.01 * (1 - step / 12) ** 0.9 for step in range(12)])
    assert all(later < earlier for earlier, later in itertools.pairwise(found))
    assert found[-1] > 0


def test_cosine_changes_at_each_epoch_only():
    found = rates(Schedule(kind="cosine"), epochs=4, steps=2)
    half = math.sqrt(0.5)
    expected = [0.01, 0.005 * (1 + half), 0.005, 0.005 * (1 - half)]
    assert found == pytest.approx([rate for rate in expected for _ in range(2)])


def test_cosine_changes_at_each_step():
    found = rates(Schedule(kind="cosine", per="step"), epochs=2, steps=6)
    assert found == pytest.approx(
        [0.005 * (1 + math.cos(math.pi * step / 12)) for step in range(12)]
    )
    assert all(later < earlier for earlier, later in itertools.pairwise(found))
    assert found[-1] > 0


@pytest.mark.parametrize(
    ("schedule", "theirs"),
    [
        (Schedule(kind="step", step=3), lambda sgd: lr_scheduler.StepLR(sgd, 3)),
        (
            Schedule(kind="poly", power=0.9),
            lambda sgd: lr_scheduler.PolynomialLR(sgd, total_iters=10, power=0.9),
        ),
        (Schedule(kind="cosine"), lambda sgd: lr_scheduler.CosineAnnealingLR(sgd, T_max=10)),
    ],
    ids=["step", "poly", "cosine"],
)
def test_rates_equal_torch_schedulers(schedule, theirs):
    sgd = torch.optim.SGD([torch.zeros(1)], 0.01)
    scheduler = theirs(sgd)
    expected = []
    for _ in range(10):
        expected += scheduler.get_last_lr()
        sgd.step()
        scheduler.step()
    assert rates(schedule, epochs=10, steps=1) == pytest.approx(expected)


@pytest.mark.parametrize("per", ["epoch", "step"])
def test_constant(per):
    assert set(rates(Schedule(kind="constant", per=per), 3, 4)) == {0.01}


@pytest.mark.parametrize("per", ["epoch", "step"])
@pytest.mark.parametrize("kind", ["step", "poly", "cosine", "constant"])
def test_warm_up_grows_at_each_step(kind, per):
    warm = rates(Schedule(kind=kind, per=per, warmup=1.5), epochs=4, steps=4)
    cold = rates(Schedule(kind=kind, per=per), epochs=4, steps=4)
    assert warm[:6] == pytest.approx([rate * step / 6 for step, rate in enumerate(cold[:6])])
    assert warm[6:] == cold[6:]
    assert warm[0] == 0

"""One training step."""

import math
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from drn_cli.data.batches import Batch, normalize
from drn_cli.training.setup import TrainState
from drn_cli.training.step import StepStats, take_step

LR = 0.1


def batch_of(*labels: int, seed: int = 0) -> Batch:
    random = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 256, (len(labels), 32, 32, 3), dtype=torch.uint8, generator=random)
    maps = [torch.full((32, 32), label, dtype=torch.uint8) for label in labels]
    return Batch(images, torch.stack(maps))


def step(training: TrainState, *passes: Batch, rate: float = LR) -> list[float]:
    """Take a step; return loss, weight, gradient norm, skipped, consecutive skipped."""
    meter = StepStats(torch.device("cpu"))
    take_step(training, passes, rate, 0, meter)
    return meter.read()


def state(training: TrainState) -> dict[str, torch.Tensor]:
    return {key: tensor.clone() for key, tensor in training.model.state_dict().items()}


def test_void_has_no_weight(prepare):
    """Void pixels do not change a step; a batch of void changes no parameter."""
    training = prepare("train.weight_decay=0")
    before = state(training)
    assert step(training, batch_of(255, 255)) == [0, 0, 0, 0, 0]
    parameters = dict(training.model.named_parameters())
    assert all(torch.equal(parameters[name], before[name]) for name in parameters)
    training.model.eval()  # without batch norm over the batch
    both = batch_of(1, 255)
    alone = Batch(both.images[:1], both.labels[:1])
    numbers = step(training, both, rate=0.0)[:3]
    assert numbers == pytest.approx(step(training, alone, rate=0.0)[:3], rel=1e-5)
    assert numbers[1] == 32 * 32
    step(training, both)
    assert not torch.equal(parameters["head.weight"], before["head.weight"])


@pytest.mark.parametrize("weights", [None, "[1,3,0.5]"])
def test_equals_a_step_of_torch_sgd(prepare, weights):
    overrides = [] if weights is None else [f"loss.class_weights={weights}"]
    training, plain = prepare(*overrides), prepare()
    batch = batch_of(0, 1, 2, 255)
    step(training, batch)
    optimiser = torch.optim.SGD(plain.model.parameters(), LR, momentum=0.9, weight_decay=1e-4)
    logits = plain.model.train()(normalize(batch.images, plain.data.statistics))
    weight = None if weights is None else torch.tensor([1, 3, 0.5])
    F.cross_entropy(logits, batch.labels.long(), weight, ignore_index=255).backward()
    optimiser.step()
    torch.testing.assert_close(
        training.model.state_dict(), plain.model.state_dict(), rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize("channels_last", [False, True])
def test_images_have_the_memory_format_of_the_weights(prepare, channels_last):
    training, seen = prepare(f"train.channels_last={channels_last}"), []
    runner = training.runner

    def keep(images: torch.Tensor) -> Any:
        seen.append(images.is_contiguous(memory_format=torch.channels_last))
        return runner(images)

    training.runner = keep
    step(training, batch_of(0, 1))
    assert seen == [channels_last]


def test_backward_computes_the_gradient_of_the_mean(prepare):
    """The gradient of the sum over all pixels would overflow in fp16."""
    training, norms = prepare(), []
    for parameter in training.model.parameters():
        parameter.register_hook(lambda gradient: norms.append(gradient.norm()))
    norm = step(training, batch_of(0, 1))[2]
    assert torch.stack(norms).norm().item() == pytest.approx(norm, rel=1e-4)


def test_gradient_accumulation_equals_the_whole_batch(prepare):
    """Without batch norm over the batch, they differ only by rounding."""
    whole, split = prepare(), prepare("train.accumulate=2")
    for training in (whole, split):
        training.model.eval()
    batch = batch_of(0, 255, 1, 2)
    halves = [Batch(*(part[rows] for part in batch)) for rows in (slice(2), slice(2, 4))]
    assert step(whole, batch)[:3] == pytest.approx(step(split, *halves)[:3], rel=1e-4)
    torch.testing.assert_close(
        whole.model.state_dict(), split.model.state_dict(), rtol=1e-4, atol=1e-5
    )


def test_gradient_clipping(prepare):
    training, free = prepare("train.clip_grad_norm=0.25", "train.weight_decay=0"), prepare()
    before = state(training)
    norm = step(training, batch_of(0, 1))[2]
    assert norm == pytest.approx(step(free, batch_of(0, 1))[2])
    assert norm > 0.25
    moved = [(tensor - before[name]).norm() for name, tensor in training.model.named_parameters()]
    assert torch.stack(moved).norm().item() == pytest.approx(0.25 * LR, rel=1e-3)


@pytest.mark.parametrize("kind", ["sgd", "adamw"])
@pytest.mark.parametrize("how", ["fused", "foreach"])
@pytest.mark.parametrize("poison", [torch.nan, torch.inf])
def test_a_non_finite_loss_changes_nothing(prepare, kind, how, poison):
    """Including the batch norm statistics, which the forward pass has updated."""
    training = prepare(
        f"train.optimiser.kind={kind}", f"train.optimiser.implementation={how}", "train.ema=0.9"
    )
    meter = StepStats(torch.device("cpu"))
    take_step(training, [batch_of(0, 1)], LR, 0, meter)
    before, runner = state(training), training.runner
    optimiser = {
        index: {name: value.clone() for name, value in entry.items()}
        for index, entry in training.optimiser.state_dict()["state"].items()
    }

    def poisoned(images: torch.Tensor) -> Any:
        images[0, 0, 0, 0] = poison
        return runner(images)

    training.runner = poisoned
    for number in (1, 2):
        take_step(training, [batch_of(0, 1)], LR, 1, meter)
        loss, weight, _, skipped, in_a_row = meter.read()
        assert (skipped, in_a_row) == (number, number)
        assert meter.skipped == number
    assert weight == 2 * 32 * 32 and loss > 0  # of the good step alone
    after = state(training)
    counters = [key for key in after if key.endswith("num_batches_tracked")]
    for key in after.keys() - set(counters):
        assert torch.equal(after[key], before[key]), key
    for index, entry in training.optimiser.state_dict()["state"].items():
        for name, value in entry.items():
            assert torch.equal(value, optimiser[index][name]), name
    assert training.averaged is not None
    tensors = training.averaged.state_dict().values()
    assert all(bool(tensor.isfinite().all()) for tensor in tensors)
    training.runner = runner
    take_step(training, [batch_of(0, 1)], LR, 3, meter)
    assert meter.read()[3:] == [2, 0]
    assert not torch.equal(state(training)["head.weight"], before["head.weight"])
    meter.reset()
    assert (meter.read()[:2], meter.skipped) == ([0, 0], 2)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_non_finite_gradient_skips_the_step(prepare, precision):
    training = prepare(f"train.precision={precision}", "train.weight_decay=0")
    before = state(training)
    weight = training.model.head.weight
    handle = weight.register_hook(lambda gradient: torch.full_like(gradient, torch.inf))
    loss, _, _, skipped, _ = step(training, batch_of(0, 1))
    assert (loss, skipped) == (0, 1)
    assert torch.equal(weight, before["head.weight"])
    handle.remove()
    assert step(training, batch_of(0, 1))[3] == 0
    assert not torch.equal(weight, before["head.weight"])


def test_overflowing_scaled_gradients_do_not_count_as_skipped(prepare):
    """In fp16, the scale is halved and the step is left out, but its loss counts."""
    training = prepare("train.precision=fp16")
    before = state(training)
    loss, weight, norm, skipped, _ = step(training, batch_of(0, 1))
    assert loss > 0 and weight > 0 and skipped == 0
    assert training.scaler.get_scale() == (2.0**16 if math.isfinite(norm) else 2.0**15)
    moved = not torch.equal(state(training)["head.weight"], before["head.weight"])
    assert moved is math.isfinite(norm)


def test_a_non_finite_loss_skips_the_step_in_fp16(prepare):
    training = prepare("train.precision=fp16")
    before, runner = state(training), training.runner

    def poisoned(images: torch.Tensor) -> Any:
        images[0, 0, 0, 0] = torch.nan
        return runner(images)

    training.runner = poisoned
    loss, _, _, skipped, _ = step(training, batch_of(0, 1))
    assert (loss, skipped) == (0, 1)
    after = state(training)
    assert all(torch.equal(after[key], before[key]) for key in before if "tracked" not in key)

import math

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional as F

from drn_cli.recipe.schema import Loss
from drn_cli.training.loss import make_loss, ohem_mask

CPU = torch.device("cpu")
CLASSES = 5
WEIGHTS = (0.1, 1.0, 2.5, 0.0, 0.7)
OHEM = Loss(kind="ohem", ohem_threshold=0.3, ohem_keep=0.25)
ALL_KINDS = [
    Loss(),
    Loss(class_weights=WEIGHTS, label_smoothing=0.1),
    OHEM,
    Loss(kind="ohem", class_weights=WEIGHTS, label_smoothing=0.1),
]


def maps(images: int = 3) -> tuple[Tensor, Tensor]:
    """Return random logits and targets; the images differ in their number of void pixels."""
    random = torch.Generator().manual_seed(0)
    logits = 2 * torch.randn(images, CLASSES, 12, 10, generator=random)
    targets = torch.randint(0, CLASSES, (images, 12, 10), generator=random)
    for number in range(images):
        targets[number, : 3 * number + 1] = 255
    return logits, targets


def mean_and_gradient(settings: Loss, logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    logits = logits.clone().requires_grad_()
    task = "segmentation" if logits.ndim == 4 else "classification"
    loss, weight = make_loss(settings, task, CPU)(logits, targets)
    assert loss.dtype == weight.dtype == torch.float32
    assert not weight.requires_grad
    mean = loss / weight
    mean.backward()
    assert logits.grad is not None
    return mean.detach(), logits.grad


@pytest.mark.parametrize("weights", [None, WEIGHTS], ids=["plain", "weighted"])
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("task", ["segmentation", "classification"])
def test_mean_equals_torch_cross_entropy(task, smoothing, weights):
    logits, targets = maps()
    if task == "classification":
        logits, targets = logits[..., -1, 0], targets[..., -1, 0]
    found = mean_and_gradient(
        Loss(class_weights=weights, label_smoothing=smoothing), logits, targets
    )
    logits.requires_grad_()
    expected = F.cross_entropy(
        logits,
        targets,
        weight=None if weights is None else torch.tensor(weights),
        ignore_index=255,
        label_smoothing=smoothing,
    )
    expected.backward()
    torch.testing.assert_close(found, (expected.detach(), logits.grad), rtol=1e-6, atol=1e-7)


def test_255_is_a_class_in_classification():
    logits = torch.randn(4, 1000, generator=torch.Generator().manual_seed(1))
    targets = torch.tensor([255, 3, 255, 999])
    loss, weight = make_loss(Loss(), "classification", CPU)(logits, targets)
    assert weight == 4
    torch.testing.assert_close(loss, F.cross_entropy(logits, targets, reduction="sum"))


@pytest.mark.parametrize("settings", ALL_KINDS)
def test_parts_of_a_batch_add_up(settings):
    logits, targets = maps()
    loss = make_loss(settings, "segmentation", CPU)
    whole = torch.stack(loss(logits, targets))
    parts = [torch.stack(loss(logits[one], targets[one])) for one in (slice(1), slice(1, 3))]
    torch.testing.assert_close(sum(parts), whole)


@pytest.mark.parametrize("settings", ALL_KINDS)
def test_16_bit_logits_are_computed_in_float32(settings):
    logits, targets = maps()
    narrow = logits.bfloat16()
    loss = make_loss(settings, "segmentation", CPU)
    assert loss(narrow, targets) == loss(narrow.float(), targets)


@pytest.mark.parametrize("settings", ALL_KINDS)
def test_all_void_has_zero_loss_and_gradient(settings):
    logits = maps()[0].requires_grad_()
    targets = torch.full((3, 12, 10), 255)
    loss, weight = make_loss(settings, "segmentation", CPU)(logits, targets)
    loss.backward()
    assert loss == weight == 0
    assert logits.grad is not None and not logits.grad.any()


@pytest.mark.parametrize("settings", ALL_KINDS)
def test_a_void_image_has_no_effect(settings):
    logits, targets = maps()
    targets[1] = 255
    loss = make_loss(settings, "segmentation", CPU)
    others = [0, 2]
    torch.testing.assert_close(loss(logits, targets), loss(logits[others], targets[others]))


@pytest.mark.parametrize("settings", ALL_KINDS)
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_non_finite_logits_make_the_loss_non_finite(settings, value):
    logits, targets = maps()
    logits[1, 2, -1, -1] = value
    assert not make_loss(settings, "segmentation", CPU)(logits, targets)[0].isfinite()


@pytest.mark.parametrize("settings", ALL_KINDS)
def test_does_not_synchronize_with_the_device(settings):
    """Fake tensors have no values: reading one, or a shape that depends on it, is an error."""
    with FakeTensorMode():
        loss = make_loss(settings, "segmentation", CPU)
        logits = torch.randn(2, CLASSES, 12, 10, requires_grad=True)
        summed, _ = loss(logits, torch.zeros(2, 12, 10, dtype=torch.long))
        summed.backward()


def expected_pixels(probability: Tensor, valid: Tensor, threshold: float, keep: float) -> set[int]:
    """Return the hard pixels of one image by definition."""
    pixels = [i for i, good in enumerate(valid.flatten().tolist()) if good]
    pixels.sort(key=lambda i: float(probability.flatten()[i]))
    least = math.ceil(keep * len(pixels))
    return {i for n, i in enumerate(pixels) if n < least or probability.flatten()[i] < threshold}


@pytest.mark.parametrize("keep", [0.01, 0.3, 1.0])
@pytest.mark.parametrize("threshold", [0.001, 0.2, 1.0])
def test_ohem_mask_of_each_image(threshold, keep):
    logits, targets = maps()
    valid = targets != 255
    losses = F.cross_entropy(logits, targets, ignore_index=255, reduction="none")
    found = ohem_mask(losses, valid, threshold, keep)
    for number in range(len(found)):
        expected = expected_pixels((-losses[number]).exp(), valid[number], threshold, keep)
        assert set(found[number].flatten().nonzero().flatten().tolist()) == expected


def test_ohem_keeps_no_more_than_the_share_of_equal_losses():
    valid = torch.ones(2, 4, 5, dtype=torch.bool)
    assert ohem_mask(torch.zeros(2, 4, 5), valid, 0.7, 0.25).sum((1, 2)).tolist() == [5, 5]


def test_ohem_never_keeps_void():
    valid = torch.zeros(2, 4, 5, dtype=torch.bool)
    valid[0, 1] = True
    kept = ohem_mask(torch.full((2, 4, 5), 9.0), valid, 0.7, 1.0)
    assert torch.equal(kept, valid)


def test_ohem_ignores_weights_and_smoothing():
    logits, targets = maps()
    weights = torch.tensor(WEIGHTS)
    settings = OHEM.model_copy(update={"class_weights": WEIGHTS, "label_smoothing": 0.1})
    valid = targets != 255
    losses = F.cross_entropy(logits, targets, ignore_index=255, reduction="none")
    kept = ohem_mask(losses, valid, OHEM.ohem_threshold, OHEM.ohem_keep)
    assert 0 < kept.sum() < valid.sum()
    expected = F.cross_entropy(
        logits,
        targets.masked_fill(~kept, 255),
        weight=weights,
        ignore_index=255,
        label_smoothing=0.1,
    )
    found, gradient = mean_and_gradient(settings, logits, targets)
    torch.testing.assert_close(found, expected)
    assert not gradient[~kept[:, None].expand_as(gradient)].any()

import pytest
import torch
from torch import Tensor, nn

from drn_cli.networks import create_model
from drn_cli.networks.models import DRN
from drn_cli.training.ema import EMA

DECAY = 0.3


def network(seed: int = 0) -> DRN:
    torch.manual_seed(seed)
    return create_model("drn_a_18", "segmentation", 3).train()


def move(model: DRN) -> dict[str, Tensor]:
    """Change every tensor as a step does; return copies in float64."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter))
    model(torch.randn(2, 3, 16, 16))
    return {
        key: value.double() if value.is_floating_point() else value.clone()
        for key, value in model.state_dict().items()
    }


def test_starts_as_a_copy_without_gradients():
    source = network()
    averaged = EMA(source, DECAY)
    before = {key: value.clone() for key, value in source.state_dict().items()}
    move(source)
    torch.testing.assert_close(averaged.state_dict(), before, rtol=0, atol=0)
    assert not any(parameter.requires_grad for parameter in averaged.model.parameters())
    assert not any(module.training for module in averaged.model.modules())
    assert source.training and all(parameter.requires_grad for parameter in source.parameters())


def test_average_over_steps():
    source = network()
    averaged = EMA(source, DECAY)
    expected = {key: value.double() for key, value in averaged.state_dict().items()}
    decays = [1 / 10, 2 / 11, 3 / 12, DECAY, DECAY]  # 4 / 13 is above it
    for step, decay in enumerate(decays):
        weights = move(source)
        averaged.update(source, step)
        for key, value in weights.items():
            if value.is_floating_point():
                expected[key] = decay * expected[key] + (1 - decay) * value
    found = averaged.state_dict()
    for key, value in found.items():
        if value.is_floating_point():
            torch.testing.assert_close(value.double(), expected[key], rtol=1e-5, atol=1e-5)
        else:
            assert value == len(decays)  # batch norm's counters


def test_full_decay_after_many_steps():
    source = network()
    averaged = EMA(source, 0.999)
    before = averaged.state_dict()["head.weight"].clone()
    move(source)
    averaged.update(source, 1_000_000)
    moved = (averaged.state_dict()["head.weight"] - before) / (source.head.weight - before)
    torch.testing.assert_close(moved, torch.full_like(moved, 0.001), rtol=0.01, atol=0)


def test_resumes_from_its_state():
    source = network()
    whole = EMA(source, DECAY)
    move(source)
    whole.update(source, 0)
    resumed = EMA(network(seed=1), DECAY)
    resumed.load_state_dict({key: value.clone() for key, value in whole.state_dict().items()})
    move(source)
    for averaged in (whole, resumed):
        averaged.update(source, 1)
    torch.testing.assert_close(resumed.state_dict(), whole.state_dict(), rtol=0, atol=0)
    x = torch.randn(1, 3, 24, 16)
    assert torch.equal(resumed.model(x), whole.model(x))


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=str)
def test_keeps_the_memory_format_of_the_source(layout):
    source = network().to(memory_format=layout)
    averaged = EMA(source, DECAY)
    averaged.update(source, 0)
    for mine, theirs in zip(averaged.model.parameters(), source.parameters(), strict=True):
        assert mine.stride() == theirs.stride()


def test_averages_synchronized_batch_norm():
    source = network()
    plain = EMA(source, DECAY)
    synced = EMA(nn.SyncBatchNorm.convert_sync_batchnorm(source), DECAY)
    move(source)
    for averaged in (plain, synced):
        averaged.update(source, 0)
    x = torch.randn(1, 3, 24, 16)
    assert torch.equal(synced.model(x), plain.model(x))

import itertools

import pytest

from drn_cli.data.order import EpochSampler, SampleKey


def test_each_epoch_has_another_permutation() -> None:
    order = EpochSampler(samples=24, batch_size=4, seed=1)
    epochs = []
    for epoch in range(3):
        turns = [turn for batch in order.parts(epoch, 0, 1) for turn in batch]
        assert {turn.epoch for turn in turns} == {epoch}
        epochs.append([turn.sample for turn in turns])
        assert sorted(epochs[-1]) == list(range(24))
        assert epochs[-1] != list(range(24))
    assert epochs[0] != epochs[1] != epochs[2]


def test_order_is_a_function_of_seed_and_epoch() -> None:
    def order(seed: int, epoch: int) -> list[list[SampleKey]]:
        return list(EpochSampler(24, 4, seed).parts(epoch, 0, 1))

    assert order(1, 2) == order(1, 2)
    assert order(1, 2) != [[SampleKey(2, t.sample) for t in batch] for batch in order(2, 2)]


@pytest.mark.parametrize("batch_size", [3, 4, 7, 8])
@pytest.mark.parametrize("world", [1, 2, 3])
def test_parts_of_all_ranks_form_the_same_batches(batch_size: int, world: int) -> None:
    order = EpochSampler(samples=30, batch_size=batch_size, seed=1)
    whole = list(order.parts(4, 0, 1))
    parts = [list(order.parts(4, rank, world)) for rank in range(world)]
    joined = [list(itertools.chain(*pieces)) for pieces in zip(*parts, strict=True)]
    assert joined == whole
    lengths = {len(batch) for part in parts for batch in part}
    assert max(lengths) - min(lengths) <= 1


@pytest.mark.parametrize(("samples", "steps"), [(30, 4), (28, 4), (6, 0), (7, 1)])
def test_incomplete_last_batch_is_dropped(samples: int, steps: int) -> None:
    order = EpochSampler(samples=samples, batch_size=7, seed=1)
    batches = list(order.parts(0, 0, 1))
    assert order.steps == len(batches) == steps
    assert all(len(batch) == 7 for batch in batches)


def test_starting_in_the_middle_gives_the_rest_of_the_epoch() -> None:
    order = EpochSampler(samples=30, batch_size=4, seed=1)
    whole = list(order.parts(3, 1, 2))
    for start in range(order.steps + 1):
        assert list(order.parts(3, 1, 2, start)) == whole[start:]


@pytest.mark.parametrize("world", [1, 2])
def test_micro_batches_are_split_before_ranks(world: int) -> None:
    """Batch norm then sees the same images together for any number of processes."""
    plain, split = EpochSampler(30, 8, seed=1), EpochSampler(30, 8, seed=1, accumulate=2)
    parts = [list(split.parts(2, rank, world, first_step=1)) for rank in range(world)]
    together = [list(itertools.chain(*pieces)) for pieces in zip(*parts, strict=True)]
    whole = list(plain.parts(2, 0, 1, first_step=1))
    assert together == [half for batch in whole for half in (batch[:4], batch[4:])]
    assert [turn.sample for turn in whole[0]] == plain.batch(2, 1) == split.batch(2, 1)

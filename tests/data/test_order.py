import itertools

import pytest

from drn_cli.data.order import Order, Turn


def test_every_epoch_is_another_permutation() -> None:
    order = Order(samples=24, batch_size=4, seed=1)
    epochs = []
    for epoch in range(3):
        turns = [turn for batch in order.batches(epoch, 0, 1) for turn in batch]
        assert {turn.epoch for turn in turns} == {epoch}
        epochs.append([turn.sample for turn in turns])
        assert sorted(epochs[-1]) == list(range(24))
        assert epochs[-1] != list(range(24))
    assert epochs[0] != epochs[1] != epochs[2]


def test_order_is_a_function_of_seed_and_epoch() -> None:
    def order(seed: int, epoch: int) -> list[list[Turn]]:
        return list(Order(24, 4, seed).batches(epoch, 0, 1))

    assert order(1, 2) == order(1, 2)
    assert order(1, 2) != [[Turn(2, t.sample) for t in batch] for batch in order(2, 2)]


@pytest.mark.parametrize("batch_size", [3, 4, 7, 8])
@pytest.mark.parametrize("world", [1, 2, 3])
def test_parts_of_the_processes_make_up_the_same_batches(batch_size: int, world: int) -> None:
    order = Order(samples=30, batch_size=batch_size, seed=1)
    whole = list(order.batches(4, 0, 1))
    parts = [list(order.batches(4, rank, world)) for rank in range(world)]
    joined = [list(itertools.chain(*pieces)) for pieces in zip(*parts, strict=True)]
    assert joined == whole
    lengths = {len(batch) for part in parts for batch in part}
    assert max(lengths) - min(lengths) <= 1


@pytest.mark.parametrize(("samples", "steps"), [(30, 4), (28, 4), (6, 0), (7, 1)])
def test_incomplete_last_batch_is_dropped(samples: int, steps: int) -> None:
    order = Order(samples=samples, batch_size=7, seed=1)
    batches = list(order.batches(0, 0, 1))
    assert order.steps == len(batches) == steps
    assert all(len(batch) == 7 for batch in batches)


def test_start_in_the_middle_gives_the_rest_of_the_epoch() -> None:
    order = Order(samples=30, batch_size=4, seed=1)
    whole = list(order.batches(3, 1, 2))
    for start in range(order.steps + 1):
        assert list(order.batches(3, 1, 2, start)) == whole[start:]

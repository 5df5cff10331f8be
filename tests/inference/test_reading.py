import threading

import pytest

from drn_cli.errors import DrnError
from drn_cli.inference.reading import ahead


@pytest.mark.parametrize("depth", [1, 2, 5, 20])
def test_items_come_in_their_order_with_what_was_read(depth: int) -> None:
    results = [(item, read()) for item, read in ahead(lambda n: n * n, range(9), depth)]
    assert results == [(n, n * n) for n in range(9)]


def test_nothing_gives_nothing() -> None:
    assert list(ahead(str, [])) == []


def test_error_of_one_item_is_raised_by_its_call_and_the_rest_goes_on() -> None:
    def read(number: int) -> int:
        if number == 2:
            raise DrnError("2: broken")
        return number

    good, bad = [], []
    for item, result in ahead(read, range(5)):
        try:
            good.append(result())
        except DrnError as error:
            bad.append((item, str(error)))
    assert good == [0, 1, 3, 4]
    assert bad == [(2, "2: broken")]


def test_next_items_are_read_while_one_is_worked_on() -> None:
    started = [threading.Event() for _ in range(6)]
    reader = ahead(lambda n: started[n].set(), range(6), depth=2)
    next(reader)
    assert started[1].wait(60)
    assert started[2].wait(60)
    assert not started[4].is_set()  # no more than `depth` wait
    reader.close()


def test_reading_happens_in_other_threads() -> None:
    names = [read() for _, read in ahead(lambda _: threading.current_thread().name, range(3))]
    assert threading.current_thread().name not in names


def test_stopping_early_reads_no_further() -> None:
    seen = []
    reader = ahead(seen.append, range(100), depth=2)
    next(reader)[1]()
    reader.close()
    assert len(seen) <= 4

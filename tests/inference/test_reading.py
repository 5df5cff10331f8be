import signal
import threading
import time
from collections.abc import Iterator

import pytest
import torch

from drn_cli.errors import DrnError
from drn_cli.inference.reading import default_concurrency, map_in_threads, prefetch


@pytest.fixture(autouse=True)
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("depth", [1, 2, 5, 20])
def test_results_in_order(depth: int) -> None:
    results = [(item, read()) for item, read in prefetch(lambda n: n * n, range(9), depth)]
    assert results == [(n, n * n) for n in range(9)]


def test_no_items() -> None:
    assert list(prefetch(str, [])) == []


def test_exception_is_raised_by_call_of_item() -> None:
    def read(number: int) -> int:
        if number == 2:
            raise DrnError("2: broken")
        return number

    good, bad = [], []
    for item, result in prefetch(read, range(5)):
        try:
            good.append(result())
        except DrnError as error:
            bad.append((item, str(error)))
    assert good == [0, 1, 3, 4]
    assert bad == [(2, "2: broken")]


def test_next_items_are_prefetched() -> None:
    started = [threading.Event() for _ in range(6)]
    reader = prefetch(lambda n: started[n].set(), range(6), depth=2)
    next(reader)
    assert started[1].wait(60)
    assert started[2].wait(60)
    assert not started[4].is_set()  # no more than `depth` wait
    reader.close()


def test_reads_in_other_threads() -> None:
    names = [read() for _, read in prefetch(lambda _: threading.current_thread().name, range(3))]
    assert threading.current_thread().name not in names


def test_closing_stops_reading() -> None:
    seen = []
    reader = prefetch(seen.append, range(100), depth=2)
    next(reader)[1]()
    reader.close()
    assert len(seen) <= 4


def test_initializer_runs_once_per_thread() -> None:
    prepared: list[int] = []
    reader = prefetch(
        lambda _: threading.get_ident() in prepared,
        range(20),
        depth=3,
        initializer=lambda: prepared.append(threading.get_ident()),
    )
    assert all(read() for _, read in reader)
    assert 1 <= len(prepared) <= 3


def test_closing_waits_for_running_calls() -> None:
    begun, go_on, done = threading.Event(), threading.Event(), []

    def read(number: int) -> None:
        begun.set()
        assert go_on.wait(60)
        done.append(number)

    reader = prefetch(read, range(100), depth=1)
    next(reader)
    assert begun.wait(60)
    later = threading.Timer(0.2, go_on.set)
    later.start()
    reader.close()
    finished = list(done)
    later.join()
    assert finished
    assert done == finished


def test_default_concurrency() -> None:
    cpu, gpu = torch.device("cpu"), torch.device("cuda")
    torch.set_num_threads(4)
    assert default_concurrency(cpu) == 4
    assert default_concurrency(cpu, 3) == 3
    assert default_concurrency(cpu, 1) == default_concurrency(cpu, 0) == 1
    assert default_concurrency(cpu, 1000) == 4
    assert default_concurrency(gpu) == default_concurrency(gpu, 9) == 1
    torch.set_num_threads(64)
    assert default_concurrency(cpu) == default_concurrency(cpu, 1000) == 8


def threads_of_a_later_thread() -> int:
    found: list[int] = []
    later = threading.Thread(target=lambda: found.append(torch.get_num_threads()))
    later.start()
    later.join()
    return found[0]


@pytest.mark.parametrize(("options", "expected"), [({}, 1), ({"inner": 3}, 3)])
def test_inner_threads_of_pytorch(options: dict[str, int], expected: int) -> None:
    torch.set_num_threads(5)
    together = threading.Barrier(2)

    def work(number: int) -> tuple[int, int]:
        together.wait(60)  # two at the same time, or this never ends
        return number, torch.get_num_threads()

    results = list(map_in_threads(work, range(6), 2, **options))
    assert results == [(number, expected) for number in range(6)]
    assert torch.get_num_threads() == threads_of_a_later_thread() == 5


def test_thread_count_is_restored() -> None:
    torch.set_num_threads(5)
    with pytest.raises(DrnError, match="broken"):
        list(map_in_threads(fail, range(3), 2))
    assert threads_of_a_later_thread() == 5
    results = map_in_threads(str, range(100), 2)
    assert next(results) == "0"
    results.close()
    assert threads_of_a_later_thread() == 5


def fail(_: int) -> None:
    raise DrnError("broken")


def test_second_interrupt_waits_for_running_calls() -> None:
    """Python aborts if threads run at its exit."""
    read: list[int] = []

    def slow(number: int) -> None:
        time.sleep(0.3)
        read.append(number)

    again = threading.Timer(0.1, signal.raise_signal, [signal.SIGINT])

    def use() -> None:
        for _ in prefetch(slow, range(9)):
            again.start()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        use()
    again.join()
    assert read
    assert not any(thread.name.startswith("read") for thread in threading.enumerate())

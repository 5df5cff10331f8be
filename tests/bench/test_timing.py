"""How often is timed, and what comes out, on a clock of our own."""

import pytest
import torch

from drn_cli.bench.timing import Effort, Times, time_calls

CPU = torch.device("cpu")


class Clock:
    """Calls take what they are told, in seconds; the last one, for ever after."""

    def __init__(self, *takes: float) -> None:
        self.takes, self.calls, self.now = takes, 0, 0.0

    def __call__(self) -> float:
        return self.now

    def work(self) -> None:
        self.now += self.takes[min(self.calls, len(self.takes) - 1)]
        self.calls += 1


def test_warm_up_does_not_count() -> None:
    clock = Clock(50, 40, 1, 2, 3, 4)
    times = time_calls(clock.work, Effort(warmup=2, rounds=4, seconds=1000), CPU, clock)
    assert clock.calls == 6
    assert (times.rounds, times.least, times.p50) == (4, 1, 2.5)


@pytest.mark.parametrize(
    ("effort", "warm", "counted"),
    [
        (Effort(warmup=3, rounds=20, seconds=1000), 3, 20),
        (Effort(warmup=3, rounds=20, seconds=5), 3, 5),  # each takes a second
        (Effort(warmup=9, rounds=20, seconds=5), 5, 5),
        (Effort(warmup=3, rounds=20, seconds=0.5), 1, 3),  # three at least
        (Effort(warmup=3, rounds=2, seconds=0.5), 1, 2),  # unless fewer are asked for
    ],
)
def test_ends_after_rounds_or_seconds(effort: Effort, warm: int, counted: int) -> None:
    clock = Clock(1)
    assert time_calls(clock.work, effort, CPU, clock).rounds == counted
    assert clock.calls == warm + counted


def test_percentiles() -> None:
    times = Times.of([float(number) for number in range(100, -1, -1)])
    assert times == Times(rounds=101, least=0, p50=50, p90=90, p99=99)
    assert Times.of([2.0]) == Times(rounds=1, least=2, p50=2, p90=2, p99=2)


def test_waits_for_the_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, device = Clock(1), torch.device("cuda")

    def synchronize(waited_for: torch.device) -> None:
        assert waited_for == device
        clock.now += 10

    monkeypatch.setattr(torch.cuda, "synchronize", synchronize)
    assert time_calls(clock.work, Effort(rounds=3), device, clock).p50 == 11

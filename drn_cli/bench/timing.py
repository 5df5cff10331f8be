"""How long a call takes: medians and tails of many, after some that do not count."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

FEWEST = 3  # calls that are timed, however long they take


@dataclass(frozen=True, slots=True, kw_only=True)
class Effort:
    """How much to time.

    Attributes:
        warmup: Calls that do not count, of which the first is always made.
        rounds: Calls that are timed, at most.
        seconds: After so many, neither warm-up nor rounds begin another call, once there are three.
    """

    warmup: int = 3
    rounds: int = 50
    seconds: float = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Times:
    """Seconds that a call took: the least, the median, and what 90% and 99% stayed below."""

    rounds: int
    least: float
    p50: float
    p90: float
    p99: float

    @classmethod
    def of(cls, seconds: Sequence[float]) -> "Times":
        """Sum up; between two of the times, percentiles are interpolated."""
        p50, p90, p99 = (float(value) for value in np.percentile(seconds, (50, 90, 99)))
        return cls(rounds=len(seconds), least=min(seconds), p50=p50, p90=p90, p99=p99)


def time_calls(
    work: Callable[[], object],
    effort: Effort,
    device: torch.device,
    clock: Callable[[], float] = time.perf_counter,
) -> Times:
    """Time a call, with all the work that it gives to a device.

    Args:
        work: What to call.
        effort: How often.
        device: Whose work is waited for.
        clock: Tells seconds.
    """

    def seconds() -> float:
        start = clock()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return clock() - start

    spent, warm = 0.0, 0
    while warm < max(1, effort.warmup) and spent < effort.seconds:
        spent += seconds()
        warm += 1
    taken: list[float] = []
    while len(taken) < min(FEWEST, effort.rounds) or (
        len(taken) < effort.rounds and sum(taken) < effort.seconds
    ):
        taken.append(seconds())
    return Times.of(taken)

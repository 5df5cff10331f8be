"""Round numbers for an axis."""

import math

from drn_cli.report.words import short


def ticks(low: float, high: float, count: int) -> list[float]:
    """Divide an axis in steps of 1, 2 or 5 times a power of 10, from at most `low` to `high`."""
    rough = (high - low) / count
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * nice for nice in (1, 2, 5, 10) if power * nice >= rough * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [number * step for number in range(first, last + 1)]


def tick_label(value: float, step: float) -> str:
    """Write a number of an axis with the digits that tell it from the next."""
    if value == 0:
        return "0"
    if 0.001 <= step < 100_000:
        return f"{value:.{max(0, -math.floor(math.log10(step) + 1e-9))}f}"
    return short(float(f"{value:.2g}"))

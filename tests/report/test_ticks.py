import pytest

from drn_cli.report.ticks import tick_label, ticks


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0, 1, [0, 0.2, 0.4, 0.6, 0.8, 1]),
        (0, 0.9, [0, 0.2, 0.4, 0.6, 0.8, 1]),
        (0, 47, [0, 10, 20, 30, 40, 50]),
        (0, 3e-5, [0, 1e-5, 2e-5, 3e-5]),
        (-3, 4, [-4, -2, 0, 2, 4]),
        (0, 500_000, [0, 100_000, 200_000, 300_000, 400_000, 500_000]),
    ],
)
def test_ticks(low: float, high: float, expected: list[float]) -> None:
    assert ticks(low, high, 5) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("value", "step", "said"),
    [
        (0, 0.2, "0"),
        (0.4, 0.2, "0.4"),
        (0.015, 0.005, "0.015"),
        (20, 10, "20"),
        (2e-5, 1e-5, "2e-5"),
        (300_000, 100_000, "300000"),
    ],
)
def test_tick_labels(value: float, step: float, said: str) -> None:
    assert tick_label(value, step) == said

import pytest

from drn_cli.formatting import duration, first_line, four_digits, percent, size


def test_percent() -> None:
    assert percent(0.41265) == "41.3 %"
    assert percent(0.41265, 2) == "41.27 %"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.25, "0.2 s"),
        (59, "59 s"),
        (59.7, "1 min 0 s"),
        (3599, "59 min 59 s"),
        (3600, "1 h 0 min"),
        (90_000, "1 d 1 h"),
    ],
)
def test_duration(seconds: float, text: str) -> None:
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (999, "999 bytes"),
        (1000, "1.0 kB"),
        (8_388_608, "8.4 MB"),
        (80.4e9, "80.4 GB"),
        (3e12, "3.0 TB"),
    ],
)
def test_size(count: float, text: str) -> None:
    assert size(count) == text


def test_first_line() -> None:
    assert first_line(OSError("\nfirst\nsecond")) == "first"
    assert first_line(TimeoutError()) == "TimeoutError"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (-0.0, "0"),
        (0.41234, "0.4123"),
        (3.0, "3"),
        (12345.6, "12346"),
        (0.00005, "5e-5"),
        (123_456_789, "1.235e8"),
    ],
)
def test_four_digits(value: float, text: str) -> None:
    assert four_digits(value) == text

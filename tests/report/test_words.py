import pytest

from drn_cli.report.words import duration, percent, short, size


def test_percent() -> None:
    assert percent(0.41265) == "41.3 %"
    assert percent(0.41265, 2) == "41.27 %"


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (0.25, "0.2 s"),
        (59, "59 s"),
        (59.7, "1 min 0 s"),
        (3599, "59 min 59 s"),
        (3600, "1 h 0 min"),
        (90_000, "1 d 1 h"),
    ],
)
def test_duration(seconds: float, said: str) -> None:
    assert duration(seconds) == said


def test_size() -> None:
    assert [size(n) for n in (12, 2048, 5 * 2**20, 150_754_820_096)] == [
        "12 bytes",
        "2.0 KiB",
        "5.0 MiB",
        "140.4 GiB",
    ]


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (0, "0"),
        (0.41234, "0.4123"),
        (3.0, "3"),
        (12345.6, "12346"),
        (0.00005, "5e-5"),
        (123_456_789, "1.235e8"),
    ],
)
def test_short(value: float, said: str) -> None:
    assert short(value) == said

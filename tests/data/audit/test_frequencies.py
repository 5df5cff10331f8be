import math

import pytest

from drn_cli.data.audit.frequencies import Frequencies


@pytest.fixture
def frequencies() -> Frequencies:
    """Class 0 in both label maps, 1 in the first, 2 in none, 3 in the second."""
    counted = Frequencies()
    counted.add({0: 60, 1: 20, 255: 20})
    counted.add({0: 30, 3: 10, 255: 10})
    return counted


def test_shares_exclude_void(frequencies: Frequencies) -> None:
    assert frequencies.shares(4) == pytest.approx([90 / 120, 20 / 120, 0, 10 / 120])
    assert frequencies.images[:4].tolist() == [2, 1, 0, 1]
    assert frequencies.highest() == 3


def test_median_frequency_is_over_the_images_with_the_class(frequencies: Frequencies) -> None:
    # 90 of 150, 20 of 100, 10 of 50: the median of the three is 0.2.
    assert frequencies.median_frequency(4) == pytest.approx([0.2 / 0.6, 1, 0, 1])


def test_enet_weights_follow_the_formula(frequencies: Frequencies) -> None:
    expected = [1 / math.log(1.02 + share) for share in (0.75, 1 / 6, 0, 1 / 12)]
    assert frequencies.enet(4) == pytest.approx(expected)
    assert frequencies.weights(4)["enet"] == frequencies.enet(4)


def test_bounds_of_enet_weights_are_as_documented() -> None:
    single = Frequencies()
    single.add({0: 5})
    assert [round(weight, 2) for weight in single.enet(2)] == [1.42, 50.5]


def test_void_only_has_no_frequencies() -> None:
    void = Frequencies()
    void.add({255: 7})
    assert void.highest() is None
    assert void.shares(2) == [0, 0]
    assert void.median_frequency(2) == [0, 0]


def test_values_above_255_are_not_counted() -> None:
    odd = Frequencies()
    odd.add({-1: 3, 300: 4, 254: 5})
    assert odd.pixels.sum() == 5
    assert odd.areas[254] == 12

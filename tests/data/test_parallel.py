import numpy as np
import pytest

from drn_cli.data.parallel import RunningStats, in_parallel
from drn_cli.errors import DrnError


def square(value: int) -> int:
    if value == 13:
        raise DrnError("13: unlucky", "take 14")
    return value**2


def test_results_are_in_order_with_progress() -> None:
    seen: list[tuple[int, int]] = []
    results = in_parallel(square, range(11), lambda done, count: seen.append((done, count)))
    assert list(results) == [n**2 for n in range(11)]
    assert seen == [(n, 11) for n in range(1, 12)]


def test_error_of_a_process_is_raised() -> None:
    with pytest.raises(DrnError) as caught:
        list(in_parallel(square, [1, 13, 2], None))
    assert (caught.value.message, caught.value.hint) == ("13: unlucky", "take 14")


def test_statistics_are_over_all_pixels() -> None:
    random = np.random.default_rng(0)
    images = [
        (random.integers(0, 256, (height, 7, 3)) * [1, 0.5, 0.1]).astype(np.uint8)
        for height in (5, 9, 1)
    ]
    pixels = np.concatenate([image.reshape(-1, 3) for image in images]) / 255
    whole = RunningStats.total(RunningStats.of(image) for image in images)
    assert whole.pixels == len(pixels)
    statistics = whole.statistics()
    assert statistics.mean == pytest.approx(pixels.mean(axis=0), abs=1e-8)
    assert statistics.std == pytest.approx(pixels.std(axis=0), abs=1e-8)


def test_statistics_of_one_color_have_no_deviation() -> None:
    statistics = RunningStats.of(np.full((3, 3, 3), 77, np.uint8)).statistics()
    assert statistics.std == (0, 0, 0)
    assert statistics.mean == pytest.approx([77 / 255] * 3, abs=1e-8)

import os
from pathlib import Path

import numpy as np
import pytest

from drn_cli.data.classes import ClassSet
from drn_cli.data.folders import Statistics
from drn_cli.data.prepare.common import Moments, fingerprint, in_parallel, write_info, write_list
from drn_cli.errors import DrnError
from drn_cli.files import read_json


def square(value: int) -> int:
    if value == 13:
        raise DrnError("13: unlucky", "take 14")
    return value**2


def test_results_come_in_the_order_of_the_items_with_progress() -> None:
    seen: list[tuple[int, int]] = []
    results = in_parallel(square, range(11), lambda done, count: seen.append((done, count)))
    assert list(results) == [n**2 for n in range(11)]
    assert seen == [(n, 11) for n in range(1, 12)]


def test_error_of_a_process_arrives_whole() -> None:
    with pytest.raises(DrnError) as caught:
        list(in_parallel(square, [1, 13, 2], None))
    assert (caught.value.message, caught.value.hint) == ("13: unlucky", "take 14")


def test_statistics_are_those_of_all_pixels_together() -> None:
    random = np.random.default_rng(0)
    images = [
        (random.integers(0, 256, (height, 7, 3)) * [1, 0.5, 0.1]).astype(np.uint8)
        for height in (5, 9, 1)
    ]
    pixels = np.concatenate([image.reshape(-1, 3) for image in images]) / 255
    whole = Moments.total(Moments.of(image) for image in images)
    assert whole.pixels == len(pixels)
    statistics = whole.statistics()
    assert statistics.mean == pytest.approx(pixels.mean(axis=0), abs=1e-8)
    assert statistics.std == pytest.approx(pixels.std(axis=0), abs=1e-8)


def test_statistics_of_one_colour_have_no_deviation() -> None:
    statistics = Moments.of(np.full((3, 3, 3), 77, np.uint8)).statistics()
    assert statistics.std == (0, 0, 0)
    assert statistics.mean == pytest.approx([77 / 255] * 3, abs=1e-8)


def test_list_has_one_path_a_line(tmp_path: Path) -> None:
    write_list(tmp_path, "train_images.txt", ["a/1.png", "a/2.png"])
    assert (tmp_path / "train_images.txt").read_text() == "a/1.png\na/2.png\n"


def test_info_holds_statistics_classes_and_more(tmp_path: Path) -> None:
    statistics = Statistics((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
    write_info(tmp_path, statistics, ClassSet(("a",), ((1, 2, 3),)), dataset="mine")
    assert read_json(tmp_path / "info.json") == {
        "mean": [0.1, 0.2, 0.3],
        "std": [0.4, 0.5, 0.6],
        "classes": ["a"],
        "colours": [[1, 2, 3]],
        "dataset": "mine",
    }


def test_fingerprint_tells_names_sizes_and_times_apart(tmp_path: Path) -> None:
    first, second = tmp_path / "1.png", tmp_path / "2.png"
    first.write_text("1")
    second.write_text("2")
    os.utime(first, (100, 100))
    before = fingerprint(tmp_path, [first, second])
    assert fingerprint(tmp_path, [first, second]) == before
    assert fingerprint(tmp_path, [second, first]) != before
    assert fingerprint(tmp_path, [first]) != before
    os.utime(first, (200, 200))
    assert fingerprint(tmp_path, [first, second]) != before
    first.write_text("11")
    os.utime(first, (100, 100))
    assert fingerprint(tmp_path, [first, second]) != before

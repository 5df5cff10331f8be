"""Splits by names and seed."""

import pytest

from drn_cli.data.prepare.splits import SplitRatios, split
from drn_cli.errors import DrnError

STEMS = [f"drive_{n // 10}/{n:04}" for n in range(1000)]


def test_shares_are_met_about_and_the_seed_decides() -> None:
    parts = split(STEMS, SplitRatios(val=0.2, test=0.1))
    assert 150 < parts.count("val") < 250
    assert 60 < parts.count("test") < 140
    assert parts == split(STEMS, SplitRatios(val=0.2, test=0.1))
    assert parts != split(STEMS, SplitRatios(val=0.2, test=0.1, seed=1))


def test_more_images_do_not_move_those_that_were_there() -> None:
    assert split(STEMS[:400], SplitRatios()) == split(STEMS, SplitRatios())[:400]
    assert split(STEMS[::-1], SplitRatios()) == split(STEMS, SplitRatios())[::-1]


def test_another_share_of_val_does_not_move_the_test_images() -> None:
    few, many = (split(STEMS, SplitRatios(val=val, test=0.2)) for val in (0.1, 0.3))
    assert [part == "test" for part in few] == [part == "test" for part in many]


@pytest.mark.parametrize("pattern", [r"drive_(\d+)", r"^drive_\d+"])
def test_groups_stay_together(pattern: str) -> None:
    parts = split(STEMS, SplitRatios(val=0.3, group=pattern))
    assert set(parts) == {"train", "val"}
    for start in range(0, 1000, 10):
        assert len(set(parts[start : start + 10])) == 1


@pytest.mark.parametrize("seed", range(8))
def test_each_split_that_is_wanted_gets_one_at_least(seed: int) -> None:
    for count in (2, 3):
        assert split(STEMS[:count], SplitRatios(val=0.01, seed=seed)).count("val") == 1
        assert "train" in split(STEMS[:count], SplitRatios(val=0.99, seed=seed))
    parts = split(STEMS[:3], SplitRatios(val=0.01, test=0.01, seed=seed))
    assert sorted(parts) == ["test", "train", "val"]
    assert split(STEMS[:3], SplitRatios(val=0, seed=seed)) == ["train"] * 3


@pytest.mark.parametrize(
    ("shares", "message"),
    [
        (SplitRatios(val=1.5), "leaves nothing to train on"),
        (SplitRatios(val=-0.1), "leaves nothing to train on"),
        (SplitRatios(val=0.5, test=0.5), "leaves nothing to train on"),
        (SplitRatios(val=float("nan")), "leaves nothing to train on"),
        (SplitRatios(group="("), r"--group \(: not a pattern"),
        (SplitRatios(group="drive_0"), "finds nothing in 990 of 1000 images, in drive_1/0010"),
        (SplitRatios(group="drive"), "groups of images 1, splits 2"),
    ],
)
def test_mistakes(shares: SplitRatios, message: str) -> None:
    with pytest.raises(DrnError, match=message):
        split(STEMS, shares)

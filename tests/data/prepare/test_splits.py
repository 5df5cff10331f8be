"""Random splits by names and seed."""

import pytest

from drn_cli.data.prepare.splits import SplitRatios, split
from drn_cli.errors import DrnError

STEMS = [f"drive_{n // 10}/{n:04}" for n in range(1000)]


def test_ratios_and_seed() -> None:
    parts = split(STEMS, SplitRatios(val=0.2, test=0.1))
    assert 150 < parts.count("val") < 250
    assert 60 < parts.count("test") < 140
    assert parts == split(STEMS, SplitRatios(val=0.2, test=0.1))
    assert parts != split(STEMS, SplitRatios(val=0.2, test=0.1, seed=1))


def test_added_images_do_not_move_others() -> None:
    assert split(STEMS[:400], SplitRatios()) == split(STEMS, SplitRatios())[:400]
    assert split(STEMS[::-1], SplitRatios()) == split(STEMS, SplitRatios())[::-1]


def test_val_ratio_does_not_move_test_images() -> None:
    few, many = (split(STEMS, SplitRatios(val=val, test=0.2)) for val in (0.1, 0.3))
    assert [part == "test" for part in few] == [part == "test" for part in many]


@pytest.mark.parametrize("pattern", [r"drive_(\d+)", r"^drive_\d+"])
def test_groups_stay_together(pattern: str) -> None:
    parts = split(STEMS, SplitRatios(val=0.3, group=pattern))
    assert set(parts) == {"train", "val"}
    for start in range(0, 1000, 10):
        assert len(set(parts[start : start + 10])) == 1


@pytest.mark.parametrize("seed", range(8))
def test_each_split_gets_at_least_one_group(seed: int) -> None:
    for count in (2, 3):
        assert split(STEMS[:count], SplitRatios(val=0.01, seed=seed)).count("val") == 1
        assert "train" in split(STEMS[:count], SplitRatios(val=0.99, seed=seed))
    parts = split(STEMS[:3], SplitRatios(val=0.01, test=0.01, seed=seed))
    assert sorted(parts) == ["test", "train", "val"]
    assert split(STEMS[:3], SplitRatios(val=0, seed=seed)) == ["train"] * 3


@pytest.mark.parametrize(
    ("ratios", "message"),
    [
        (SplitRatios(val=1.5), "no images left for training"),
        (SplitRatios(val=-0.1), "no images left for training"),
        (SplitRatios(val=0.5, test=0.5), "no images left for training"),
        (SplitRatios(val=float("nan")), "no images left for training"),
        (SplitRatios(group="("), r"--group \(: invalid regular expression"),
        (
            SplitRatios(group="drive_0"),
            "does not match 990 of 1000 images, for example drive_1/0010",
        ),
        (SplitRatios(group="drive"), "2 splits need as many groups of images, found 1"),
    ],
)
def test_invalid_ratios(ratios: SplitRatios, message: str) -> None:
    with pytest.raises(DrnError, match=message):
        split(STEMS, ratios)

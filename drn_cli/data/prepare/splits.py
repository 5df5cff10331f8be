"""Splits that depend on names and a seed alone: more images do not move those that were there."""

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass

from drn_cli.errors import DrnError


@dataclass(frozen=True, slots=True, kw_only=True)
class SplitRatios:
    """How to split.

    Attributes:
        val, test: What part of the groups to validate and to test with, 0..1; the rest trains.
        seed: Another seed, another split.
        group: Pattern that finds a group's name in an image's path: its first group in
            parentheses, or all it matches. An image is a group of its own without.
    """

    val: float = 0.1
    test: float = 0.0
    seed: int = 0
    group: str | None = None


def split(stems: Sequence[str], shares: SplitRatios) -> list[str]:
    """Give `train`, `val` or `test` for each image, by its path without suffix and format.

    Each group draws a number by its name, so shares are met on average and not to the image.
    Training, and each split that is wanted, gets one group at least.

    Raises:
        DrnError: Shares out of range, a pattern that is none or finds nothing in a path, or
            fewer groups than splits.
    """
    if not (shares.val >= 0 and shares.test >= 0 and shares.val + shares.test < 1):
        raise DrnError(
            f"a share of {shares.val:g} for val and {shares.test:g} for test leaves nothing to "
            "train on",
            "give shares from 0 to 1, such as --val 0.1",
        )
    groups = _groups(stems, shares.group)
    drawn = {group: _draw(shares.seed, group) for group in groups}
    ordered = sorted(drawn, key=lambda group: (drawn[group], group))
    wanted = [shares.val > 0, True, shares.test > 0]  # val takes the lowest, test the highest
    if len(ordered) < sum(wanted):
        raise DrnError(
            f"too few images to split: groups of images {len(ordered)}, splits {sum(wanted)}",
            "use another --group, or --val 0",
        )
    first = sum(number < shares.val for number in drawn.values())
    last = sum(number < 1 - shares.test for number in drawn.values())
    last = min(max(last, 1 + wanted[0]), len(ordered) - wanted[2])
    first = min(max(first, int(wanted[0])), last - 1)
    chosen = {
        group: "val" if place < first else "train" if place < last else "test"
        for place, group in enumerate(ordered)
    }
    return [chosen[group] for group in groups]


def _draw(seed: int, group: str) -> float:
    """Draw a number in 0..1 that only the seed and the name decide."""
    digest = hashlib.sha256(f"{seed}\0{group}".encode()).digest()
    return int.from_bytes(digest[:6]) / 2**48  # exact, and below 1


def _groups(stems: Sequence[str], pattern: str | None) -> list[str]:
    """Give the group of each image; without a pattern, each is one of its own."""
    if pattern is None:
        return list(stems)
    try:
        find = re.compile(pattern)
    except re.error as error:
        raise DrnError(f"--group {pattern}: not a pattern: {error}") from error
    found = [find.search(stem) for stem in stems]
    without = [stem for stem, match in zip(stems, found, strict=True) if not match]
    if without:
        raise DrnError(
            f"--group {pattern}: finds nothing in {len(without)} of {len(stems)} images, "
            f"in {without[0]} for instance"
        )
    return [match[1 if find.groups else 0] or "" for match in found if match]

"""Random splits that depend only on image names and a seed: added images do not move others."""

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass

from drn_cli.errors import DrnError


@dataclass(frozen=True, slots=True, kw_only=True)
class SplitRatios:
    """Options of a random split.

    `group` is a regular expression that finds the group name in an image's path: its first
    capturing group, or the whole match. Without it each image is its own group.
    """

    val: float = 0.1  # fraction of the groups for validation, 0..1
    test: float = 0.0  # fraction of the groups for test, 0..1; the rest is training
    seed: int = 0
    group: str | None = None


def split(stems: Sequence[str], ratios: SplitRatios) -> list[str]:
    """Return `train`, `val` or `test` for each image, given its path without suffix and format.

    Each group draws a number from its name, so the fractions are met on average, not exactly.
    Training, and each split with a fraction above 0, gets at least one group.

    Raises:
        DrnError: Fractions out of range, an invalid pattern or one that does not match a path, or
            fewer groups than splits.
    """
    if not (ratios.val >= 0 and ratios.test >= 0 and ratios.val + ratios.test < 1):
        raise DrnError(
            f"--val {ratios.val:g}, --test {ratios.test:g}: no images left for training",
            "use fractions from 0 to 1 with a sum below 1, for example --val 0.1",
        )
    groups = _groups(stems, ratios.group)
    drawn = {}  # a number in [0, 1) that depends only on the seed and the group name
    for group in groups:
        digest = hashlib.sha256(f"{ratios.seed}\0{group}".encode()).digest()
        drawn[group] = int.from_bytes(digest[:6]) / 2**48  # exact, and below 1
    ordered = sorted(drawn, key=lambda group: (drawn[group], group))
    wanted = [ratios.val > 0, True, ratios.test > 0]  # val takes the lowest, test the highest
    if len(ordered) < sum(wanted):
        raise DrnError(
            f"too few images: {sum(wanted)} splits need as many groups of images, "
            f"found {len(ordered)}",
            "use another --group, or --val 0",
        )
    first = sum(number < ratios.val for number in drawn.values())
    last = sum(number < 1 - ratios.test for number in drawn.values())
    last = min(max(last, 1 + wanted[0]), len(ordered) - wanted[2])
    first = min(max(first, int(wanted[0])), last - 1)
    chosen = {
        group: "val" if rank < first else "train" if rank < last else "test"
        for rank, group in enumerate(ordered)
    }
    return [chosen[group] for group in groups]


def _groups(stems: Sequence[str], pattern: str | None) -> list[str]:
    if pattern is None:
        return list(stems)
    try:
        regex = re.compile(pattern)
    except re.error as error:
        raise DrnError(f"--group {pattern}: invalid regular expression: {error}") from error
    found = [regex.search(stem) for stem in stems]
    without = [stem for stem, match in zip(stems, found, strict=True) if not match]
    if without:
        raise DrnError(
            f"--group {pattern}: does not match {len(without)} of {len(stems)} images, "
            f"for example {without[0]}"
        )
    return [match[1 if regex.groups else 0] or "" for match in found if match]

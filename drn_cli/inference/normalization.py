"""Mean and standard deviation of a network's inputs: stated, read from a file, or guessed.

Checkpoints of the original code do not hold those that they were trained with, and wrong ones cost
a third of the mIoU without any other sign. So where they come from is always part of the answer.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from drn_cli.data.classes import cityscapes
from drn_cli.data.folders import (
    CITYSCAPES,
    DEVIATIONS,
    IMAGENET,
    MEANS,
    ChannelStats,
    ListDataset,
)
from drn_cli.errors import DrnError, warn_for_all
from drn_cli.inference.metadata import read_channel_stats
from drn_cli.inference.opening import Found
from drn_cli.inference.runtimes import ExportedNetwork
from drn_cli.networks.published import published_as

log = logging.getLogger(__name__)

# Of the command line and of Python.
REMEDY = "the mean and std that it was trained with, or stats, the data folder that has them"
GUESS = "mean_std_guess"  # in the metadata of an export: the source, where it is a guess


@dataclass(frozen=True, slots=True)
class Normalization:
    """What an image is normalized with before a network sees it.

    Attributes:
        statistics: Mean and standard deviation of each channel.
        source: Where they come from: `file`, `stats folder`, `option`, `data folder`, `imagenet
            (published weights)`, or a guess that says so.
        guessed: Whether it is a guess.
    """

    statistics: ChannelStats
    source: str
    guessed: bool = False

    def text(self) -> str:
        """Return both in words: `mean 0.485, 0.456, 0.406 and std 0.229, 0.224, 0.225`."""
        mean, std = (
            ", ".join(f"{value:.6g}" for value in values)
            for values in (self.statistics.mean, self.statistics.std)
        )
        return f"mean {mean} and std {std}"

    def to_json(self) -> dict[str, Any]:
        """Return it ready for JSON."""
        return {
            "mean": list(self.statistics.mean),
            "std": list(self.statistics.std),
            "mean_std_source": self.source,
        }


def stated(
    stats: Path | None, mean: Sequence[float] | None, std: Sequence[float] | None
) -> Normalization | None:
    """Return what a user states, None for nothing.

    Args:
        stats: A data folder, whose info.json holds mean and std.
        mean: Three numbers in 0..1; `std` goes with it.
        std: Three numbers in 1e-6..1.

    Raises:
        DrnError: They are not what they should be, or not stated once.
    """
    if (mean is None) != (std is None):
        raise DrnError(
            "mean and std: one without the other", "state both, or the data folder that has them"
        )
    if stats is not None and mean is not None:
        raise DrnError(
            "stats: a data folder is stated beside mean and std", "leave out one or the other"
        )
    if stats is not None:
        try:
            return Normalization(ListDataset.open(stats).statistics(), "stats folder")
        except DrnError as error:
            raise DrnError(
                f"stats: {error.message}",
                "state the data folder that the network was trained on, which has an info.json",
            ) from error
    if mean is None or std is None:
        return None
    for name, values, (low, high) in (("mean", mean, MEANS), ("std", std, DEVIATIONS)):
        if len(values) != 3 or not all(low <= value <= high for value in values):
            found = ",".join(f"{value:g}" for value in values)
            raise DrnError(
                f"{name} {found}: should be three numbers in {low:g}..{high:g}, of red, green and "
                "blue",
                "those of pixels in 0..1, as info.json of a data folder has them",
            )
    r, g, b = mean
    red, green, blue = std
    return Normalization(ChannelStats((r, g, b), (red, green, blue)), "option")


def normalization(
    found: Found,
    read_statistics: Callable[[], ChannelStats | None] | None = None,
    given: Normalization | None = None,
) -> Normalization:
    """Decide what a network's inputs are normalized with: as given; else its own; else the data's.

    What was guessed for an export comes after the data's, unless it is inside. What remains is a
    guess, of which a line warns: published weights alone are known.

    Args:
        found: The network.
        read_statistics: Reads those of the data folder that it is used with, if it states any;
            called where they are used.
        given: Those that the user states.

    Raises:
        DrnError: Others are stated for a network that has its own inside, or those of the data
            folder cannot be read.
    """
    inside = isinstance(found, ExportedNetwork) and found.takes_pixels
    own, guess = None, found.metadata.get(GUESS, "")
    if {"mean", "std"} <= found.metadata.keys():
        own = Normalization(
            read_channel_stats(found.metadata, IMAGENET), guess or "file", bool(guess)
        )
    if given is not None and own is not None and given.statistics != own.statistics:
        if inside:
            raise DrnError(
                f"{found.path}: its {own.text()} are inside, others cannot be used",
                "export it without --normalize",
            )
        warn_for_all(
            log,
            f"{found.path}: its own {own.text()} are replaced by the {given.text()} that is given",
        )
    if given is not None:
        return given
    if read_statistics is not None and (own is None or (own.guessed and not inside)):
        known = read_statistics()
        if known is not None:
            return Normalization(known, "data folder")
    if own is None:
        return _guess(found)
    if own.guessed:
        warn_for_all(
            log,
            f"{found.path}: its mean and std were guessed when it was exported, {own.source}: "
            f"{own.text()} (export it again with {REMEDY})",
        )
    return own


def _guess(found: Found) -> Normalization:
    known = published_as(found.path.name, found.metadata.get("source"))
    if found.task == "classification" and known is not None:
        return Normalization(IMAGENET, "imagenet (published weights)")
    classes = len(cityscapes())
    if found.task == "segmentation" and found.classes == classes:
        guess = Normalization(CITYSCAPES, f"cityscapes (guessed: {classes} classes)", True)
    else:
        guess = Normalization(IMAGENET, "imagenet (guessed)", True)
    warn_for_all(
        log,
        f"{found.path}: does not state its mean and std; a guess is used, {guess.source}: "
        f"{guess.text()} (use {REMEDY})",
    )
    return guess

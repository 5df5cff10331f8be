"""Mean and standard deviation of a network's inputs: given, read from a file, or guessed.

Checkpoints of the original code do not contain the values they were trained with, and wrong values
silently cost a third of the mIoU. So their source is always reported.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from drn_cli.data.classes import cityscapes
from drn_cli.data.folders import CITYSCAPES, DEVIATIONS, IMAGENET, MEANS, ChannelStats, ListDataset
from drn_cli.errors import DrnError, warn_for_all
from drn_cli.inference.metadata import read_channel_stats
from drn_cli.inference.opening import OpenedNetwork
from drn_cli.inference.runtimes import ExportedNetwork
from drn_cli.networks.published import published_as

log = logging.getLogger(__name__)

# These names are parameters of the Python API and options of the command line.
REMEDY = "the mean and std of its training data, or its data folder as stats"
GUESS = "mean_std_guess"  # metadata key of an export: the source, if it is a guess


@dataclass(frozen=True, slots=True)
class Normalization:
    """Normalization of a network's input images."""

    statistics: ChannelStats  # mean and standard deviation of each channel
    # Their origin: `file`, `stats folder`, `option`, `data folder`, `imagenet (published weights)`,
    # or a guess, marked as such
    source: str
    guessed: bool = False  # whether they are a guess

    def text(self) -> str:
        """Return `mean 0.485, 0.456, 0.406 and std 0.229, 0.224, 0.225`."""
        mean, std = (
            ", ".join(f"{value:.6g}" for value in values)
            for values in (self.statistics.mean, self.statistics.std)
        )
        return f"mean {mean} and std {std}"

    def to_json(self) -> dict[str, Any]:
        """Return the JSON keys mean, std and mean_std_source."""
        return {
            "mean": list(self.statistics.mean),
            "std": list(self.statistics.std),
            "mean_std_source": self.source,
        }


def user_normalization(
    stats: Path | None, mean: Sequence[float] | None, std: Sequence[float] | None
) -> Normalization | None:
    """Return the normalization from the user's options; None if there are none.

    Args:
        stats: A data folder, whose info.json contains mean and std.
        mean: Three numbers in 0..1; requires `std`.
        std: Three numbers in 1e-6..1; requires `mean`.

    Raises:
        DrnError: A value is out of range, one is missing, or `stats` is given with `mean`.
    """
    if (mean is None) != (std is None):
        raise DrnError("mean and std: only one of them is given", "set both, or stats instead")
    if stats is not None and mean is not None:
        raise DrnError("stats: conflicts with mean and std", "omit stats, or mean and std")
    if stats is not None:
        try:
            return Normalization(ListDataset.open(stats).statistics(), "stats folder")
        except DrnError as error:
            raise DrnError(
                f"stats: {error.message}",
                "set it to the data folder that the network was trained on, with an info.json",
            ) from error
    if mean is None or std is None:
        return None
    for name, values, (low, high) in (("mean", mean, MEANS), ("std", std, DEVIATIONS)):
        if len(values) != 3 or not all(low <= value <= high for value in values):
            text = ",".join(f"{value:g}" for value in values)
            raise DrnError(
                f"{name} {text}: should be three numbers in {low:g}..{high:g} (red, green, blue)",
                "they apply to pixel values in 0..1, as in info.json of a data folder",
            )
    r, g, b = mean
    red, green, blue = std
    return Normalization(ChannelStats((r, g, b), (red, green, blue)), "option")


def resolve_normalization(
    network: OpenedNetwork,
    read_statistics: Callable[[], ChannelStats | None] | None = None,
    given: Normalization | None = None,
) -> Normalization:
    """Return a network's normalization: from the user, else the file, else the data folder.

    A data folder takes priority over a guess in the file, unless the guess is embedded in the
    network. If all are missing, log a warning and guess; published classifiers need no guess.

    Args:
        network: The network.
        read_statistics: Reads those of the data folder, None if it has none; called if needed.
        given: The normalization given by the user.

    Raises:
        DrnError: A normalization is given for a network that contains another one, or that of the
            data folder cannot be read.
    """
    embedded = isinstance(network, ExportedNetwork) and network.takes_uint8
    own, guess = None, network.metadata.get(GUESS, "")
    if {"mean", "std"} <= network.metadata.keys():
        own = Normalization(
            read_channel_stats(network.metadata, IMAGENET), guess or "file", bool(guess)
        )
    if given is not None and own is not None and given.statistics != own.statistics:
        if embedded:
            raise DrnError(
                f"{network.path}: its {own.text()} are part of the network and cannot be changed",
                "export it without --normalize",
            )
        warn_for_all(log, f"{network.path}: its {own.text()} are overridden by {given.text()}")
    if given is not None:
        return given
    if read_statistics is not None and (own is None or (own.guessed and not embedded)):
        known = read_statistics()
        if known is not None:
            return Normalization(known, "data folder")
    if own is None:
        return _guess(network)
    if own.guessed:
        warn_for_all(
            log,
            f"{network.path}: its mean and std were guessed when it was exported, from "
            f"{own.source.partition(' (')[0]}: "
            f"{own.text()} (export it again with {REMEDY})",
        )
    return own


def _guess(network: OpenedNetwork) -> Normalization:
    known = published_as(network.path.name, network.metadata.get("source"))
    if network.task == "classification" and known is not None:
        return Normalization(IMAGENET, "imagenet (published weights)")
    classes = len(cityscapes())
    if network.task == "segmentation" and network.classes == classes:
        guess = Normalization(CITYSCAPES, f"cityscapes (guessed: {classes} classes)", True)
    else:
        guess = Normalization(IMAGENET, "imagenet (guessed)", True)
    warn_for_all(
        log,
        f"{network.path}: no mean and std in the file; using {guess.source}: {guess.text()} "
        f"(set {REMEDY})",
    )
    return guess

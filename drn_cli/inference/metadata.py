"""Metadata of checkpoints and exports: a flat mapping of strings, as in safetensors."""

import json
from collections.abc import Mapping, Sequence

from drn_cli.data.classes import ClassSet
from drn_cli.data.folders import ChannelStats
from drn_cli.networks.models import DRN

Metadata = Mapping[str, str]  # empty for files that this package did not write


def to_metadata(
    model: DRN, statistics: ChannelStats, class_set: ClassSet, folders: Sequence[str] | None = None
) -> dict[str, str]:
    """Return what is needed to use a network's weights: architecture, normalization, classes.

    Args:
        model: The network.
        statistics: Mean and standard deviation that it was trained with.
        class_set: Names and colors of its classes.
        folders: For a classifier, the name of each class's folder in the training data.
    """
    metadata = {
        "format": "drn",
        "arch": model.arch,
        "width": repr(model.width),
        "task": model.task,
        "classes": str(model.classes),
        "mean": json.dumps(statistics.mean),
        "std": json.dumps(statistics.std),
        "class_names": json.dumps(class_set.names),
        "colours": json.dumps(class_set.colours),
    }
    if folders is not None:
        metadata["class_folders"] = json.dumps(folders)
    return metadata


def read_channel_stats(metadata: Metadata, default: ChannelStats) -> ChannelStats:
    """Return mean and standard deviation, or the default if the metadata lacks one of them."""
    if "mean" not in metadata or "std" not in metadata:
        return default
    mean, std = json.loads(metadata["mean"]), json.loads(metadata["std"])
    return ChannelStats(tuple(mean), tuple(std))


def read_strings(metadata: Metadata, key: str) -> tuple[str, ...] | None:
    """Return a list such as `class_names`, or None if the metadata lacks it."""
    text = metadata.get(key)
    return None if text is None else tuple(json.loads(text))


def read_class_set(metadata: Metadata) -> ClassSet | None:
    """Return names and colors of the classes, or None if the metadata lacks one of them."""
    names = read_strings(metadata, "class_names")
    if names is None or "colours" not in metadata:
        return None
    return ClassSet(names, tuple(tuple(color) for color in json.loads(metadata["colours"])))

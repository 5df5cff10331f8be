"""What lies beside a network's weights, in strings: written down, and read again."""

import json
from collections.abc import Mapping, Sequence

from drn_cli.data.classes import ClassSet
from drn_cli.data.folders import Statistics
from drn_cli.networks.models import DRN

Told = Mapping[str, str]  # nothing in the files of others


def record(
    model: DRN, statistics: Statistics, class_set: ClassSet, folders: Sequence[str] | None = None
) -> dict[str, str]:
    """Write down what a reader of the weights must know, as safetensors keeps it: in strings.

    Args:
        model: The network.
        statistics: What it was trained with.
        class_set: Names and colours of its classes.
        folders: The folder of each class, for a classifier.
    """
    told = {
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
        told["class_folders"] = json.dumps(folders)
    return told


def statistics(told: Told, otherwise: Statistics) -> Statistics:
    """Give mean and standard deviation, or else those."""
    if "mean" not in told or "std" not in told:
        return otherwise
    mean, std = json.loads(told["mean"]), json.loads(told["std"])
    return Statistics(tuple(mean), tuple(std))


def strings(told: Told, key: str) -> tuple[str, ...] | None:
    """Give a list such as `class_names`, if it is there."""
    text = told.get(key)
    return None if text is None else tuple(json.loads(text))


def class_set(told: Told) -> ClassSet | None:
    """Give names and colours of the classes, if both are there."""
    names = strings(told, "class_names")
    if names is None or "colours" not in told:
        return None
    return ClassSet(names, tuple(tuple(colour) for colour in json.loads(told["colours"])))

"""What an exported file says of itself."""

import json
from datetime import UTC, datetime
from typing import Any

import torch

from drn_cli.data.classes import ClassSet, generic, imagenet
from drn_cli.data.folders import ChannelStats
from drn_cli.export.form import WEIGHTS_ONLY, ExportConfig
from drn_cli.files import read_json, sha256
from drn_cli.inference.loading import normalization_and_classes
from drn_cli.inference.metadata import read_strings, to_metadata
from drn_cli.inference.normalization import GUESS, Normalization
from drn_cli.inference.opening import TrainedNetwork
from drn_cli.inference.runtimes import UINT8
from drn_cli.inference.source import Source
from drn_cli.networks.published import is_start, published_as
from drn_cli.runs import Run
from drn_cli.version import __version__

# What is taken over from a run's environment.json.
TRAINING = (
    *("drn", "torch", "torchvision", "device", "processes", "precision", "revision", "seed"),
    *("data", "started", "train_pictures", "val_pictures"),
)
# What an export says of itself, whatever it is made of says.
OF_FORM = (GUESS, "size", "input", "outputs")
# Where things lay on the machine that trained says nothing to others.
PLACES = {"data": {"root", "lists", "cache_folder"}, "model": {"weights"}}


def describe(
    network: TrainedNetwork,
    source: Source,
    form: ExportConfig,
    licence: str | None,
    given: Normalization | None = None,
) -> tuple[dict[str, str], ChannelStats]:
    """Give the strings of a file, and the statistics that are among them.

    Args:
        network: What is exported.
        source: Where it comes from.
        form: What it becomes.
        licence: Of the weights, if it is known.
        given: Mean and standard deviation, if they were stated.
    """
    normalized, class_set = normalization_and_classes(network, given=given)
    statistics = normalized.statistics
    folders = read_strings(network.metadata, "class_folders")
    if network.task == "classification" and "class_names" not in network.metadata:
        class_set, folders = _named(network.classes)
    inherited = {key: text for key, text in network.metadata.items() if key not in OF_FORM}
    strings = inherited | to_metadata(network.model, statistics, class_set, folders)
    if normalized.guessed:
        strings[GUESS] = normalized.source
    if network.task == "classification":
        strings |= {key: str(pixels) for key, pixels in source.crop_settings().items()}
    known = published_as(source.checkpoint.name, network.metadata.get("source"))
    strings |= {
        "drn": __version__,
        "precision": form.precision,
        "licence": licence
        or network.metadata.get("licence")
        or (known.licence if known else "not stated"),
        "provenance": json.dumps(_provenance(source)),
    }
    if is_start(source.checkpoint.name):
        strings["source"] = source.checkpoint.name  # as `drn models import` does
    if form.format not in WEIGHTS_ONLY:
        strings["input"] = UINT8 if form.normalize else "normalised"
        strings["outputs"] = ",".join(form.outputs)
        if form.size is not None:
            strings["size"] = "{}x{}".format(*form.size)
    return strings, statistics


def _named(classes: int) -> tuple[ClassSet, tuple[str, ...] | None]:
    """Name the classes of a classifier whose file does not: a thousand are ImageNet's."""
    plain = generic(classes)
    if classes != len(imagenet()):
        return ClassSet(tuple(f"class {n}" for n in range(classes)), plain.colours), None
    return ClassSet(tuple(imagenet().values()), plain.colours), tuple(imagenet())


def _provenance(source: Source) -> dict[str, Any]:
    """Say what the weights are, and how their run came about, as far as its folder tells."""
    run = Run(source.checkpoint.parent.parent)
    made: dict[str, Any] = {
        "checkpoint": source.checkpoint.name,
        "sha256": sha256(source.checkpoint),
        "exported": datetime.now(UTC).isoformat(timespec="seconds"),
        "exported_with": {"drn": __version__, "torch": torch.__version__},
    }
    if source.recipe is not None:
        made["recipe"] = source.recipe.model_dump(mode="json", exclude=PLACES)
    if source.recipe is not None and run.environment.is_file():
        environment = read_json(run.environment)
        made["training"] = {key: environment[key] for key in TRAINING if key in environment}
    return made

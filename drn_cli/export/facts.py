"""Metadata of exported files: normalization, classes, license, provenance."""

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

# Keys of a run's environment.json that are copied.
TRAINING = (
    *("drn", "torch", "torchvision", "device", "processes", "precision", "revision", "seed"),
    *("data", "started", "train_pictures", "val_pictures"),
)
# Keys of the source that are not copied, because they describe its own format.
OF_FORMAT = (GUESS, "size", "input", "outputs")
# Paths on the training machine, which are left out of the recipe.
PLACES = {"data": {"root", "lists", "cache_folder"}, "model": {"weights"}}


def export_metadata(
    network: TrainedNetwork,
    source: Source,
    config: ExportConfig,
    licence: str | None,
    given: Normalization | None = None,
) -> tuple[dict[str, str], ChannelStats]:
    """Return the metadata of an exported file, and the mean and standard deviation in them.

    Args:
        network: The network.
        source: Its checkpoint.
        config: Format, precision, inputs and outputs.
        licence: License of the weights; None takes that of the checkpoint.
        given: Mean and standard deviation, instead of those of the checkpoint.
    """
    normalized, class_set = normalization_and_classes(network, given=given)
    statistics = normalized.statistics
    folders = read_strings(network.metadata, "class_folders")
    if network.task == "classification" and "class_names" not in network.metadata:
        names, folders = tuple(f"class {n}" for n in range(network.classes)), None
        if network.classes == len(imagenet()):
            names, folders = tuple(imagenet().values()), tuple(imagenet())
        class_set = ClassSet(names, generic(network.classes).colours)
    inherited = {key: text for key, text in network.metadata.items() if key not in OF_FORMAT}
    metadata = inherited | to_metadata(network.model, statistics, class_set, folders)
    if normalized.guessed:
        metadata[GUESS] = normalized.source
    if network.task == "classification":
        metadata |= {key: str(pixels) for key, pixels in source.crop_settings().items()}
    known = published_as(source.checkpoint.name, network.metadata.get("source"))
    metadata |= {
        "drn": __version__,
        "precision": config.precision,
        "licence": licence
        or network.metadata.get("licence")
        or (known.licence if known else "not stated"),
        "provenance": json.dumps(_provenance(source)),
    }
    if is_start(source.checkpoint.name):
        metadata["source"] = source.checkpoint.name  # as `drn models import` does
    if config.format not in WEIGHTS_ONLY:
        metadata["input"] = UINT8 if config.normalize else "normalised"
        metadata["outputs"] = ",".join(config.outputs)
        if config.size is not None:
            metadata["size"] = "{}x{}".format(*config.size)
    return metadata, statistics


def _provenance(source: Source) -> dict[str, Any]:
    """Return digest, versions and recipe of the weights, and the environment of their run."""
    run = Run(source.checkpoint.parent.parent)
    provenance: dict[str, Any] = {
        "checkpoint": source.checkpoint.name,
        "sha256": sha256(source.checkpoint),
        "exported": datetime.now(UTC).isoformat(timespec="seconds"),
        "exported_with": {"drn": __version__, "torch": torch.__version__},
    }
    if source.recipe is not None:
        provenance["recipe"] = source.recipe.model_dump(mode="json", exclude=PLACES)
        if run.environment.is_file():
            environment = read_json(run.environment)
            provenance["training"] = {k: environment[k] for k in TRAINING if k in environment}
    return provenance

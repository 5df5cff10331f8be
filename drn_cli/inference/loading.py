"""From a checkpoint of any kind to a network that is ready for pictures."""

import json
from pathlib import Path

import torch

from drn_cli.data.classes import ClassSet, cityscapes, generic
from drn_cli.data.folders import CITYSCAPES, IMAGENET, ListFolder, Statistics
from drn_cli.errors import DrnError
from drn_cli.inference.multiscale import PLAIN
from drn_cli.inference.predictor import Predictor
from drn_cli.networks import create_model
from drn_cli.networks.checkpoints import read_checkpoint
from drn_cli.networks.conversion import convert
from drn_cli.networks.models import DRN
from drn_cli.networks.weights import load_weights
from drn_cli.recipe.schema import Eval


def record(model: DRN, statistics: Statistics, class_set: ClassSet) -> dict[str, str]:
    """Write down what a reader of the weights must know, as safetensors keeps it: in strings."""
    return {
        "format": "drn",
        "arch": model.arch,
        "task": model.task,
        "classes": str(model.classes),
        "mean": json.dumps(statistics.mean),
        "std": json.dumps(statistics.std),
        "class_names": json.dumps(class_set.names),
        "colours": json.dumps(class_set.colours),
    }


def load_predictor(
    path: Path,
    device: torch.device,
    *,
    data: ListFolder | None = None,
    view: Eval = PLAIN,
) -> Predictor:
    """Build the network that a file holds, of any known format.

    Args:
        path: A checkpoint.
        device: Where to run it.
        data: The data folder to be used with; tells mean, std and class names where the file,
            as the original's, does not.
        view: How to look at a picture.

    Raises:
        DrnError: The file cannot be read, or holds a classifier.
    """
    checkpoint = read_checkpoint(path)
    found = convert(checkpoint, path)
    if found.task != "segmentation" or found.classes is None:
        raise DrnError(f"{path}: holds a classifier; a segmentation network is needed")
    model = create_model(found.archs[0], "segmentation", found.classes)
    load_weights(model, path)
    statistics, class_set = _described(checkpoint.metadata, found.classes, data)
    model.to(device).to(memory_format=torch.channels_last).eval()
    return Predictor(
        network=model,
        statistics=statistics,
        class_set=class_set,
        device=device,
        view=view,
    )


def _described(
    told: dict[str, str], classes: int, data: ListFolder | None
) -> tuple[Statistics, ClassSet]:
    """Read what a file says of itself, and ask the data folder for the rest."""
    if "mean" in told and "std" in told:
        mean, std = json.loads(told["mean"]), json.loads(told["std"])
        statistics = Statistics(tuple(mean), tuple(std))
    elif data is not None:
        statistics = data.statistics()
    else:
        statistics = CITYSCAPES if classes == len(cityscapes()) else IMAGENET
    if "class_names" in told and "colours" in told:
        colours = (tuple(colour) for colour in json.loads(told["colours"]))
        return statistics, ClassSet(tuple(json.loads(told["class_names"])), tuple(colours))
    return statistics, generic(classes) if data is None else data.class_set(classes)

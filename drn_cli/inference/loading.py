"""From a checkpoint of any kind to a network that is ready for pictures."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from drn_cli.data.classes import ClassSet, cityscapes, generic, imagenet
from drn_cli.data.classification import View
from drn_cli.data.folders import CITYSCAPES, IMAGENET, ListFolder, Statistics
from drn_cli.errors import DrnError
from drn_cli.inference.classifier import Classifier
from drn_cli.inference.memory import Tiles
from drn_cli.inference.predictor import Predictor
from drn_cli.inference.preparation import prepared
from drn_cli.inference.reading import networks_at_once
from drn_cli.inference.views import PLAIN
from drn_cli.networks import create_model
from drn_cli.networks.catalog import Task
from drn_cli.networks.checkpoints import read_checkpoint
from drn_cli.networks.conversion import convert
from drn_cli.networks.models import DRN
from drn_cli.networks.weights import load_converted
from drn_cli.recipe.schema import Eval


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


@dataclass(frozen=True, slots=True)
class TrainedNetwork:
    """A network as a file holds it, and what the file says of it.

    Attributes:
        path: The file.
        model: With its weights, in evaluation mode, on the CPU.
        told: Strings that lie beside the weights; none in the files of others.
    """

    path: Path
    model: DRN
    told: dict[str, str]

    @property
    def task(self) -> Task:
        return self.model.task

    def statistics(self, otherwise: Statistics) -> Statistics:
        """Give mean and standard deviation of the file, or else those."""
        if "mean" not in self.told or "std" not in self.told:
            return otherwise
        mean, std = json.loads(self.told["mean"]), json.loads(self.told["std"])
        return Statistics(tuple(mean), tuple(std))

    def strings(self, key: str) -> tuple[str, ...] | None:
        """Give a list that the file tells, such as `class_names`, if it does."""
        told = self.told.get(key)
        return None if told is None else tuple(json.loads(told))


def read_network(path: Path, task: Task | None = None) -> TrainedNetwork:
    """Build the network that a file holds, of any known format.

    Args:
        path: A checkpoint.
        task: What it has to be for, if that matters.

    Raises:
        DrnError: The file cannot be read, has no head, or is for another task.
    """
    checkpoint = read_checkpoint(path)
    found = convert(checkpoint, path)
    if found.task is None or found.classes is None:
        raise DrnError(
            f"{path}: holds a backbone alone, or does not say what it is for",
            "`drn models import FILE --task TASK` writes one that does",
        )
    if task is not None and found.task != task:
        held, needed = (
            {"segmentation": "a segmentation network", "classification": "a classifier"}[one]
            for one in (found.task, task)
        )
        raise DrnError(f"{path}: holds {held}; {needed} is needed")
    with torch.device("meta"):
        model = create_model(found.archs[0], found.task, found.classes)
    model.to_empty(device="cpu").eval()
    for buffer in model.buffers():
        buffer.zero_()  # the files of others lack some counters
    load_converted(model, found, path)
    return TrainedNetwork(path, model, checkpoint.metadata)


def load_predictor(
    source: Path | TrainedNetwork,
    device: torch.device,
    *,
    data: ListFolder | None = None,
    view: Eval = PLAIN,
    autocast: torch.dtype | None = None,
    compiled: bool = False,
    at_once: int | None = None,
) -> Predictor:
    """Make a segmenter ready for pictures.

    Args:
        source: A checkpoint, or what was read from one.
        device: Where to run it.
        data: The data folder to be used with; tells mean, std and class names where the file,
            as the original's, does not.
        view: How to look at a picture.
        autocast: The type to compute in where that is safe; None is float32 throughout.
        compiled: Whether through torch.compile, anew for each size of picture.
        at_once: How many pictures are worked on at the same time; by default as many as there are
            threads on a CPU.

    Raises:
        DrnError: The file cannot be read, or holds a classifier.
    """
    found = read_network(source, "segmentation") if isinstance(source, Path) else source
    classes = found.model.classes
    if data is not None and not found.told.keys() >= {"mean", "std"}:
        otherwise = data.statistics()
    else:
        otherwise = CITYSCAPES if classes == len(cityscapes()) else IMAGENET
    model = prepared(found.model, device, exact=autocast is None)
    return Predictor(
        network=_compiled(model.scores) if compiled else model.scores,
        statistics=found.statistics(otherwise),
        class_set=_class_set(found, data),
        device=device,
        view=view,
        autocast=autocast,
        tiles=Tiles(model.arch, device, at_once or networks_at_once(device)),
    )


def _class_set(found: TrainedNetwork, data: ListFolder | None) -> ClassSet:
    """Read names and colours from the file, or ask the data folder."""
    names = found.strings("class_names")
    if names is not None and "colours" in found.told:
        colours = (tuple(colour) for colour in json.loads(found.told["colours"]))
        return ClassSet(names, tuple(colours))
    classes = found.model.classes
    return generic(classes) if data is None else data.class_set(classes)


def load_classifier(
    source: Path | TrainedNetwork,
    device: torch.device,
    *,
    statistics: Statistics = IMAGENET,
    crop: int = 224,
    resize: int = 256,
    view: View = "1-crop",
    autocast: torch.dtype | None = None,
    compiled: bool = False,
) -> Classifier:
    """Make a classifier ready for pictures; as `load_predictor`.

    Args:
        source: A checkpoint, or what was read from one.
        device: Where to run it.
        statistics: Mean and standard deviation, where the file does not tell.
        crop: Side of the crops that it sees, in pixels.
        resize: What the shorter side of a picture is brought to before, in pixels.
        view: `1-crop`, the centre, or `10-crop`.
        autocast: The type to compute in where that is safe; None is float32 throughout.
        compiled: Whether through torch.compile.

    Raises:
        DrnError: The file cannot be read, or holds a segmenter.
    """
    found = read_network(source, "classification") if isinstance(source, Path) else source
    classes = found.model.classes
    names, folders = found.strings("class_names"), found.strings("class_folders")
    if names is None and classes == len(imagenet()):
        names, folders = tuple(imagenet().values()), tuple(imagenet())
    model = prepared(found.model, device, exact=autocast is None)
    return Classifier(
        network=_compiled(model) if compiled else model,
        maps=_compiled(model.scores) if compiled else model.scores,
        statistics=found.statistics(statistics),
        names=names or tuple(f"class {number}" for number in range(classes)),
        folders=folders,
        named=names is not None,
        device=device,
        crop=crop,
        resize=resize,
        view=view,
        autocast=autocast,
    )


def _compiled(call: Any) -> Any:
    return torch.compile(call, dynamic=False)

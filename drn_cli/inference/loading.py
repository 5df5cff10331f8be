"""From a network in a file to one that is ready for images."""

import logging
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch

from drn_cli.data.classes import ClassSet, generic, imagenet
from drn_cli.data.classification import View
from drn_cli.data.folders import ChannelStats, ListDataset
from drn_cli.errors import DrnError, few_of, warn_for_all
from drn_cli.inference.classifier import ClassificationPredictor
from drn_cli.inference.memory import TileSizer
from drn_cli.inference.metadata import read_class_set, read_strings
from drn_cli.inference.normalization import Normalization, normalization
from drn_cli.inference.opening import Found, TrainedNetwork, open_network
from drn_cli.inference.predictor import SegmentationPredictor
from drn_cli.inference.preparation import prepared
from drn_cli.inference.reading import networks_at_once
from drn_cli.inference.runtimes import AS_PIXELS, ExportedNetwork, Output
from drn_cli.inference.views import PLAIN
from drn_cli.networks.published import is_start
from drn_cli.recipe.schema import Eval

log = logging.getLogger(__name__)

MOST_CLASSES = 256  # of a segmenter: index maps are uint8


def facts(
    found: Found, data: ListDataset | None = None, given: Normalization | None = None
) -> tuple[Normalization, ClassSet]:
    """Return what inputs are normalized with, and the names and colours of the classes.

    Those of the file; else of the data folder; else what is known of networks like this. A
    normalization that is given comes before all, and the data folder's before a guess in the file.

    Raises:
        DrnError: The data folder names another number of classes than the network has.
    """
    class_set = read_class_set(found.metadata)
    if data is not None and (named := data.named_classes()) is not None:
        _check_classes(found, class_set or named, data.lists / "info.json", named)
        class_set = class_set or named
    read_statistics = None
    if data is not None:
        # A file without mean and std needs the data folder's: its error names the remedy.
        own = {"mean", "std"} <= found.metadata.keys()
        read_statistics = data.recorded_statistics if own else data.statistics
    normalized = normalization(found, read_statistics, given)
    return normalized, class_set or generic(found.classes)


def _check_classes(found: Found, own: ClassSet, path: Path, named: ClassSet) -> None:
    """Compare the classes of a network with those of the data: ids mean nothing without them."""
    if len(named) != found.classes:
        raise DrnError(
            f"{path}: names {len(named)} classes, {found.path} has {found.classes}",
            "use a network and a data folder of the same classes",
        )
    pairs = enumerate(zip(own.names, named.names, strict=True))
    different = [
        f"{b!r} for {a!r} ({n})"
        for n, (a, b) in pairs
        if a.casefold() not in (b.casefold(), f"class {n}")  # a name that was made up
    ]
    if different:
        warn_for_all(
            log,
            f"{path}: names other classes than {found.path}: {few_of(different, 3)} (ids are "
            "compared as they are: check that they mean the same)",
        )


def load_predictor(
    source: Path | Found,
    device: torch.device,
    *,
    data: ListDataset | None = None,
    given: Normalization | None = None,
    view: Eval = PLAIN,
    autocast: torch.dtype | None = None,
    compiled: bool = False,
    at_once: int | None = None,
) -> SegmentationPredictor:
    """Make a segmenter ready for images.

    Args:
        source: A checkpoint, an exported network, or what was read from one.
        device: Where to run it.
        data: The data folder to be used with; tells mean, std and class names where the file,
            as the original's, does not, and mean and std where the file has a guess.
        given: What inputs are normalized with, whatever the file says.
        view: How to look at an image.
        autocast: The type to compute in where that is safe; None is float32 throughout. Exported
            networks compute in what they were exported in.
        compiled: Whether through torch.compile, anew for each size of image.
        at_once: How many images are worked on at the same time; by default as many as there are
            threads on a CPU.

    Raises:
        DrnError: The file cannot be read, holds a classifier, or cannot do what is asked of it.
    """
    found = open_network(source, "segmentation") if isinstance(source, Path) else source
    if found.classes > MOST_CLASSES:
        raise DrnError(
            f"{found.path}: {found.classes} classes, and an index map holds {MOST_CLASSES} at most",
            "use a segmenter of fewer classes",
        )
    normalized, class_set = facts(found, data, given)
    statistics = normalized.statistics
    count = at_once or networks_at_once(device)
    ready = partial(
        SegmentationPredictor,
        class_set=class_set,
        normalization=normalized,
        device=device,
        view=view,
        tiles=TileSizer(found.architecture, device, count),
    )
    if isinstance(found, TrainedNetwork):
        model = prepared(found.model, device, exact=autocast is None)
        network = _compiled(model.scores) if compiled else model.scores
        return ready(network=network, statistics=statistics, autocast=autocast)
    _check_exported(found, compiled)
    if found.answers_classes and view != PLAIN:
        raise DrnError(
            f"{found.path}: gives classes alone, which several sizes, mirrored images or tiles "
            "cannot be made of",
            "export it without --argmax",
        )
    run = found.session(device, count)
    output: Output = "classes" if found.answers_classes else "scores"
    return ready(
        network=lambda x: run(x, output),
        statistics=AS_PIXELS if found.takes_pixels else statistics,
        answers_classes=found.answers_classes,
    )


def load_classifier(
    source: Path | Found,
    device: torch.device,
    *,
    read_statistics: Callable[[], ChannelStats | None] | None = None,
    given: Normalization | None = None,
    crop: int | None = None,
    resize: int | None = None,
    view: View = "1-crop",
    autocast: torch.dtype | None = None,
    compiled: bool = False,
) -> ClassificationPredictor:
    """Make a classifier ready for images; as `load_predictor`.

    Args:
        source: A checkpoint, an exported network, or what was read from one.
        device: Where to run it.
        read_statistics: Reads mean and standard deviation of the data folder, if it states any;
            called where the file has none or a guess.
        given: What inputs are normalized with, whatever the file says.
        crop: Side of the crops that it sees, in pixels; by default as the file tells, or 224.
        resize: What the shorter side of an image is brought to before, in pixels; by default as
            the file tells, or 256.
        view: `1-crop`, the centre, or `10-crop`.
        autocast: The type to compute in where that is safe; None is float32 throughout.
        compiled: Whether through torch.compile.

    Raises:
        DrnError: The file cannot be read, holds a segmenter, or cannot do what is asked of it.
    """
    found = open_network(source, "classification") if isinstance(source, Path) else source
    names = read_strings(found.metadata, "class_names")
    folders = read_strings(found.metadata, "class_folders")
    if names is None and found.classes == len(imagenet()):
        names, folders = tuple(imagenet().values()), tuple(imagenet())
    if is_start(found.path.name, found.metadata.get("source")):
        warn_for_all(
            log,
            f"{found.path}: the weights of a ResNet are a start for training {found.arch}, not the "
            "published classifier: its answers mean little (use a C or D network, as drn_d_22)",
        )
    normalized = normalization(found, read_statistics, given)
    ready = partial(
        ClassificationPredictor,
        normalization=normalized,
        names=names or tuple(f"class {number}" for number in range(found.classes)),
        folders=folders,
        named=names is not None,
        device=device,
        crop=crop or int(found.metadata.get("crop", 224)),
        resize=resize or int(found.metadata.get("resize", 256)),
        view=view,
    )
    if isinstance(found, TrainedNetwork):
        model = prepared(found.model, device, exact=autocast is None)
        return ready(
            network=_compiled(model) if compiled else model,
            maps=_compiled(model.scores) if compiled else model.scores,
            statistics=normalized.statistics,
            autocast=autocast,
        )
    _check_exported(found, compiled)
    run = found.session(device, networks_at_once(device))
    return ready(
        network=lambda x: run(x, "logits"),
        maps=lambda x: run(x, "scores"),
        statistics=AS_PIXELS if found.takes_pixels else normalized.statistics,
    )


def _check_exported(found: ExportedNetwork, compiled: bool) -> None:
    if compiled:
        raise DrnError(f"{found.path}: cannot be compiled: its own runtime runs it")


def _compiled(call: Any) -> Any:
    return torch.compile(call, dynamic=False)

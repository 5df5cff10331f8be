"""Predictors from checkpoints and exported networks."""

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
from drn_cli.inference.normalization import Normalization, resolve_normalization
from drn_cli.inference.opening import OpenedNetwork, TrainedNetwork, open_network
from drn_cli.inference.predictor import SegmentationPredictor
from drn_cli.inference.preparation import for_inference
from drn_cli.inference.reading import default_concurrency
from drn_cli.inference.runtimes import UINT8_STATISTICS, ExportedNetwork, Output
from drn_cli.inference.views import PLAIN
from drn_cli.networks.published import is_start
from drn_cli.recipe.schema import Eval

log = logging.getLogger(__name__)

MAX_CLASSES = 256  # of a segmenter: index maps are uint8


def normalization_and_classes(
    network: OpenedNetwork, data: ListDataset | None = None, given: Normalization | None = None
) -> tuple[Normalization, ClassSet]:
    """Return the normalization of a network, and the names and colors of its classes.

    Both are those of the file, else of the data folder, else the default for the network. A given
    normalization has priority, and the data folder's has priority over a guess in the file.

    Raises:
        DrnError: Network and data folder differ in the number of classes.
    """
    class_set = read_class_set(network.metadata)
    if data is not None and (data_classes := data.named_classes()) is not None:
        info = data.lists / "info.json"
        _check_classes(network, class_set or data_classes, info, data_classes)
        class_set = class_set or data_classes
    read_statistics = None
    if data is not None:
        # Required if the file has none: the error then names the key to add to info.json.
        in_file = {"mean", "std"} <= network.metadata.keys()
        read_statistics = data.recorded_statistics if in_file else data.statistics
    normalization = resolve_normalization(network, read_statistics, given)
    return normalization, class_set or generic(network.classes)


def _check_classes(network: OpenedNetwork, own: ClassSet, path: Path, named: ClassSet) -> None:
    """Raise DrnError if the numbers of classes differ, and warn if the names do."""
    if len(named) != network.classes:
        raise DrnError(
            f"{path}: names {len(named)} classes, {network.path} has {network.classes}",
            "use a network and a data folder with the same classes",
        )
    pairs = enumerate(zip(own.names, named.names, strict=True))
    different = [
        f"{b!r} for {a!r} ({n})"
        for n, (a, b) in pairs
        if a.casefold() not in (b.casefold(), f"class {n}")  # a generated name
    ]
    if different:
        warn_for_all(
            log,
            f"{path}: class names differ from those of {network.path}: {few_of(different, 3)} "
            "(ids are compared unchanged: check that they mean the same)",
        )


def load_predictor(
    source: Path | OpenedNetwork,
    device: torch.device,
    *,
    data: ListDataset | None = None,
    given: Normalization | None = None,
    view: Eval = PLAIN,
    autocast: torch.dtype | None = None,
    compiled: bool = False,
    concurrency: int | None = None,
) -> SegmentationPredictor:
    """Load a segmenter.

    Args:
        source: A checkpoint, an exported network, or an opened one.
        device: Device to run on.
        data: Data folder that the network is used with: its mean, std and class names are used if
            the file has none, and its mean and std if those of the file are a guess.
        given: Normalization that overrides that of the file.
        view: Scales, flip and tiling.
        autocast: Autocast type; None is float32 throughout. Ignored for exported networks.
        compiled: Use torch.compile, which compiles once per image size.
        concurrency: Number of images predicted concurrently; by default one per CPU thread.

    Raises:
        DrnError: The file cannot be read, holds a classifier, or does not support an argument.
    """
    network = open_network(source, "segmentation") if isinstance(source, Path) else source
    if network.classes > MAX_CLASSES:
        raise DrnError(
            f"{network.path}: {network.classes} classes; index maps hold at most {MAX_CLASSES}",
            "use a segmenter with fewer classes",
        )
    normalization, class_set = normalization_and_classes(network, data, given)
    statistics = normalization.statistics
    concurrency = concurrency or default_concurrency(device)
    predictor = partial(
        SegmentationPredictor,
        class_set=class_set,
        normalization=normalization,
        device=device,
        view=view,
        tiles=TileSizer(network.architecture, device, concurrency),
    )
    if isinstance(network, TrainedNetwork):
        model = for_inference(network.model, device, exact=autocast is None)
        scores = _compiled(model.scores) if compiled else model.scores
        return predictor(network=scores, statistics=statistics, autocast=autocast)
    _check_exported(network, compiled)
    if network.outputs_classes and view != PLAIN:
        raise DrnError(
            f"{network.path}: outputs class ids only; multiple scales, flip and tiles need scores",
            "export it without --argmax",
        )
    run = network.session(device, concurrency)
    output: Output = "classes" if network.outputs_classes else "scores"
    return predictor(
        network=lambda x: run(x, output),
        statistics=UINT8_STATISTICS if network.takes_uint8 else statistics,
        outputs_classes=network.outputs_classes,
    )


def load_classifier(
    source: Path | OpenedNetwork,
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
    """Load a classifier.

    Args:
        source: A checkpoint, an exported network, or an opened one.
        device: Device to run on.
        read_statistics: Reads mean and standard deviation of the data folder, None if it has none;
            called if the file has none or a guess.
        given: Normalization that overrides that of the file.
        crop: Side of the crops, in pixels; default: as in the file, or 224.
        resize: Length that the shorter side of an image is resized to before cropping, in pixels;
            default: as in the file, or 256.
        view: `1-crop` (center) or `10-crop`.
        autocast: Autocast type; None is float32 throughout. Ignored for exported networks.
        compiled: Use torch.compile.

    Raises:
        DrnError: The file cannot be read, holds a segmenter, or does not support an argument.
    """
    network = open_network(source, "classification") if isinstance(source, Path) else source
    names = read_strings(network.metadata, "class_names")
    folders = read_strings(network.metadata, "class_folders")
    if names is None and network.classes == len(imagenet()):
        names, folders = tuple(imagenet().values()), tuple(imagenet())
    if is_start(network.path.name, network.metadata.get("source")):
        warn_for_all(
            log,
            f"{network.path}: these are ResNet weights for initializing {network.arch}, not a "
            "trained classifier: its predictions mean little (use a C or D network, such as "
            "drn_d_22)",
        )
    normalization = resolve_normalization(network, read_statistics, given)
    predictor = partial(
        ClassificationPredictor,
        normalization=normalization,
        names=names or tuple(f"class {number}" for number in range(network.classes)),
        folders=folders,
        named=names is not None,
        device=device,
        crop=crop or int(network.metadata.get("crop", 224)),
        resize=resize or int(network.metadata.get("resize", 256)),
        view=view,
    )
    if isinstance(network, TrainedNetwork):
        model = for_inference(network.model, device, exact=autocast is None)
        return predictor(
            network=_compiled(model) if compiled else model,
            maps=_compiled(model.scores) if compiled else model.scores,
            statistics=normalization.statistics,
            autocast=autocast,
        )
    _check_exported(network, compiled)
    run = network.session(device, default_concurrency(device))
    return predictor(
        network=lambda x: run(x, "logits"),
        maps=lambda x: run(x, "scores"),
        statistics=UINT8_STATISTICS if network.takes_uint8 else normalization.statistics,
    )


def _check_exported(network: ExportedNetwork, compiled: bool) -> None:
    if compiled:
        raise DrnError(f"{network.path}: exported networks cannot be compiled", "omit --compile")


def _compiled(call: Any) -> Any:
    return torch.compile(call, dynamic=False)

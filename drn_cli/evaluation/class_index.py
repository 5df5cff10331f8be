"""Match class folders to the classes of a network by name."""

import logging
from collections.abc import Sequence
from dataclasses import replace

from drn_cli.data.class_folders import ClassSample, FolderDataset
from drn_cli.errors import DrnError, few_of
from drn_cli.inference.classifier import ClassificationPredictor

log = logging.getLogger(__name__)
NAMED = 3  # classes that a message names


def class_index(folder: FolderDataset, classifier: ClassificationPredictor) -> tuple[int, ...]:
    """Return the network's class index of each class of a data folder.

    Classes are matched by folder name (`n01440764`), or else by class name. The data folder may
    have a subset of the network's classes.

    Raises:
        DrnError: The network lacks a class of the folder, or the names are ambiguous.
    """
    for ours, theirs in ((folder.folders, classifier.folders), (folder.names, classifier.names)):
        if theirs is not None and len(set(theirs)) == len(theirs) and set(ours) <= set(theirs):
            return tuple(theirs.index(name) for name in ours)
    if classifier.folders is None and not classifier.named:
        if len(folder.folders) == len(classifier.names):
            log.warning(
                "%s: the network has no class names; its %d classes are assumed to be these "
                "folders in sorted order",
                folder.root,
                len(folder.folders),
            )
            return tuple(range(len(folder.folders)))
        raise DrnError(
            f"{folder.root}: has {len(folder.folders)} classes, the network has "
            f"{len(classifier.names)} and no class names"
        )
    known = classifier.folders or classifier.names
    ours = folder.names if classifier.folders is None else folder.folders
    unknown = [name for name in ours if name not in known]
    if not unknown:
        repeated = next(name for name in known if known.count(name) > 1)
        raise DrnError(f"{folder.root}: several classes of the network are named {repeated}")
    raise DrnError(
        f"{folder.root}: {len(unknown)} of {len(ours)} classes unknown to the network: "
        f"{few_of(unknown, NAMED)}",
        f"its {len(known)} classes are {few_of(known, NAMED)}",
    )


def remap(samples: Sequence[ClassSample], index: Sequence[int]) -> list[ClassSample]:
    """Replace the target `k` of each sample by `index[k]`."""
    return [replace(sample, target=index[sample.target]) for sample in samples]

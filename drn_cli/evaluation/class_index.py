"""Which of a network's classes each folder of images is: checked, never assumed."""

import logging
from collections.abc import Sequence
from dataclasses import replace

from drn_cli.data.class_folders import ClassSample, FolderDataset
from drn_cli.errors import DrnError
from drn_cli.inference.classifier import ClassificationPredictor

log = logging.getLogger(__name__)


def class_index(folder: FolderDataset, classifier: ClassificationPredictor) -> tuple[int, ...]:
    """Give the number that the network has for each class of a data folder.

    Folders are known by what they are called, as `n01440764`, or else by the names that people
    give the classes. A folder may have only some of the network's classes.

    Raises:
        DrnError: A class of the folder is none of the network's, or nothing tells which it is.
    """
    for ours, theirs in ((folder.folders, classifier.folders), (folder.names, classifier.names)):
        if theirs is not None and len(set(theirs)) == len(theirs) and set(ours) <= set(theirs):
            return tuple(theirs.index(name) for name in ours)
    if classifier.folders is None and not classifier.named:
        if len(folder.folders) == len(classifier.names):
            log.warning(
                "the network's file does not name its classes; they are taken for the %d folders "
                "of %s in sorted order",
                len(folder.folders),
                folder.root,
            )
            return tuple(range(len(folder.folders)))
        raise DrnError(
            f"{folder.root}: has {len(folder.folders)} classes, the network has "
            f"{len(classifier.names)} and does not name them"
        )
    known = classifier.folders or classifier.names
    ours = folder.names if classifier.folders is None else folder.folders
    strangers = [name for name in ours if name not in known]
    stranger = strangers[0] if strangers else ours[0]
    raise DrnError(
        f"{folder.root}: the class {stranger} is none of the network's {len(known)}, such as "
        f"{', '.join(known[:3])}"
        + (f" (and {len(strangers) - 1} more)" if len(strangers) > 1 else ""),
    )


def remap(samples: Sequence[ClassSample], index: Sequence[int]) -> list[ClassSample]:
    """Count the classes of samples as the network does."""
    return [replace(sample, target=index[sample.target]) for sample in samples]

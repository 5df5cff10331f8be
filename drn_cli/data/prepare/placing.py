"""Write image and label pairs into a data folder, with the list files and info.json."""

import logging
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from drn_cli.data.classes import IGNORED, ClassSet
from drn_cli.data.images import Pixels, read_image, write_png
from drn_cli.data.orientation import find_orientation_mismatch, first_and_count, size_error
from drn_cli.data.parallel import Progress, RunningStats, in_parallel
from drn_cli.data.prepare.common import SPLITS, count_pixels, link_or_copy, write_info, write_list
from drn_cli.errors import DrnError

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class PrepareTask:
    """An image and its label to write into a data folder."""

    split: str  # `train`, `val` or `test`
    source_image: Path
    source_label: Path | None  # a test image may have no label
    target_image: str  # path to write, relative to the data folder
    target_label: str | None  # path to write, a PNG of class ids


@dataclass(frozen=True, slots=True)
class PairStats:
    """Statistics of one image and its label."""

    channels: RunningStats  # sums over the image
    pixels: npt.NDArray[np.int64]  # int64 `(256,)`, pixel count of each class id
    # Warning that the image has an EXIF orientation and its label has none
    warning: str | None = None


def write_pairs(
    folder: Path,
    tasks: Sequence[PrepareTask],
    read_ids: Callable[[Path], Pixels],
    progress: Progress | None,
) -> list[PairStats]:
    """Write images and labels into a data folder on all cores.

    Args:
        folder: The data folder.
        tasks: The pairs to write.
        read_ids: Reads a source label as class ids, uint8 `(H, W)`; called in other processes.
        progress: Called with the number of images done and their total.

    Raises:
        DrnError: Two source files have the same target path, a file is broken, or a label
            whose size differs from its image's.
    """
    paths = [path for task in tasks for path in (task.target_image, task.target_label) if path]
    # The second file would overwrite the first and, through its hard link, the source.
    if duplicates := [path for path, count in Counter(paths).items() if count > 1]:
        raise DrnError(f"{duplicates[0]}: two source files have this path in the data folder")
    for parent in sorted({(folder / path).parent for path in paths}):
        parent.mkdir(parents=True, exist_ok=True)
    return list(in_parallel(partial(_write_pair, folder, read_ids), tasks, progress))


def _write_pair(folder: Path, read_ids: Callable[[Path], Pixels], task: PrepareTask) -> PairStats:
    source_image, source_label = task.source_image, task.source_label
    ids = read_ids(source_label) if source_label else None
    decoded = read_image(source_image)
    link_or_copy(source_image, folder / task.target_image)
    pixels, mismatch = np.zeros(256, np.int64), None
    if ids is not None and source_label and task.target_label:
        sizes = [(array.shape[1], array.shape[0]) for array in (ids, decoded)]
        if sizes[0] != sizes[1]:
            raise size_error(source_label, sizes[0], source_image, sizes[1])
        pixels = np.bincount(ids.ravel(), minlength=256)
        write_png(folder / task.target_label, ids)
        mismatch = find_orientation_mismatch(source_image, source_label)
    warning = mismatch and f"{source_image}: {mismatch}"
    return PairStats(RunningStats.of(decoded), pixels, warning)


def write_lists_and_info(
    folder: Path,
    tasks: Sequence[PrepareTask],
    stats: Sequence[PairStats],
    class_set: ClassSet,
    **extra: Any,
) -> None:
    """Write info.json and the list files of all splits that contain images.

    Labels are listed if every image of the split has one.
    """
    warnings = [part.warning for part in stats if part.warning]
    if warnings:
        log.warning("%s", first_and_count(warnings))
    for split in SPLITS:
        chosen = [task for task in tasks if task.split == split]
        labels = [task.target_label for task in chosen if task.target_label]
        if chosen:
            write_list(folder, f"{split}_images.txt", [task.target_image for task in chosen])
        if labels and len(labels) == len(chosen):
            write_list(folder, f"{split}_labels.txt", labels)
    done = list(zip(tasks, stats, strict=True))
    training = [part for task, part in done if task.split == "train"]
    pixels = np.sum([part.pixels for part in training], axis=0)
    label_pixels = (
        (task.split, task.target_label, part.pixels) for task, part in done if task.target_label
    )
    write_info(
        folder,
        RunningStats.total(part.channels for part in training).statistics(),
        class_set,
        training_pixels=pixels[: len(class_set)].tolist(),
        training_pixels_void=int(pixels[IGNORED]),
        class_pixels=count_pixels(label_pixels, len(class_set)),
        **extra,
    )

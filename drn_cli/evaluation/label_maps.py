"""Read label maps and predicted maps as class ids.

Cityscapes has 34 "label ids", 0 to 33, and "train ids", 0 to 18, of the 19 classes that are
evaluated. Files hold either; networks predict train ids.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import cv2
import numpy as np

from drn_cli.data.audit.labels import LABEL_ID
from drn_cli.data.audit.quick import spaced
from drn_cli.data.classes import IGNORED, cityscapes, cityscapes_train_ids
from drn_cli.data.decoding import check_labels
from drn_cli.data.folders import Sample
from drn_cli.data.images import Pixels, read_image, read_label
from drn_cli.errors import DrnError
from drn_cli.inference.views import resize_image

Ids = Literal["label-ids", "train-ids", "class-ids"]
Size = tuple[int, int] | Literal["label", "none"]  # width and height

SAMPLED = 32  # maps whose values are read first
THREADS = 8


def detect_ids(paths: Sequence[Path], classes: int) -> Ids:
    """Detect which ids label maps or predicted maps hold.

    With another number of classes than the 19 of Cityscapes they are class ids. Otherwise file
    names of Cityscapes decide, or else the values of a sample of the maps: 19 to 33 occur in label
    ids only. If the sample has neither these nor 255, all maps are read. Unreadable maps are
    ignored here and fail when they are scored.
    """
    if classes != len(cityscapes()):
        return "class-ids"
    stems = [path.stem.lower() for path in paths]
    if all(stem.endswith("trainids") for stem in stems):
        return "train-ids"
    if all(stem.endswith("labelids") for stem in stems):
        return "label-ids"
    for some in (spaced(paths, SAMPLED), paths)[: 1 + (len(paths) > SAMPLED)]:
        with ThreadPoolExecutor(THREADS) as pool:
            values = set[int]().union(*pool.map(_values, some))
        if values & set(range(classes, len(LABEL_ID))):
            return "label-ids"
        if IGNORED in values:
            break
    return "train-ids"


def _values(path: Path) -> set[int]:
    with suppress(DrnError):
        return set(np.unique(read_label(path)).tolist())
    return set()


def read_map(path: Path, ids: Ids, classes: int) -> Pixels:
    """Read a map as class ids, 255 for void; uint8 `(H, W)`.

    Raises:
        DrnError: The file cannot be read, or a value is not one of `ids`.
    """
    values = read_label(path)
    if ids == "label-ids":
        check_labels(values, len(LABEL_ID), path)
        return np.asarray(cv2.LUT(values, cityscapes_train_ids()), np.uint8)
    check_labels(values, classes, path)
    return values


@dataclass(frozen=True, slots=True)
class PairReader:
    """Reader of an image and its label map, resized to one size."""

    classes: int  # number of classes
    labels: Ids  # which ids the label maps hold
    # `label` resizes the image to its label map (bicubic), `none` the label map to its image
    # (nearest), a width and height both.
    size: Size = "label"

    def __call__(self, sample: Sample) -> tuple[Pixels, Pixels]:
        """Return image `(H, W, 3)` and label map `(H, W)`; DrnError if either cannot be read."""
        assert sample.label is not None
        image, label = read_image(sample.image), read_map(sample.label, self.labels, self.classes)
        width, height = _size(self.size, image, label)
        return resize_image(image, height, width), resize_map(label, height, width)


@dataclass(frozen=True, slots=True)
class MapReader:
    """Reader of a predicted map and its label map, resized to one size."""

    classes: int  # number of classes
    labels: Ids  # which ids the label maps hold
    predictions: Ids  # which ids the predicted maps hold
    # As for `PairReader`, but all resized by nearest neighbor; None requires equal sizes
    size: Size | None = None

    def __call__(self, sample: Sample) -> tuple[Pixels, Pixels]:
        """Return prediction and label map, both `(H, W)`.

        Raises:
            DrnError: Either cannot be read, or their sizes differ and `size` is None.
        """
        assert sample.label is not None
        prediction = read_map(sample.image, self.predictions, self.classes)
        label = read_map(sample.label, self.labels, self.classes)
        if self.size is not None:
            width, height = _size(self.size, prediction, label)
            return resize_map(prediction, height, width), resize_map(label, height, width)
        if prediction.shape != label.shape:
            raise DrnError(
                f"{sample.image}: is {prediction.shape[1]}x{prediction.shape[0]}, its label map "
                f"{sample.label} is {label.shape[1]}x{label.shape[0]}",
                "--resize-to label resizes predictions to their label maps",
            )
        return prediction, label


def _size(size: Size, image: Pixels, label: Pixels) -> tuple[int, int]:
    """Return the width and height to resize both to."""
    if isinstance(size, tuple):
        return size
    height, width = (label if size == "label" else image).shape[:2]
    return width, height


def resize_map(values: Pixels, height: int, width: int) -> Pixels:
    """Resize a map `(H, W)` by nearest neighbor, choosing the same pixels as Pillow."""
    if values.shape == (height, width):
        return values
    resized = cv2.resize(values, (width, height), interpolation=cv2.INTER_NEAREST_EXACT)
    return np.asarray(resized, np.uint8)

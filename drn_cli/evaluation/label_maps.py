"""Reading label maps and predicted maps as class ids, whether they hold Cityscapes' own ids or not.

Cityscapes numbers its 34 labels from 0 ("label ids") and the 19 classes that count anew ("train
ids"); files of both kinds go about, and networks answer in the latter.
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

LOOKED_AT = 32
THREADS = 8


def detect_ids(paths: Sequence[Path], classes: int) -> Ids:
    """Find out by looking which ids maps hold.

    Where there are not the 19 classes of Cityscapes there is but one kind. Else names decide, if
    they are those of Cityscapes, then the values of some maps: from 19 up to 33 are label ids only.
    Where none has such a value nor 255, all are looked at. A map that cannot be read says nothing
    here; scoring it raises the error.
    """
    if classes != len(cityscapes()):
        return "class-ids"
    stems = [path.stem.lower() for path in paths]
    if all(stem.endswith("trainids") for stem in stems):
        return "train-ids"
    if all(stem.endswith("labelids") for stem in stems):
        return "label-ids"
    for looked_at in (spaced(paths, LOOKED_AT), paths)[: 1 + (len(paths) > LOOKED_AT)]:
        values: set[int] = set()
        with ThreadPoolExecutor(THREADS) as pool:
            for found in pool.map(_values, looked_at):
                values |= found
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
    """Read a map as class ids from 0, or 255 for void; uint8 `(H, W)`.

    Raises:
        DrnError: The file cannot be read, or holds a value that is no id of its kind.
    """
    values = read_label(path)
    if ids == "label-ids":
        check_labels(values, len(LABEL_ID), path)
        return np.asarray(cv2.LUT(values, cityscapes_train_ids()), np.uint8)
    check_labels(values, classes, path)
    return values


@dataclass(frozen=True, slots=True)
class PairReader:
    """Reads an image and its label map, and brings one to the size of the other.

    Attributes:
        classes: Number of classes.
        labels: Which ids the label maps hold.
        size: `label` resizes the image to its label map (bicubic), `none` the label map to its
            image (nearest), and a width and height both.
    """

    classes: int
    labels: Ids
    size: Size = "label"

    def __call__(self, sample: Sample) -> tuple[Pixels, Pixels]:
        """Give image `(H, W, 3)` and label map `(H, W)`; raises DrnError as the readers do."""
        assert sample.label is not None
        image, label = read_image(sample.image), read_map(sample.label, self.labels, self.classes)
        width, height = _size(self.size, image, label)
        return resize_image(image, height, width), resize_map(label, height, width)


@dataclass(frozen=True, slots=True)
class MapReader:
    """Reads a predicted map and its label map.

    Attributes:
        classes: Number of classes.
        labels: Which ids the label maps hold.
        predictions: Which ids the predicted maps hold.
        size: As for `PairReader`, all by nearest pixels; None wants both to be of one size.
    """

    classes: int
    labels: Ids
    predictions: Ids
    size: Size | None = None

    def __call__(self, sample: Sample) -> tuple[Pixels, Pixels]:
        """Give prediction and label, `(H, W)` both; raises DrnError as the readers do."""
        assert sample.label is not None
        prediction = read_map(sample.image, self.predictions, self.classes)
        label = read_map(sample.label, self.labels, self.classes)
        if self.size is not None:
            width, height = _size(self.size, prediction, label)
            return resize_map(prediction, height, width), resize_map(label, height, width)
        if prediction.shape != label.shape:
            raise DrnError(
                f"{sample.image}: is {prediction.shape[1]}x{prediction.shape[0]}, its label "
                f"{sample.label} {label.shape[1]}x{label.shape[0]}",
                "--resize-to label brings predictions to the size of their labels",
            )
        return prediction, label


def _size(size: Size, image: Pixels, label: Pixels) -> tuple[int, int]:
    """Give width and height that both are brought to."""
    if isinstance(size, tuple):
        return size
    height, width = (label if size == "label" else image).shape[:2]
    return width, height


def resize_map(values: Pixels, height: int, width: int) -> Pixels:
    """Bring a map `(H, W)` to a size, each pixel from the nearest, as Pillow chooses it."""
    if values.shape == (height, width):
        return values
    made = cv2.resize(values, (width, height), interpolation=cv2.INTER_NEAREST_EXACT)
    return np.asarray(made, np.uint8)

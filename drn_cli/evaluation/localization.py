"""Localization error of a classifier's boxes, for many thresholds in one pass.

An image is correct at top-k if one of its k most probable classes has a true box whose IoU with the
box found for that class is above 0.5. Boxes include their corner pixels, as in ImageNet's
evaluation. The error is the fraction of images that are not correct.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from drn_cli.data.boxes import Box
from drn_cli.data.images import read_image
from drn_cli.distributed.group import Group
from drn_cli.errors import DrnError
from drn_cli.evaluation.segmentation import errors_as_results, gather_failures
from drn_cli.inference.activation import ClassActivationMap, Region, Values, class_activation_map
from drn_cli.inference.classifier import ClassificationPredictor
from drn_cli.inference.reading import default_concurrency, map_in_threads
from drn_cli.inference.score_maps import name_in_errors

TOP = 5  # most probable classes that count
OVERLAP = 0.5  # a box is correct above this IoU


@dataclass(frozen=True, slots=True)
class Localization:
    """True boxes of an image."""

    image: Path
    boxes: tuple[Box, ...]
    classes: tuple[int, ...]  # class of each box in the network


@dataclass(frozen=True, slots=True)
class ImageBoxes:
    """Boxes found in one image."""

    number: int  # index in the list of images
    classes: tuple[int, ...]  # the most probable classes, at most five, best first
    probabilities: tuple[float, ...]  # their probabilities
    # Boxes in pixels, float64 `(classes, thresholds, 4)`; NaN for no box
    boxes: npt.NDArray[np.float64]
    # Highest IoU of each box with a true box of its class, 0 without one: `(classes, thresholds)`
    iou: npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class LocalizationScores:
    """Localization errors over a set of images, as fractions of 1."""

    thresholds: tuple[float, ...]  # thresholds of the sweep; minus infinity is no threshold
    top1: tuple[float, ...]  # localization error at each threshold
    top5: tuple[float, ...]
    # Classification errors, lower bounds of the localization errors
    top1_classification: float
    top5_classification: float
    images: int  # number of images scored
    # Boxes of each image in the order of the list, if requested
    per_image: tuple[ImageBoxes, ...] = ()
    failed: tuple[Mapping[str, str], ...] = ()  # images that could not be scored, with their errors

    @property
    def best(self) -> int:
        """Index of the threshold with the lowest top-1 error, and of equals the lowest top-5."""
        return min(range(len(self.top1)), key=lambda n: (self.top1[n], self.top5[n]))

    def to_json(self) -> dict[str, Any]:
        known = [None if np.isneginf(limit) else limit for limit in self.thresholds]
        best = self.best
        return {
            "images": self.images,
            "threshold": known[best],
            "top1_error": self.top1[best],
            "top5_error": self.top5[best],
            "top1_classification_error": self.top1_classification,
            "top5_classification_error": self.top5_classification,
            "sweep": [
                {"threshold": limit, "top1_error": one, "top5_error": five}
                for limit, one, five in zip(known, self.top1, self.top5, strict=True)
            ],
        }


def localize(
    classifier: ClassificationPredictor,
    images: Sequence[Localization],
    group: Group,
    thresholds: Sequence[float],
    *,
    see: Region = "whole",
    kind: Values = "score",
    per_image: bool = False,
    partial: bool = False,
    step: Callable[[], object] = lambda: None,
) -> LocalizationScores:
    """Find boxes in each image once and compare them with the true boxes.

    Images are sharded over the processes and counts are summed.

    Args:
        classifier: The network.
        images: All images, at least one, in every process.
        group: The processes.
        thresholds: Thresholds of the sweep.
        see: Region of the image, as for `class_activation_map`.
        kind: Values of scores that thresholds apply to, as for `class_activation_map`.
        per_image: Whether to return the boxes of each image.
        partial: Whether to skip images that fail.
        step: Called after each image of this process.

    Raises:
        DrnError: An image cannot be read, or its scores are not finite (with `partial`: all fail).
    """
    mine = group.shard(list(enumerate(images)))

    def find(item: tuple[int, Localization]) -> ImageBoxes:
        number, truth = item
        image = read_image(truth.image)
        with name_in_errors(truth.image):
            found = class_activation_map(classifier, image, see, kind)
        return compare(found, truth, thresholds, number)

    threads = 1 if group.device.type == "cuda" else default_concurrency(group.device)
    correct = np.zeros((2, len(thresholds)), np.int64)
    classified = np.zeros(2, np.int64)
    kept = []
    failed: list[tuple[int, str, str]] = []
    attempts = map_in_threads(errors_as_results(find) if partial else find, mine, threads)
    for (number, _), found in zip(mine, attempts, strict=True):
        if isinstance(found, DrnError):
            failed.append((number, str(images[number].image), str(found)))
            step()
            continue
        correct += is_correct(found)
        true = [kind in images[found.number].classes for kind in found.classes]
        classified += (true[0], any(true))
        if per_image:
            kept.append(found)
        step()
    counts = torch.from_numpy(np.concatenate([correct.ravel(), classified])).to(group.device)
    total = group.sum(counts).cpu().numpy()
    lost = gather_failures(failed, len(images), group)
    scored = len(images) - len(lost)
    errors = 1 - total / scored
    top1, top5 = errors[:-2].reshape(2, -1).tolist()
    gathered = [one for part in group.gather_objects(kept) for one in part]
    return LocalizationScores(
        tuple(thresholds),
        tuple(top1),
        tuple(top5),
        float(errors[-2]),
        float(errors[-1]),
        scored,
        tuple(sorted(gathered, key=lambda one: one.number)),
        lost,
    )


def compare(
    found: ClassActivationMap, truth: Localization, thresholds: Sequence[float], number: int
) -> ImageBoxes:
    """Compare the boxes of the most probable classes of an image with its true boxes."""
    classes = found.topk(TOP)
    boxes = found.boxes(classes, thresholds)
    overlap = np.zeros(boxes.shape[:2])
    for place, kind in enumerate(classes):
        true = [box for box, of in zip(truth.boxes, truth.classes, strict=True) if of == kind]
        if true:
            overlap[place] = np.max([iou(boxes[place], box) for box in true], axis=0)
    probabilities = found.probabilities[classes].tolist()
    return ImageBoxes(number, tuple(classes), tuple(probabilities), boxes, overlap)


def iou(boxes: npt.NDArray[np.float64], true: Box) -> npt.NDArray[np.float64]:
    """Return the IoU of boxes with a true box, corner pixels included; 0 for NaN (no box).

    Shapes: `(..., 4)` to `(...)`.
    """
    low = np.maximum(boxes[..., :2], (true.xmin, true.ymin))
    high = np.minimum(boxes[..., 2:], (true.xmax, true.ymax))
    intersection = np.prod(np.maximum(0, high - low + 1), axis=-1)
    area = np.prod(boxes[..., 2:] - boxes[..., :2] + 1, axis=-1)
    union = area + (true.xmax - true.xmin + 1) * (true.ymax - true.ymin + 1) - intersection
    return np.asarray(np.nan_to_num(intersection / union))


def is_correct(found: ImageBoxes) -> npt.NDArray[np.bool_]:
    """Whether an image is correct at top-1 and at top-5 for each threshold: `(2, thresholds)`."""
    hits = found.iou > OVERLAP
    return np.stack([hits[0], hits.any(axis=0)])


def worst_boxes(scores: LocalizationScores) -> list[ImageBoxes]:
    """Sort images by increasing IoU of the most probable class's box at the best threshold.

    Of equal overlaps, the more confident predictions come first.
    """

    def order(found: ImageBoxes) -> tuple[float, float, int]:
        return float(found.iou[0, scores.best]), -found.probabilities[0], found.number

    return sorted(scores.per_image, key=order)


def match_boxes(
    images: Sequence[Path], truth: Mapping[str, Sequence[Box]], index: Mapping[str, int]
) -> tuple[list[Localization], list[Path], list[Path]]:
    """Match images with their true boxes by name.

    Args:
        images: Paths of the images.
        truth: True boxes by the stem of the image's name.
        index: The network's class by the class name of a box.

    Returns:
        Images with boxes of known classes, images without any, and names that have boxes of known
        classes but no image.
    """
    known = {
        name: tuple(box for box in boxes if box.name in index) for name, boxes in truth.items()
    }
    found = [
        Localization(image, boxes, tuple(index[box.name] for box in boxes))
        for image in images
        if (boxes := known.get(image.stem, ()))
    ]
    without = [image for image in images if not known.get(image.stem)]
    names = {image.stem for image in images}
    return found, without, [Path(name) for name in known if known[name] and name not in names]

"""Score a classifier's boxes against true ones, for many thresholds in one pass.

An image counts as right at top-k if, of the k likeliest classes, one is a class of its true boxes
and its box overlaps one of them by more than half (intersection over union), corner pixels included
as in ImageNet's own evaluation. The error is the share of images that are not right.
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

TOP = 5  # classes of an image that may be right
OVERLAP = 0.5  # above which a box is right


@dataclass(frozen=True, slots=True)
class Localization:
    """An image to be scored.

    Attributes:
        image: The file.
        boxes: Its true boxes.
        classes: The network's class of each of them.
    """

    image: Path
    boxes: tuple[Box, ...]
    classes: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class ImageBoxes:
    """What was found in one image.

    Attributes:
        number: Its place in the list of images, from 0.
        classes: The likeliest classes, at most five.
        probabilities: Theirs.
        boxes: In pixels, float64 `(classes, thresholds, 4)`; NaN for none.
        iou: Of each of these boxes with the best true box of its class, 0 where there is none,
            float64 `(classes, thresholds)`.
    """

    number: int
    classes: tuple[int, ...]
    probabilities: tuple[float, ...]
    boxes: npt.NDArray[np.float64]
    iou: npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class LocalizationScores:
    """Localisation errors over a set of images, as fractions of 1.

    Attributes:
        thresholds: That were tried; minus infinity is none.
        top1, top5: The error at each of them.
        top1_classification, top5_classification: Share of the images whose class was not first,
            or not among the first five: no threshold can do better.
        images: Number of images.
        per_image: What was found in each, in their order, where that was asked for.
        failed: Images that could not be scored, with their errors.
    """

    thresholds: tuple[float, ...]
    top1: tuple[float, ...]
    top5: tuple[float, ...]
    top1_classification: float
    top5_classification: float
    images: int
    per_image: tuple[ImageBoxes, ...] = ()
    failed: tuple[Mapping[str, str], ...] = ()

    @property
    def best(self) -> int:
        """Which threshold has the lowest top-1 error; of equals the lowest top-5 error."""
        return min(range(len(self.top1)), key=lambda n: (self.top1[n], self.top5[n]))

    def to_json(self) -> dict[str, Any]:
        """Give it ready for JSON; no threshold is null."""
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
    """Find boxes in every image once, and compare.

    Each process takes its share and the counts are added up.

    Args:
        classifier: The network.
        images: All of them, at least one, in every process.
        group: The processes.
        thresholds: That are tried.
        see: What is seen of an image, as for `class_activation_map`.
        kind: What thresholds are compared with, as for `class_activation_map`.
        per_image: Whether what was found in each image is wanted too.
        partial: Whether the others are scored where an image fails.
        step: Called after each image of this process.

    Raises:
        DrnError: An image cannot be read, or its scores are not finite; with `partial`, of all.
    """
    mine = group.shard(list(enumerate(images)))

    def work(item: tuple[int, Localization]) -> ImageBoxes:
        number, located = item
        image = read_image(located.image)
        with name_in_errors(located.image):
            found = class_activation_map(classifier, image, see, kind)
        return compare(found, located, thresholds, number)

    threads = 1 if group.device.type == "cuda" else default_concurrency(group.device)
    right = np.zeros((2, len(thresholds)), np.int64)
    known = np.zeros(2, np.int64)
    kept = []
    failed: list[tuple[int, str, str]] = []
    attempts = map_in_threads(errors_as_results(work) if partial else work, mine, threads)
    for (number, _), found in zip(mine, attempts, strict=True):
        if isinstance(found, DrnError):
            failed.append((number, str(images[number].image), str(found)))
            step()
            continue
        right += is_correct(found)
        true = [kind in images[found.number].classes for kind in found.classes]
        known += (true[0], any(true))
        if per_image:
            kept.append(found)
        step()
    counts = torch.from_numpy(np.concatenate([right.ravel(), known])).to(group.device)
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
    found: ClassActivationMap, located: Localization, thresholds: Sequence[float], number: int
) -> ImageBoxes:
    """Compare the boxes of an image's likeliest classes with its true ones."""
    classes = found.topk(TOP)
    boxes = found.boxes(classes, thresholds)
    overlap = np.zeros(boxes.shape[:2])
    for place, kind in enumerate(classes):
        true = [box for box, of in zip(located.boxes, located.classes, strict=True) if of == kind]
        if true:
            overlap[place] = np.max([iou(boxes[place], box) for box in true], axis=0)
    likely = found.probabilities[classes].tolist()
    return ImageBoxes(number, tuple(classes), tuple(likely), boxes, overlap)


def iou(boxes: npt.NDArray[np.float64], true: Box) -> npt.NDArray[np.float64]:
    """Give intersection over union with a true box, corner pixels included; 0 for no box.

    Shapes: `(..., 4)` in, `(...)` out.
    """
    low = np.maximum(boxes[..., :2], (true.xmin, true.ymin))
    high = np.minimum(boxes[..., 2:], (true.xmax, true.ymax))
    common = np.prod(np.maximum(0, high - low + 1), axis=-1)
    area = np.prod(boxes[..., 2:] - boxes[..., :2] + 1, axis=-1)
    whole = area + (true.xmax - true.xmin + 1) * (true.ymax - true.ymin + 1) - common
    return np.asarray(np.nan_to_num(common / whole))


def is_correct(found: ImageBoxes) -> npt.NDArray[np.bool_]:
    """Tell at which thresholds an image is right at top-1, and at top-5: `(2, thresholds)`."""
    hits = found.iou > OVERLAP
    return np.stack([hits[0], hits.any(axis=0)])


def worst_boxes(scores: LocalizationScores) -> list[ImageBoxes]:
    """Order images by the overlap of their likeliest class's box, at the best threshold.

    Of those without any, the surest come first.
    """

    def order(found: ImageBoxes) -> tuple[float, float, int]:
        return float(found.iou[0, scores.best]), -found.probabilities[0], found.number

    return sorted(scores.per_image, key=order)


def match_boxes(
    images: Sequence[Path], truth: Mapping[str, Sequence[Box]], index: Mapping[str, int]
) -> tuple[list[Localization], list[Path], list[Path]]:
    """Put images together with their boxes, by their names.

    Args:
        images: The files.
        truth: The boxes of each image, by its name without ending.
        index: The network's number of each class, by what its folder is called.

    Returns:
        The images that have boxes of known classes, the images that have none, and the names that
        have such boxes and no image.
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

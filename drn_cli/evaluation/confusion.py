"""Confusion matrix and segmentation scores, as the Cityscapes benchmark defines them.

Pixels whose label is void are ignored; a valid pixel predicted as void is a false negative of its
class and a false positive of none.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from drn_cli.data.classes import IGNORED, ClassSet, cityscapes, cityscapes_categories
from drn_cli.errors import DrnError

Matrix = npt.NDArray[np.int64]  # [label, prediction] in pixels; the last column is predicted void


def confusion(prediction: Tensor, label: Tensor, classes: int, name: Path | None = None) -> Tensor:
    """Return the confusion matrix of an image; pixels whose label is 255 are ignored.

    Args:
        prediction: Class ids or 255, uint8 `(H, W)`.
        label: Class ids or 255, uint8 `(H, W)`, on the same device.
        classes: Number of classes.
        name: File of the label map, for error messages.

    Returns:
        Pixel counts, int64 `(classes, classes + 1)`: a row per label; the last column counts
        predicted void.

    Raises:
        DrnError: The sizes differ, or a label is neither a class nor 255.
    """
    if prediction.shape != label.shape:
        raise DrnError(
            f"{name}: label map is {label.shape[1]}x{label.shape[0]}, "
            f"prediction is {prediction.shape[1]}x{prediction.shape[0]}"
        )
    columns = classes + 1
    # Two more rows: ignored pixels, and labels out of range.
    rows = torch.full((256,), classes + 1, dtype=torch.int32, device=label.device)
    rows[:classes] = torch.arange(classes, dtype=torch.int32, device=label.device)
    rows[IGNORED] = classes
    cells = (rows * columns)[label.int()] + prediction.clamp(max=classes)
    counts = torch.bincount(cells.flatten(), minlength=(classes + 2) * columns)
    counts = counts.view(classes + 2, columns)
    if counts[classes + 1].any():
        wrong = sorted(set(label.unique().tolist()) - set(range(classes)) - {IGNORED})
        raise DrnError(
            f"{name}: label {wrong[0]} is out of range "
            f"(labels are 0 to {classes - 1}, and 255 for ignored pixels)"
        )
    return counts[:classes]


class NothingToScoreError(DrnError):
    """All pixels of the label maps are void."""


@dataclass(frozen=True, slots=True)
class ImageScores:
    """Segmentation scores of one image, as fractions of 1; None if its label map is all void."""

    number: int  # index in the list of images
    image: str  # path of the image, or of the saved prediction
    label: str  # path of the label map
    # IoU of each class; None for a class in neither label nor prediction
    iou: tuple[float | None, ...]
    miou: float | None  # mean IoU over the classes that are not None
    pixel_accuracy: float | None  # fraction of the valid pixels that are correct

    @classmethod
    def of(cls, matrix: Matrix, number: int, image: str, label: str) -> "ImageScores":
        iou = class_iou(matrix)
        return cls(
            number,
            image,
            label,
            _nan_to_none(iou),
            _mean(iou),
            _mean(np.array([_ratio(np.trace(matrix), matrix.sum())])),
        )


def worst_first(images: Sequence[ImageScores]) -> list[ImageScores]:
    """Sort images by increasing mIoU; those without a valid pixel come last."""
    return sorted(images, key=lambda one: (one.miou is None, one.miou, one.number))


@dataclass(frozen=True, slots=True)
class SegmentationScores:
    """Segmentation scores over a set of images, as fractions of 1."""

    matrix: Matrix
    # TP / (TP + FP + FN) of each class; None for a class in neither labels nor predictions
    iou: tuple[float | None, ...]
    miou: float  # mean IoU over the classes that are not None
    pixel_accuracy: float  # fraction of the valid pixels that are correct
    mean_accuracy: float  # mean recall over the classes in the labels
    # Mean IoU over the classes in the labels, weighted by their number of pixels
    frequency_weighted_iou: float
    images: int  # number of images scored
    # Scores of each image in the order of the list, if requested
    per_image: tuple[ImageScores, ...] = ()
    failed: tuple[Mapping[str, str], ...] = ()  # images that could not be scored, with their errors
    loss: float | None = None  # mean cross-entropy of the labeled pixels at scale 1, if requested

    @classmethod
    def of(
        cls,
        matrix: Matrix,
        images: int,
        per_image: Sequence[ImageScores] = (),
        failed: Sequence[Mapping[str, str]] = (),
        loss: float | None = None,
    ) -> "SegmentationScores":
        """Compute the scores from a confusion matrix.

        Raises:
            NothingToScoreError: All pixels of the label maps are void.
        """
        correct, labeled = np.diag(matrix), matrix.sum(axis=1)
        if not labeled.any():
            raise NothingToScoreError("nothing to score: all pixels of the label maps are void")
        iou, present = class_iou(matrix), labeled > 0
        return cls(
            matrix,
            _nan_to_none(iou),
            float(np.nanmean(iou)),
            float(correct.sum() / labeled.sum()),
            float((correct[present] / labeled[present]).mean()),
            float((iou[present] * labeled[present]).sum() / labeled.sum()),
            images,
            tuple(per_image),
            tuple(failed),
            loss,
        )

    def by_category(self, categories: Sequence[str]) -> dict[str, float | None]:
        """Return the IoU of groups of classes; confusions within a group are correct.

        Args:
            categories: Name of the group of each class.
        """
        names = list(dict.fromkeys(categories))
        group = np.array([*(names.index(name) for name in categories), len(names)])
        matrix = np.zeros((len(names), len(names) + 1), np.int64)
        np.add.at(matrix, (group[:-1, None], group[None, :]), self.matrix)
        return dict(zip(names, _nan_to_none(class_iou(matrix)), strict=True))

    def categories(self, class_set: ClassSet) -> Mapping[str, float | None]:
        """Return the IoU of the Cityscapes categories, or nothing for another class set."""
        return self.by_category(cityscapes_categories()) if class_set == cityscapes() else {}

    def to_json(self, class_set: ClassSet) -> dict[str, Any]:
        classes, categories = len(self.iou), self.categories(class_set)
        scores: dict[str, Any] = {
            "images": self.images,
            **({} if self.loss is None else {"loss": self.loss}),
            "miou": self.miou,
            "pixel_accuracy": self.pixel_accuracy,
            "mean_accuracy": self.mean_accuracy,
            "frequency_weighted_iou": self.frequency_weighted_iou,
            "iou": dict(zip(class_set.names, self.iou, strict=True)),
            "absent_classes": [
                name for name, iou in zip(class_set.names, self.iou, strict=True) if iou is None
            ],
        }
        if categories:
            known = [iou for iou in categories.values() if iou is not None]
            scores["category_miou"] = sum(known) / len(known)
            scores["category_iou"] = dict(categories)
        return scores | {
            "confusion_matrix": self.matrix[:, :classes].tolist(),
            "predicted_void": self.matrix[:, classes].tolist(),
        }


def class_iou(matrix: Matrix) -> npt.NDArray[np.float64]:
    """Return TP / (TP + FP + FN) per class; NaN for a class in neither labels nor predictions."""
    true_positives = np.diag(matrix)
    union = matrix.sum(axis=1) + matrix.sum(axis=0)[: len(matrix)] - true_positives
    return _ratio(true_positives, union)


def _ratio(part: npt.ArrayLike, whole: npt.ArrayLike) -> npt.NDArray[np.float64]:
    with np.errstate(invalid="ignore"):
        return np.asarray(np.true_divide(part, whole))


def _nan_to_none(values: npt.NDArray[np.float64]) -> tuple[float | None, ...]:
    return tuple(None if np.isnan(value) else value for value in values.tolist())


def _mean(values: npt.NDArray[np.float64]) -> float | None:
    known = values[~np.isnan(values)]
    return float(known.mean()) if known.size else None

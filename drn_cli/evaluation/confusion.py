"""The confusion matrix and the scores that are read off it.

The definitions are those of the Cityscapes benchmark: pixels whose label is void count nowhere, and
a valid pixel that is predicted as void is a miss of its class and a false alarm of none.
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

Matrix = npt.NDArray[np.int64]  # [label, prediction], pixels; the last column is of void


def confusion(prediction: Tensor, label: Tensor, classes: int, name: Path | None = None) -> Tensor:
    """Count the pixels of each pair of label and prediction; ignored pixels are left out.

    Args:
        prediction: Class ids or 255, uint8 `(H, W)`.
        label: Class ids or 255, uint8 `(H, W)`, on the same device.
        classes: Number of classes.
        name: The label's file, for the error.

    Returns:
        int64 `(classes, classes + 1)`, rows are labels, the last column is of void predictions.

    Raises:
        DrnError: The sizes differ, or a label is neither a class nor 255.
    """
    if prediction.shape != label.shape:
        raise DrnError(
            f"{name}: the label is {label.shape[1]}x{label.shape[0]}, "
            f"the prediction {prediction.shape[1]}x{prediction.shape[0]}"
        )
    columns = classes + 1
    # Two rows more: for ignored pixels, and for labels that should not be there.
    rows = torch.full((256,), classes + 1, dtype=torch.int32, device=label.device)
    rows[:classes] = torch.arange(classes, dtype=torch.int32, device=label.device)
    rows[IGNORED] = classes
    cells = (rows * columns)[label.int()] + prediction.clamp(max=classes)
    counts = torch.bincount(cells.flatten(), minlength=(classes + 2) * columns)
    counts = counts.view(classes + 2, columns)
    if counts[classes + 1].any():
        wrong = sorted(set(label.unique().tolist()) - set(range(classes)) - {IGNORED})
        raise DrnError(
            f"{name}: has the label {wrong[0]}; labels are 0 to {classes - 1}, or 255 for ignored"
        )
    return counts[:classes]


class NothingToScoreError(DrnError):
    """The labels hold no class at all."""


@dataclass(frozen=True, slots=True)
class ImageScores:
    """Segmentation scores of one image, as fractions of 1; None where its label is all void.

    Attributes:
        number: Its place in the list of images, from 0.
        image: The image, or the prediction where that was given.
        label: Its label map.
        iou: Per class; None for a class in neither label nor prediction.
        miou: Mean over the classes that are not None.
        pixel_accuracy: Share of the valid pixels that are right.
    """

    number: int
    image: str
    label: str
    iou: tuple[float | None, ...]
    miou: float | None
    pixel_accuracy: float | None

    @classmethod
    def of(cls, matrix: Matrix, number: int, image: str, label: str) -> "ImageScores":
        iou = class_iou(matrix)
        return cls(
            number,
            image,
            label,
            _numbers(iou),
            _mean(iou),
            _mean(np.array([_ratio(np.trace(matrix), matrix.sum())])),
        )


def worst_first(images: Sequence[ImageScores]) -> list[ImageScores]:
    """Order images by mIoU; those without anything to score come last."""
    return sorted(images, key=lambda one: (one.miou is None, one.miou, one.number))


@dataclass(frozen=True, slots=True)
class SegmentationScores:
    """Segmentation scores, all as fractions of 1, over a whole set of images.

    Attributes:
        matrix: The confusion matrix they are read off.
        iou: Per class, TP / (TP + FP + FN); None for a class in neither labels nor predictions.
        miou: Mean over the classes that are not None.
        pixel_accuracy: Share of the valid pixels that are right.
        mean_accuracy: Mean over the classes in the labels of the share that is right.
        frequency_weighted_iou: Mean of the IoU of the classes in the labels, each weighted by its
            share of the valid pixels.
        images: How many images were scored.
        per_image: Those of each, in their order, where that was asked for.
        failed: Images that could not be scored, with their errors.
        loss: Mean cross-entropy of the labelled pixels at scale 1, where that was asked for.
    """

    matrix: Matrix
    iou: tuple[float | None, ...]
    miou: float
    pixel_accuracy: float
    mean_accuracy: float
    frequency_weighted_iou: float
    images: int
    per_image: tuple[ImageScores, ...] = ()
    failed: tuple[Mapping[str, str], ...] = ()
    loss: float | None = None

    @classmethod
    def of(
        cls,
        matrix: Matrix,
        images: int,
        per_image: Sequence[ImageScores] = (),
        failed: Sequence[Mapping[str, str]] = (),
        loss: float | None = None,
    ) -> "SegmentationScores":
        """Read the scores off a matrix.

        Raises:
            NothingToScoreError: The labels hold no class at all.
        """
        right, labelled = np.diag(matrix), matrix.sum(axis=1)
        if not labelled.any():
            raise NothingToScoreError(
                "no pixel of the labels belongs to a class: there is nothing to score"
            )
        iou, present = class_iou(matrix), labelled > 0
        return cls(
            matrix,
            _numbers(iou),
            float(np.nanmean(iou)),
            float(right.sum() / labelled.sum()),
            float((right[present] / labelled[present]).mean()),
            float((iou[present] * labelled[present]).sum() / labelled.sum()),
            images,
            tuple(per_image),
            tuple(failed),
            loss,
        )

    def by_category(self, categories: Sequence[str]) -> dict[str, float | None]:
        """Give the IoU of groups of classes, in which one taken for another is right.

        Args:
            categories: That of each class.
        """
        names = list(dict.fromkeys(categories))
        group = np.array([*(names.index(name) for name in categories), len(names)])
        matrix = np.zeros((len(names), len(names) + 1), np.int64)
        np.add.at(matrix, (group[:-1, None], group[None, :]), self.matrix)
        return dict(zip(names, _numbers(class_iou(matrix)), strict=True))

    def categories(self, class_set: ClassSet) -> Mapping[str, float | None]:
        """Give the IoU of the categories of Cityscapes, if its classes were scored; else none."""
        return self.by_category(cityscapes_categories()) if class_set == cityscapes() else {}

    def to_json(self, class_set: ClassSet) -> dict[str, Any]:
        """Give the scores with class names, ready for JSON."""
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
    """Give TP / (TP + FP + FN) of each class; NaN for a class in neither labels nor predictions."""
    classes = len(matrix)
    right = np.diag(matrix)
    return _ratio(right, matrix.sum(axis=1) + matrix.sum(axis=0)[:classes] - right)


def _ratio(part: npt.ArrayLike, whole: npt.ArrayLike) -> npt.NDArray[np.float64]:
    with np.errstate(invalid="ignore"):
        return np.asarray(np.true_divide(part, whole))


def _numbers(values: npt.NDArray[np.float64]) -> tuple[float | None, ...]:
    return tuple(None if np.isnan(value) else value for value in values.tolist())


def _mean(values: npt.NDArray[np.float64]) -> float | None:
    known = values[~np.isnan(values)]
    return float(known.mean()) if known.size else None

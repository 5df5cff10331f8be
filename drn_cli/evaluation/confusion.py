"""The confusion matrix and the scores that are read off it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from drn_cli.data.classes import IGNORED, ClassSet
from drn_cli.errors import DrnError

Matrix = npt.NDArray[np.int64]  # [label, prediction], pixels


def confusion(prediction: Tensor, label: Tensor, classes: int, name: Path | None = None) -> Tensor:
    """Count the pixels of each pair of label and prediction; ignored pixels are left out.

    Args:
        prediction: Class ids, uint8 `(H, W)`.
        label: Class ids or 255, uint8 `(H, W)`, on the same device.
        classes: Number of classes.
        name: The label's file, for the error.

    Returns:
        int64 `(classes, classes)`, rows are labels.

    Raises:
        DrnError: The sizes differ, or a label is neither a class nor 255.
    """
    if prediction.shape != label.shape:
        raise DrnError(
            f"{name}: the label is {label.shape[1]}x{label.shape[0]}, "
            f"the prediction {prediction.shape[1]}x{prediction.shape[0]}"
        )
    # Two rows more: for ignored pixels, and for labels that should not be there.
    rows = torch.full((256,), classes + 1, dtype=torch.int32, device=label.device)
    rows[:classes] = torch.arange(classes, dtype=torch.int32, device=label.device)
    rows[IGNORED] = classes
    cells = rows[label.int()] * classes + prediction.int()
    counts = torch.bincount(cells.flatten(), minlength=(classes + 2) * classes)
    counts = counts.view(classes + 2, classes)
    if counts[classes + 1].any():
        wrong = sorted(set(label.unique().tolist()) - set(range(classes)) - {IGNORED})
        raise DrnError(
            f"{name}: has the label {wrong[0]}; labels are 0 to {classes - 1}, or 255 for ignored"
        )
    return counts[:classes]


class NothingToScoreError(DrnError):
    """The labels hold no class at all."""


@dataclass(frozen=True, slots=True)
class Scores:
    """Segmentation scores, all as fractions of 1, over a whole set of pictures.

    Attributes:
        matrix: The confusion matrix they are read off.
        iou: Per class, TP / (TP + FP + FN); None for a class in neither labels nor predictions.
        miou: Mean over the classes that are not None.
        pixel_accuracy: Share of the pixels that are right.
        mean_accuracy: Mean over the classes in the labels of the share that is right.
        images: How many pictures were scored.
    """

    matrix: Matrix
    iou: tuple[float | None, ...]
    miou: float
    pixel_accuracy: float
    mean_accuracy: float
    images: int

    @classmethod
    def of(cls, matrix: Matrix, images: int) -> "Scores":
        """Read the scores off a matrix of int64.

        Raises:
            NothingToScoreError: The labels hold no class at all.
        """
        right = np.diag(matrix)
        labelled, predicted = matrix.sum(axis=1), matrix.sum(axis=0)
        if not labelled.any():
            raise NothingToScoreError(
                "no pixel of the labels belongs to a class: there is nothing to score"
            )
        union = labelled + predicted - right
        seen, present = union > 0, labelled > 0
        iou = right[seen] / union[seen]
        by_class = iter(iou.tolist())
        return cls(
            matrix,
            tuple(next(by_class) if there else None for there in seen),
            float(iou.mean()),
            float(right.sum() / labelled.sum()),
            float((right[present] / labelled[present]).mean()),
            images,
        )

    def to_json(self, class_set: ClassSet) -> dict[str, Any]:
        """Give the scores with class names, ready for JSON."""
        return {
            "images": self.images,
            "miou": self.miou,
            "pixel_accuracy": self.pixel_accuracy,
            "mean_accuracy": self.mean_accuracy,
            "iou": dict(zip(class_set.names, self.iou, strict=True)),
            "confusion_matrix": self.matrix.tolist(),
        }

"""Class activation maps of a classifier, and bounding boxes from them.

A classifier without its global pooling scores each class at each position. The box of a class is
the tightest one around the positions where that class has the highest score and the score is above
a threshold (Yu, Koltun and Funkhouser, CVPR 2017, section 3). This needs no training.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

from drn_cli.data.batches import normalize
from drn_cli.data.images import Pixels
from drn_cli.data.resized_crop import center_crop, resize_shorter_side
from drn_cli.inference.classifier import ClassificationPredictor, topk
from drn_cli.inference.score_maps import check_finite
from drn_cli.networks.models import OUTPUT_STRIDE, upsample

Region = Literal["whole", "centre"]
Values = Literal["score", "probability"]

Boxes = npt.NDArray[np.float64]  # (classes, thresholds, 4): xmin, ymin, xmax, ymax; NaN for no box


@dataclass(frozen=True, slots=True)
class ClassActivationMap:
    """Scores of each class at each position of an image."""

    maps: Tensor  # scores or probabilities, float32 `(classes, h, w)`, on the CPU
    probabilities: Tensor  # class probabilities of the whole region, float64 `(classes,)`
    size: tuple[int, int]  # height and width of the image, in pixels
    # The part of the image that the maps cover: top, left, height, width, in pixels
    region: tuple[float, float, float, float]
    input_size: tuple[int, int]  # height and width of that part as the network's input, in pixels

    def topk(self, k: int) -> list[int]:
        """Return the k most probable classes, ties in order of the class ids."""
        return topk(self.probabilities[None], k)[0].tolist()

    def boxes(self, classes: Sequence[int], thresholds: Sequence[float]) -> Boxes:
        """Return the tight box of each class above each threshold, in pixels of the image.

        Corner pixels are part of a box, as in ImageNet: a box of one pixel has equal corners.

        Shapes: `(classes, thresholds, 4)`; NaN where no position is above the threshold.
        """
        highest, winner = self.maps.max(0)
        won = winner.numpy() == np.asarray(classes)[:, None, None]
        limits = np.asarray(thresholds, np.float32)[:, None, None]
        inside = won[:, None] & (highest.numpy() > limits)  # (classes, thresholds, h, w)
        top, bottom = _first_and_last(inside.any(axis=3))
        left, right = _first_and_last(inside.any(axis=2))
        corners = np.stack([left, top, right, bottom], axis=-1).astype(np.float64)
        corners[~inside.any(axis=(2, 3))] = np.nan
        return self._to_pixels(corners)

    def _to_pixels(self, cells: Boxes) -> Boxes:
        """Convert corners from positions of the map to pixels of the image."""
        top, left, height, width = self.region
        scale = np.tile([width / self.input_size[1], height / self.input_size[0]], 2)
        last_cell = np.array([0, 0, 1, 1])  # the last position, and the last pixel, are inside
        edges = (cells + last_cell) * OUTPUT_STRIDE * scale + [left, top] * 2 - last_cell
        end = (min(self.size[1], left + width), min(self.size[0], top + height))
        clipped = np.clip(edges, 0, np.array(end * 2) - 1)
        # Positions of an enlarged image are smaller than its pixels.
        clipped[..., 2:] = np.maximum(clipped[..., 2:], clipped[..., :2])
        return np.asarray(clipped)

    def heat_map(self, class_id: int) -> npt.NDArray[np.float32]:
        """Return the map of a class at image size, scaled to 0..1 (minimum to maximum).

        Shapes: float32 `(H, W)`; 0 outside the region.
        """
        low, high = self.maps[class_id].min(), self.maps[class_id].max()
        cells = self.maps[class_id] - low
        cells /= (high - low).clamp(min=torch.finfo(torch.float32).tiny)
        # `upsample` pads with zeros, which would show as dark borders.
        padded = F.pad(cells[None, None], (1, 1, 1, 1), mode="replicate")
        upsampled = upsample(padded, *(OUTPUT_STRIDE * side for side in padded.shape[2:]))
        rows, columns = (slice(OUTPUT_STRIDE, OUTPUT_STRIDE + side) for side in self.input_size)
        top, left, height, width = (round(number) for number in self.region)
        resized = cv2.resize(
            upsampled[0, 0, rows, columns].numpy(),
            (max(1, width), max(1, height)),
            interpolation=cv2.INTER_LINEAR,
        )
        heat = np.zeros(self.size, np.float32)
        target = heat[max(0, top) : top + height, max(0, left) : left + width]
        source = resized[max(0, -top) :, max(0, -left) :]
        target[:] = source[: target.shape[0], : target.shape[1]]
        return heat


def _first_and_last(
    mask: npt.NDArray[np.bool_],
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Return the indices of the first and the last True along the last axis."""
    return mask.argmax(axis=-1), mask.shape[-1] - 1 - mask[..., ::-1].argmax(axis=-1)


@torch.inference_mode()
def class_activation_map(
    classifier: ClassificationPredictor,
    image: Pixels,
    region: Region = "whole",
    values: Values = "score",
) -> ClassActivationMap:
    """Run a classifier on an image without global pooling.

    Args:
        classifier: The network.
        image: `(H, W, 3)`.
        region: `whole`: the whole image, its shorter side resized to `classifier.resize`;
            `centre`: the center crop that the classifier is evaluated on.
        values: Values of the maps: scores (logits), or probabilities (softmax over the classes).

    Raises:
        NonFiniteScoresError: A score is NaN or infinite.
    """
    height, width = image.shape[:2]
    shown = resize_shorter_side(image, classifier.resize)
    scale_y, scale_x = height / shown.shape[0], width / shown.shape[1]
    top = left = 0
    if region == "centre":
        size = classifier.crop
        # An image smaller than the crop is centered on black.
        top, left = (
            round((side - size) / 2) if side > size else -((size - side) // 2)
            for side in shown.shape[:2]
        )
        shown = center_crop(image, size, classifier.resize)
    batch = torch.from_numpy(np.ascontiguousarray(shown))[None].to(classifier.device)
    with torch.autocast(
        classifier.device.type, classifier.autocast, enabled=classifier.autocast is not None
    ):
        scores = classifier.maps(normalize(batch, classifier.statistics))
    scores = scores.float().cpu()
    check_finite([scores])
    [scores] = scores
    rows, columns = shown.shape[:2]
    return ClassActivationMap(
        maps=scores.softmax(0) if values == "probability" else scores,
        probabilities=scores.double().mean(dim=(1, 2)).softmax(0),
        size=(height, width),
        region=(top * scale_y, left * scale_x, rows * scale_y, columns * scale_x),
        input_size=(rows, columns),
    )

"""Where in an image a classifier sees its classes: activation maps and tight boxes.

A classifier without its pooling scores each class at each position. A class's box is the smallest
one around the positions where the class has the highest score of all, and that above a threshold
(Yu, Koltun and Funkhouser, CVPR 2017, section 3). Nothing is trained for it.
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
from drn_cli.inference.classifier import ClassificationPredictor
from drn_cli.inference.score_maps import check_finite
from drn_cli.networks.models import OUTPUT_STRIDE, upsample

See = Literal["whole", "centre"]
Kind = Literal["score", "probability"]

Boxes = npt.NDArray[np.float64]  # (classes, thresholds, 4): xmin, ymin, xmax, ymax; NaN for none


@dataclass(frozen=True, slots=True)
class ClassActivationMap:
    """What a classifier sees where in an image.

    Attributes:
        maps: Scores, or probabilities, float32 `(classes, h, w)`, on the CPU.
        probabilities: Of each class for the whole of what was seen, float64 `(classes,)`.
        size: Height and width of the image, in pixels.
        seen: The part that was seen, in pixels of the image: top, left, height, width.
        shape: Height and width in which the network saw that part, in pixels.
    """

    maps: Tensor
    probabilities: Tensor
    size: tuple[int, int]
    seen: tuple[float, float, float, float]
    shape: tuple[int, int]

    def best(self, count: int) -> list[int]:
        """Give the likeliest classes, the first of equals first."""
        return self.probabilities.sort(descending=True, stable=True).indices[:count].tolist()

    def boxes(self, classes: Sequence[int], thresholds: Sequence[float]) -> Boxes:
        """Find the tight box of each class above each threshold, in pixels of the image.

        Corner pixels are included, as in ImageNet's boxes: a box of one pixel has equal corners.

        Shapes: `(classes, thresholds, 4)`; NaN where no position is left.
        """
        highest, winner = self.maps.max(0)
        values = highest.numpy()
        won = winner.numpy() == np.asarray(classes)[:, None, None]
        limits = np.asarray(thresholds, np.float32)[:, None, None]
        inside = won[:, None] & (values > limits)  # (classes, thresholds, h, w)
        top, bottom = _ends(inside.any(axis=3))
        left, right = _ends(inside.any(axis=2))
        corners = np.stack([left, top, right, bottom], axis=-1).astype(np.float64)
        corners[~inside.any(axis=(2, 3))] = np.nan
        return self._in_image(corners)

    def _in_image(self, cells: Boxes) -> Boxes:
        """Turn positions into pixels of the image."""
        top, left, height, width = self.seen
        across, down = width / self.shape[1], height / self.shape[0]
        scale = np.array([across, down, across, down])
        origin = np.array([left, top, left, top])
        far = np.array([0, 0, 1, 1])  # the last position, and the last pixel, are inside
        edges = (cells + far) * OUTPUT_STRIDE * scale + origin - far
        end = (min(self.size[1], left + width), min(self.size[0], top + height))
        last = np.array(end * 2) - 1
        clipped = np.clip(edges, 0, last)
        # An image that was enlarged has positions smaller than its pixels.
        clipped[..., 2:] = np.maximum(clipped[..., 2:], clipped[..., :2])
        return np.asarray(clipped)

    def heat(self, kind: int) -> npt.NDArray[np.float32]:
        """Give a class's map at the image's size, from 0 for its lowest value to 1.

        Shapes: float32 `(H, W)`; 0 where the network did not look.
        """
        low, high = self.maps[kind].min(), self.maps[kind].max()
        cells = (self.maps[kind] - low) / (high - low).clamp(min=torch.finfo(torch.float32).tiny)
        # Not as the segmenter brings up its scores, whose zeros around the map would show.
        bordered = F.pad(cells[None, None], (1, 1, 1, 1), mode="replicate")
        grown = upsample(bordered, *(OUTPUT_STRIDE * side for side in bordered.shape[2:]))
        inside = slice(OUTPUT_STRIDE, OUTPUT_STRIDE + self.shape[0])
        whole = grown[0, 0, inside, OUTPUT_STRIDE : OUTPUT_STRIDE + self.shape[1]]
        top, left, height, width = (round(number) for number in self.seen)
        heat = np.zeros(self.size, np.float32)
        shape = (max(1, width), max(1, height))
        part = cv2.resize(whole.numpy(), shape, interpolation=cv2.INTER_LINEAR)
        rows, columns = slice(max(0, top), top + height), slice(max(0, left), left + width)
        heat[rows, columns] = part[max(0, -top) :, max(0, -left) :][
            : heat[rows].shape[0], : heat[:, columns].shape[1]
        ]
        return heat


def _ends(lines: npt.NDArray[np.bool_]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Give the first and the last True along the last axis."""
    return lines.argmax(axis=-1), lines.shape[-1] - 1 - lines[..., ::-1].argmax(axis=-1)


@torch.inference_mode()
def activate(
    classifier: ClassificationPredictor, image: Pixels, see: See = "whole", kind: Kind = "score"
) -> ClassActivationMap:
    """Run a classifier over an image, without its pooling.

    Args:
        classifier: The network.
        image: `(H, W, 3)`.
        see: `whole` is all of the image, its shorter side brought to `classifier.resize`;
            `centre` the crop that a classifier is tested on.
        kind: Whether maps are of scores (logits), or of probabilities, the softmax over classes.

    Raises:
        NonFiniteScoresError: A score is NaN or infinite.
    """
    height, width = image.shape[:2]
    shown = resize_shorter_side(image, classifier.resize)
    scale_down, scale_across = height / shown.shape[0], width / shown.shape[1]
    top = left = 0
    if see == "centre":
        size = classifier.crop
        # What is smaller than the crop lies in its middle, on black.
        top, left = (
            round((have - size) / 2) if have > size else -((size - have) // 2)
            for have in shown.shape[:2]
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
    probabilities = scores.double().mean(dim=(1, 2)).softmax(0)
    rows, columns = shown.shape[:2]
    return ClassActivationMap(
        maps=scores.softmax(0) if kind == "probability" else scores,
        probabilities=probabilities,
        size=(height, width),
        seen=(top * scale_down, left * scale_across, rows * scale_down, columns * scale_across),
        shape=(rows, columns),
    )

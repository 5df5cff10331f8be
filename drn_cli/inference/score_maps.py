"""From class scores at an eighth of the size to an answer for each pixel, a band of rows at a time.

A network's scores are brought up by its stride, and those of a view of another size are resized to
the image, bilinearly with anti-aliasing. Both are linear and work along one axis after the other,
so they are done as one: a few weights for each row and each column of the image. Nothing of the
image's size but the answer is ever kept, and a band stays in the processor's caches.

Several views are summed as log-probabilities (`drn_cli.inference.views` has the protocol). What
log-softmax takes from a pixel's scores is the same for all of its classes, and so is what becomes
of it by resizing and summing: neither the highest class nor the softmax of the sum depends on it.
That is why the sum is one of scores.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from drn_cli.errors import DrnError

BAND = {"cpu": 1 << 20, "cuda": 1 << 28}  # bytes of scores that are worked on at once
NO_CLASS = 255  # in index maps of exported networks: a score of the pixel is not finite
COLUMNS = 256  # that are multiplied at once: each needs only the cells around it

Block = tuple[int, Tensor]  # the first cell, and weights (pixels, cells from there)


@dataclass(frozen=True, slots=True)
class ViewScores:
    """What a network says of one view of an image.

    Attributes:
        scores: Logits or log-probabilities, float32 `(h, C, w)`: a row of cells is one piece of
            memory.
        height, width: Size of the view, in pixels.
        stride: Pixels to a cell; `h` is `ceil(height / stride)`.
        mirrored: Whether the view was.
    """

    scores: Tensor
    height: int
    width: int
    stride: int
    mirrored: bool = False


class NonFiniteScoresError(DrnError):
    """Scores that are NaN or infinite, which would otherwise pass for class 0.

    Args:
        image: What the network saw.
        number: Its place among the images of the batch, from 0.
    """

    def __init__(self, image: object = "an image", number: int = 0) -> None:
        super().__init__(
            f"{image}: the network's scores are not finite (NaN or infinity)",
            "the weights may be damaged, or their training diverged: use another checkpoint, or if "
            "it computes in 16 bits, precision fp32 or an export without --half",
        )
        self.image, self.number = str(image), number

    def __reduce__(self) -> tuple[type["NonFiniteScoresError"], tuple[str, int]]:  # type: ignore[override]
        return type(self), (self.image, self.number)


def check_finite(views: Iterable[Tensor]) -> None:
    """Raise NonFiniteScoresError for the first image with a score that is not finite.

    Every network's scores pass here, of all runtimes, before their classes, probabilities or
    activation maps leave the inference code. The host waits for a GPU here, once for all views of
    all images: call it when the computation of the answers has been queued.

    Args:
        views: Scores `(N, ...)` of the same N images, for each view.
    """
    # A score times 0 is NaN unless it is finite. On CPUs `isfinite` takes 30 times as long.
    total = sum((scores * 0).flatten(1).sum(1) for scores in views)
    assert isinstance(total, Tensor)
    for number, zero in enumerate(total.tolist()):
        if zero != 0:
            raise NonFiniteScoresError(number=number)


def check_classes(classes: Tensor, count: int) -> None:
    """Do the same for index maps `(N, H, W)` of `count` classes, where `drn export` marks pixels.

    From 256 classes on no value is left to mark a pixel with.
    """
    if count <= NO_CLASS and (marked := classes == NO_CLASS).any():
        raise NonFiniteScoresError(number=int(marked.nonzero()[0, 0]))


@contextmanager
def scores_of(image: object) -> Iterator[None]:
    """Name the image in a NonFiniteScoresError that the block raises."""
    try:
        yield
    except NonFiniteScoresError as error:
        raise NonFiniteScoresError(image, error.number) from None


def class_map(maps: Sequence[ViewScores], height: int, width: int) -> Tensor:
    """Find the class of each pixel of an image of which some views were seen.

    Returns:
        uint8 `(height, width)`.
    """
    device = maps[0].scores.device
    classes = torch.empty(height, width, dtype=torch.uint8, device=device)
    with _exact_products(device):
        for rows, scores in _bands(maps, height, width):
            # On CPUs `argmax` of such a map takes ten times as long as `max`, with the same answer.
            classes[rows] = scores.max(1).indices
    return classes


def class_map_and_loss(maps: Sequence[ViewScores], labels: Tensor) -> tuple[Tensor, Tensor | None]:
    """Return the class of each pixel, and the cross-entropy of the view at scale 1.

    The loss is that of logits: no class weights, no label smoothing, the image not mirrored.

    Args:
        maps: The views of an image.
        labels: Its label map, uint8 `(H, W)`; what is no class of the network does not count.

    Returns:
        uint8 `(H, W)` as `class_map`, and float64 `(2,)`: the sum of the loss and the number of
        pixels; None if no view is at scale 1.
    """
    height, width = labels.shape
    plain = [one for one in maps if (one.height, one.width) == (height, width) and not one.mirrored]
    if len(maps) > 1 or not plain:
        classes = class_map(maps, height, width)
    else:
        classes = torch.empty_like(labels)
    if not plain:
        return classes, None
    count = plain[0].scores.shape[1]
    total = torch.zeros(2, dtype=torch.float64, device=labels.device)
    with _exact_products(labels.device):
        for rows, scores in _bands(plain[:1], height, width):
            highest, indices = scores.max(1)
            if len(maps) == 1:
                classes[rows] = indices
            target = labels[rows]
            valid = target < count
            true = scores.gather(1, (target * valid).long()[:, None])[:, 0] - highest
            losses = scores.sub_(highest[:, None]).exp_().sum(1).log_().sub_(true).mul_(valid)
            # In float32: a band is short, and the sum over bands is in float64.
            total += torch.stack([losses.sum(), valid.sum()])
    return classes, total


def probabilities(maps: Sequence[ViewScores], height: int, width: int) -> Tensor:
    """Give the probability of each class in each pixel: the softmax of the mean of the views.

    Its highest class is that of `class_map`.

    Returns:
        float32 `(C, height, width)`.
    """
    first = maps[0].scores
    whole = first.new_empty(first.shape[1], height, width)
    with _exact_products(first.device):
        for rows, scores in _bands(maps, height, width):
            whole[:, rows] = scores.div_(len(maps)).softmax(1).transpose(0, 1)
    return whole


@contextmanager
def _exact_products(device: torch.device) -> Iterator[None]:
    """Keep a GPU from rounding the factors of products, as training may let it."""
    before = torch.get_float32_matmul_precision()
    if device.type == "cuda":
        torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        if device.type == "cuda":
            torch.set_float32_matmul_precision(before)


def _bands(maps: Sequence[ViewScores], height: int, width: int) -> Iterator[tuple[slice, Tensor]]:
    """Give the sum of the views' scores, `(B, C, width)`, for some rows after the other."""
    classes, device = maps[0].scores.shape[1], maps[0].scores.device
    rows = max(1, BAND[device.type] // (4 * classes * width))
    vertical = [_axis(height, m.height, m.stride, False, rows, device) for m in maps]
    horizontal = [_axis(width, m.width, m.stride, m.mirrored, COLUMNS, device) for m in maps]
    for number, top in enumerate(range(0, height, rows)):
        total = maps[0].scores.new_zeros(min(rows, height - top), classes, width)
        pixels = total.view(-1, width)
        for m, along_rows, along_columns in zip(maps, vertical, horizontal, strict=True):
            first, weights = along_rows[number]
            band = m.scores[first : first + weights.shape[1]]
            grown = (weights @ band.flatten(1)).view(len(pixels), -1)
            for place, (left, weights) in enumerate(along_columns):
                cells = grown[:, left : left + weights.shape[1]]
                block = pixels[:, place * COLUMNS : place * COLUMNS + len(weights)]
                block.addmm_(cells, weights.mT)
        yield slice(top, top + rows), total


@lru_cache(maxsize=128)
def _axis(
    pixels: int, seen: int, stride: int, mirrored: bool, at_once: int, device: torch.device
) -> list[Block]:
    """Give the weights with which cells make up pixels, for so many pixels at once.

    Args:
        pixels: Length of the image.
        seen: Length of the view.
        stride: Pixels of the view to a cell.
        mirrored: Whether the view was.
        at_once: Pixels to a block.
        device: Where the weights are needed.
    """
    cells, weights = _taps(pixels, seen, stride)
    if mirrored:
        cells, weights = cells[::-1], weights[::-1]
    blocks = []
    for start in range(0, pixels, at_once):
        near, share = cells[start : start + at_once], weights[start : start + at_once]
        used = near[share > 0]
        first, last = int(used.min()), int(used.max())
        block = np.zeros((len(near), last - first + 1))
        here = share > 0
        lines = np.broadcast_to(np.arange(len(near))[:, None], near.shape)
        np.add.at(block, (lines[here], near[here] - first), share[here])
        blocks.append((first, torch.from_numpy(block.astype(np.float32)).to(device)))
    return blocks


def _taps(
    pixels: int, seen: int, stride: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    """Give the cells that each pixel is made of, and their weights; unused ones weigh 0.

    Resizing is Pillow's: a triangle as wide as two pixels of the coarser of image and view, its
    weights brought to a sum of 1. Bringing up by the stride is bilinear between the centres of
    cells, with zeros around the map (see `drn_cli.networks.models.upsample`).

    Shapes: `(pixels, taps)` both.
    """
    ratio = seen / pixels
    reach = max(ratio, 1.0)
    centre = (np.arange(pixels) + 0.5) * ratio
    first = np.floor(centre - reach + 0.5).astype(np.int64)
    near = first[:, None] + np.arange(int(np.ceil(2 * reach)) + 1)
    share = np.maximum(0, 1 - np.abs(near + 0.5 - centre[:, None]) / reach)
    share[(near < 0) | (near >= seen)] = 0
    share /= share.sum(axis=1, keepdims=True)
    place = (near + 0.5) / stride - 0.5
    below = np.floor(place).astype(np.int64)
    above = place - below
    cells = np.concatenate([below, below + 1], axis=1)
    weights = np.concatenate([share * (1 - above), share * above], axis=1)
    weights[(cells < 0) | (cells >= -(-seen // stride))] = 0
    return cells, weights

"""Class ids, probabilities and loss of each pixel from scores at 1/8 resolution, in bands of rows.

A network's scores are upsampled by its stride, and those of a view of another size are resized to
the image, bilinearly with anti-aliasing. Both operations are linear and separable, so they are
combined into one matrix per axis, with a few weights for each row and column of the image. Only the
result has the size of the image, and a band fits into the CPU's caches.

The log-probabilities of several views are summed (see `drn_cli.inference.views`). Log-softmax
subtracts the same number from all scores of a pixel, also after resizing and summing, so neither
the argmax nor the softmax of the sum depends on it. Therefore scores are summed instead.
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

BAND = {"cpu": 1 << 20, "cuda": 1 << 28}  # bytes of scores per band
NO_CLASS = 255  # in class maps of exported networks: a score of the pixel is not finite
COLUMNS = 256  # per matrix product: a column depends on nearby cells only

Block = tuple[int, Tensor]  # first cell, and weights (pixels, cells)


@dataclass(frozen=True, slots=True)
class ViewScores:
    """Scores of one view of an image: the image at a scale, possibly flipped."""

    scores: Tensor  # logits or log-probabilities, float32 `(h, C, w)`: a row of cells is contiguous
    height: int  # size of the view, in pixels
    width: int
    stride: int  # output stride of the network; `h` is `ceil(height / stride)`
    mirrored: bool = False  # whether the view is flipped horizontally


class NonFiniteScoresError(DrnError):
    """Scores are NaN or infinite. Without this check the pixels would get class 0.

    Args:
        image: Name of the image.
        number: Index of the image in the batch.
    """

    def __init__(self, image: object = "an image", number: int = 0) -> None:
        super().__init__(
            f"{image}: the network's scores are not finite (NaN or infinity)",
            "the weights are damaged, training diverged, or 16 bits overflow: use another "
            "checkpoint, precision fp32, or an export without --half",
        )
        self.image, self.number = str(image), number

    def __reduce__(self) -> tuple[type["NonFiniteScoresError"], tuple[str, int]]:  # type: ignore[override]
        return type(self), (self.image, self.number)


def check_finite(views: Iterable[Tensor]) -> None:
    """Raise NonFiniteScoresError for the first image with a score that is not finite.

    Every result of the inference package passes this check, for all runtimes. It synchronizes with
    the GPU: call it once for all views, after the computation of the results has been queued.

    Args:
        views: Scores `(N, ...)` of each view of the same N images.
    """
    # A score times 0 is NaN unless it is finite. On CPUs `isfinite` takes 30 times as long.
    total = sum((scores * 0).flatten(1).sum(1) for scores in views)
    assert isinstance(total, Tensor)
    for number, zero in enumerate(total.tolist()):
        if zero != 0:
            raise NonFiniteScoresError(number=number)


def check_classes(classes: Tensor, count: int) -> None:
    """Raise NonFiniteScoresError for class maps `(N, H, W)` of an exported network.

    Pixels with non-finite scores have the value 255 there, except with 256 classes (`count`),
    which use all values of uint8.
    """
    if count <= NO_CLASS and (marked := classes == NO_CLASS).any():
        raise NonFiniteScoresError(number=int(marked.nonzero()[0, 0]))


@contextmanager
def name_in_errors(image: object) -> Iterator[None]:
    """Set the image of a NonFiniteScoresError raised in the block."""
    try:
        yield
    except NonFiniteScoresError as error:
        raise NonFiniteScoresError(image, error.number) from None


def argmax_classes(maps: Sequence[ViewScores], height: int, width: int) -> Tensor:
    """Return the class id of each pixel from the views of an image, uint8 `(height, width)`."""
    device = maps[0].scores.device
    classes = torch.empty(height, width, dtype=torch.uint8, device=device)
    with _exact_products(device):
        for rows, scores in _bands(maps, height, width):
            # On CPUs `argmax` over this axis takes ten times as long as `max`.
            classes[rows] = scores.max(1).indices
    return classes


def argmax_and_loss(maps: Sequence[ViewScores], labels: Tensor) -> tuple[Tensor, Tensor | None]:
    """Return the class id of each pixel, and the cross-entropy of the unflipped view at scale 1.

    The loss has no class weights and no label smoothing.

    Args:
        maps: The views of an image.
        labels: Label map of the image, uint8 `(H, W)`; ids that are not classes are ignored.

    Returns:
        uint8 `(H, W)` as from `argmax_classes`, and float64 `(2,)`: the sum of the loss and the
        number of its pixels; None without a view at scale 1.
    """
    height, width = labels.shape
    plain = [one for one in maps if (one.height, one.width) == (height, width) and not one.mirrored]
    if len(maps) > 1 or not plain:
        classes = argmax_classes(maps, height, width)
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
            # float32 suffices within a band; bands are summed in float64.
            total += torch.stack([losses.sum(), valid.sum()])
    return classes, total


def probabilities(maps: Sequence[ViewScores], height: int, width: int) -> Tensor:
    """Return the class probabilities of each pixel, float32 `(C, height, width)`.

    They are the softmax of the mean of the views; their argmax is that of `argmax_classes`.
    """
    first = maps[0].scores
    result = first.new_empty(first.shape[1], height, width)
    with _exact_products(first.device):
        for rows, scores in _bands(maps, height, width):
            result[:, rows] = scores.div_(len(maps)).softmax(1).transpose(0, 1)
    return result


@contextmanager
def _exact_products(device: torch.device) -> Iterator[None]:
    """Disable TF32 matrix products on GPUs, which training may have enabled."""
    before = torch.get_float32_matmul_precision()
    if device.type == "cuda":
        torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        if device.type == "cuda":
            torch.set_float32_matmul_precision(before)


def _bands(maps: Sequence[ViewScores], height: int, width: int) -> Iterator[tuple[slice, Tensor]]:
    """Yield bands of rows with the sum of the views' scores, `(rows, C, width)`."""
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
            resized = (weights @ band.flatten(1)).view(len(pixels), -1)
            for block_number, (left, weights) in enumerate(along_columns):
                cells = resized[:, left : left + weights.shape[1]]
                start = block_number * COLUMNS
                block = pixels[:, start : start + len(weights)]
                block.addmm_(cells, weights.mT)
        yield slice(top, top + rows), total


@lru_cache(maxsize=128)
def _axis(
    pixels: int, view: int, stride: int, mirrored: bool, block_size: int, device: torch.device
) -> list[Block]:
    """Return the matrix that resizes cells to pixels along an axis, in blocks of pixels.

    Args:
        pixels: Length of the image.
        view: Length of the view.
        stride: Output stride: pixels of the view per cell.
        mirrored: Whether the view is flipped along this axis.
        block_size: Pixels per block.
        device: Device of the weights.
    """
    cells, weights = _taps(pixels, view, stride)
    if mirrored:
        cells, weights = cells[::-1], weights[::-1]
    blocks = []
    for start in range(0, pixels, block_size):
        near, share = cells[start : start + block_size], weights[start : start + block_size]
        used = share > 0
        first, last = int(near[used].min()), int(near[used].max())
        block = np.zeros((len(near), last - first + 1))
        rows = np.broadcast_to(np.arange(len(near))[:, None], near.shape)
        np.add.at(block, (rows[used], near[used] - first), share[used])
        blocks.append((first, torch.from_numpy(block.astype(np.float32)).to(device)))
    return blocks


def _taps(
    pixels: int, view: int, stride: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    """Return the cells that contribute to each pixel, and their weights; unused taps weigh 0.

    Resizing is that of Pillow: a triangle filter, two pixels of the coarser of image and view wide,
    with weights that sum to 1. Upsampling by the stride is bilinear between the centers of the
    cells, with zeros around the map (see `drn_cli.networks.models.upsample`).

    Shapes: `(pixels, taps)` both.
    """
    ratio = view / pixels
    reach = max(ratio, 1.0)
    center = (np.arange(pixels) + 0.5) * ratio
    first = np.floor(center - reach + 0.5).astype(np.int64)
    near = first[:, None] + np.arange(int(np.ceil(2 * reach)) + 1)
    share = np.maximum(0, 1 - np.abs(near + 0.5 - center[:, None]) / reach)
    share[(near < 0) | (near >= view)] = 0
    share /= share.sum(axis=1, keepdims=True)
    position = (near + 0.5) / stride - 0.5
    below = np.floor(position).astype(np.int64)
    above = position - below
    cells = np.concatenate([below, below + 1], axis=1)
    weights = np.concatenate([share * (1 - above), share * above], axis=1)
    weights[(cells < 0) | (cells >= -(-view // stride))] = 0
    return cells, weights

"""Top-1 and top-5 accuracy of a classifier on labeled images."""

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from drn_cli.data.batches import Batch, on_device
from drn_cli.data.class_folders import ClassSample
from drn_cli.data.classification import ClassificationTestSet
from drn_cli.distributed.group import Group
from drn_cli.errors import DrnError
from drn_cli.evaluation.segmentation import gather_failures, mean_loss
from drn_cli.inference.classifier import ClassificationPredictor, topk
from drn_cli.inference.reading import default_concurrency, map_in_threads
from drn_cli.inference.score_maps import NonFiniteScoresError

SHOWN = 5  # most probable classes kept of each image
FAILED = -1  # target of an image that cannot be scored
GPU_BATCH = 64  # crops per batch on a GPU
# Images are decoded in threads: they share memory and start without delay at every validation.
# Decoding and resizing release the GIL, which is held for about a twentieth of the time.
MAX_READERS = 16


@dataclass(frozen=True, slots=True)
class ImageRanking:
    """Ranking of the classes of one image."""

    number: int  # index in the list of images
    image: str  # path of the image
    target: int  # true class
    rank: int  # rank of the true class, from 1
    best: tuple[int, ...]  # the most probable classes, at most five, best first
    probabilities: tuple[float, ...]  # their probabilities


def worst_images(images: Sequence[ImageRanking]) -> list[ImageRanking]:
    """Sort images by decreasing rank of their true class.

    Of equal ranks, wrong predictions come by decreasing confidence, right ones by increasing.
    """

    def order(one: ImageRanking) -> tuple[float, float, int]:
        confidence = one.probabilities[0]
        return -one.rank, confidence if one.rank == 1 else -confidence, one.number

    return sorted(images, key=order)


@dataclass(frozen=True, slots=True)
class TopKScores:
    """Accuracy of a classifier over a set of images."""

    top1: float  # fraction of the images whose true class ranks first; the top-1 error is 1 - top1
    top5: float  # fraction of the images whose true class is among the first five
    images: int  # number of images scored
    # Ranking of each image in the order of the list, if requested
    per_image: tuple[ImageRanking, ...] = ()
    failed: tuple[Mapping[str, str], ...] = ()  # images that could not be scored, with their errors
    loss: float | None = None  # mean cross-entropy, if requested

    def to_json(self) -> dict[str, Any]:
        loss = {} if self.loss is None else {"loss": self.loss}
        return {"images": self.images, **loss, "top1": self.top1, "top5": self.top5}


class BatchRanking(NamedTuple):
    """Rankings of a batch: ranks of the true classes from 1, best classes, probabilities, losses.

    A failed image has rank 0 and loss 0.

    Shapes: int64 `(N,)`, int64 `(N, K)`, float64 `(N, K)` and `(N,)`, where K is 5, or the number
    of classes if that is smaller.
    """

    rank: Tensor
    best: Tensor
    probabilities: Tensor
    loss: Tensor


def score(
    classifier: ClassificationPredictor,
    samples: Sequence[ClassSample],
    group: Group,
    *,
    per_image: bool = False,
    partial: bool = False,
    loss: bool = False,
    step: Callable[[], object] = lambda: None,
    stop: Callable[[], bool] = lambda: False,
) -> TopKScores | None:
    """Classify each image once and compare the result with its class.

    Images are sharded over the processes without padding, and counts are summed. On CPUs each image
    is computed on its own in a single thread, so the scores do not depend on the number of
    processes; on GPUs batches depend on it, and with them rounding.

    Args:
        classifier: The network with its settings.
        samples: All images, at least one, in every process; `target` is a class of the network.
        group: The processes.
        per_image: Whether to return the ranking of each image.
        partial: Whether to skip images that fail.
        loss: Whether to compute the cross-entropy.
        step: Called after each image of this process.
        stop: Polled after each batch; True in any process stops all of them.

    Returns:
        The scores, or None if stopped.

    Raises:
        NonFiniteScoresError: A logit of an image is NaN or infinite.
        DrnError: An image cannot be read (with `partial`: none can), or its class is not one of
            the network's.
    """
    mine = group.shard(samples)
    dataset = ClassificationTestSet(mine, classifier.view, classifier.crop, classifier.resize)
    last = max(samples, key=lambda sample: sample.target)
    unread: dict[int, DrnError] | None = {} if partial else None

    def rank(batch: Batch) -> BatchRanking:
        images = batch.images if classifier.view == "10-crop" else batch.images[:, None]
        try:
            scores = classifier.log_probabilities(images)
        except NonFiniteScoresError as error:
            if not partial or batch.labels[error.number] == FAILED:
                raise
            images[error.number], batch.labels[error.number] = 0, FAILED
            return rank(batch)
        if last.target >= scores.shape[1]:
            raise DrnError(
                f"{last.image}: class {last.target} is out of range: the network has "
                f"{scores.shape[1]} classes, 0 to {scores.shape[1] - 1}"
            )
        return rank_classes(scores, batch.labels)

    counts = torch.zeros(2, dtype=torch.int64, device=group.device)
    rankings: list[BatchRanking] = []
    losses: list[Tensor] = []
    failed: list[tuple[int, str, str]] = []
    stopped = False
    numbers, seen = group.shard(range(len(samples))), 0
    for part in _naming(_parts(rank, dataset, classifier, group.device, unread), mine):
        scored = part.rank > 0
        counts += torch.stack([(part.rank == 1).sum(), (scored & (part.rank <= 5)).sum()])
        if unread is not None:
            for index in (~scored).nonzero().flatten().add(seen).tolist():
                error = unread.get(index) or NonFiniteScoresError(mine[index].image)
                failed.append((numbers[index], str(mine[index].image), str(error)))
        seen += len(scored)
        if loss:
            losses.append(torch.stack([part.loss, scored], dim=1))
        if per_image:
            rankings.append(part)
        for _ in range(len(part.rank)):
            step()
        if stopped := stop():
            break
    if group.any(stopped):
        return None
    top1, top5 = group.sum(counts).tolist()
    gathered = group.gather_objects(list(_rankings(rankings, samples, group)))
    ordered = sorted((one for part in gathered for one in part), key=lambda one: one.number)
    lost = gather_failures(failed, len(samples), group)
    count = len(samples) - len(lost)
    mean = mean_loss(torch.cat(losses).tolist() if losses else [], group)
    return TopKScores(top1 / count, top5 / count, count, tuple(ordered), lost, mean)


def rank_classes(log_probabilities: Tensor, targets: Tensor) -> BatchRanking:
    """Rank the classes of each image.

    Args:
        log_probabilities: `(N, classes)`.
        targets: True classes or `FAILED`, int64 `(N,)`, on the same device.
    """
    order = topk(log_probabilities, log_probabilities.shape[1])
    valid = targets != FAILED
    rank = ((order == targets[:, None]).int().argmax(1) + 1) * valid
    best = order[:, :SHOWN]
    loss = -log_probabilities.gather(1, (targets * valid)[:, None])[:, 0] * valid
    return BatchRanking(rank, best, log_probabilities.gather(1, best).exp(), loss)


def _rankings(
    parts: Sequence[BatchRanking], samples: Sequence[ClassSample], group: Group
) -> Iterator[ImageRanking]:
    """Yield the ranking of each image of this process's shard that did not fail."""
    numbers = iter(group.shard(range(len(samples))))
    for part in parts:
        rows = zip(*(column.tolist() for column in part), strict=True)
        for (rank, best, probabilities, _), number in zip(rows, numbers, strict=False):
            image, target = str(samples[number].image), samples[number].target
            if rank:
                yield ImageRanking(number, image, target, rank, tuple(best), tuple(probabilities))


def _naming(
    parts: Iterable[BatchRanking], samples: Sequence[ClassSample]
) -> Iterator[BatchRanking]:
    """Add the image's path to a NonFiniteScoresError."""
    seen = 0
    try:
        for part in parts:
            yield part
            seen += len(part.rank)
    except NonFiniteScoresError as error:
        raise NonFiniteScoresError(samples[seen + error.number].image) from None


def _parts(
    rank: Callable[[Batch], BatchRanking],
    dataset: ClassificationTestSet,
    classifier: ClassificationPredictor,
    device: torch.device,
    unread: dict[int, DrnError] | None,
) -> Iterable[BatchRanking]:
    """Rank images concurrently, one per CPU thread, or in batches on a GPU."""
    if device.type == "cpu":
        threads = default_concurrency(device)
        return map_in_threads(
            lambda index: rank(_read(dataset, unread, [index])), range(len(dataset)), threads
        )
    size = GPU_BATCH if classifier.view == "1-crop" else GPU_BATCH // 10
    return batched(rank, dataset, size, device, unread)


def batched(
    rank: Callable[[Batch], BatchRanking],
    dataset: ClassificationTestSet,
    size: int,
    device: torch.device,
    unread: dict[int, DrnError] | None = None,
) -> Iterator[BatchRanking]:
    """Rank images in batches of a size, which threads read ahead while the GPU computes.

    Errors of images that cannot be read go to `unread`, by index, and the target of those images
    becomes `FAILED`; without `unread` they are raised.
    """
    indices = range(len(dataset))
    parts = [indices[start : start + size] for start in indices[::size]]
    cores = len(os.sched_getaffinity(0)) // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    read = partial(_read, dataset, unread)
    batches = map_in_threads(read, parts, max(1, min(cores, MAX_READERS)))
    if device.type == "cuda":
        # Not in the reading threads: their current device is the first GPU.
        batches = (Batch(*(part.pin_memory() for part in batch)) for batch in batches)
    for batch in on_device(batches, device):
        yield rank(batch)


def _read(
    dataset: ClassificationTestSet, unread: dict[int, DrnError] | None, indices: Sequence[int]
) -> Batch:
    """Read a batch: uint8 `(N, S, S, 3)` or `(N, 10, S, S, 3)`, and targets `(N,)`."""
    images, targets = [], []
    for index in indices:
        item = dataset[index]
        if isinstance(item, DrnError):
            if unread is None:
                raise item
            unread[index] = item
            item = dataset.blank(), FAILED
        images.append(item[0])
        targets.append(item[1])
    return Batch(torch.from_numpy(np.stack(images)), torch.tensor(targets))

"""Score a classifier on labelled images."""

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

SHOWN = 5  # classes that are kept of an image
FAILED = -1  # stands for the class of an image that cannot be scored
GPU_BATCH = 64  # crops that a GPU takes at once
# Readers are threads, which share memory and start at once, at every validation. They keep up
# because decoding and resizing release Python's lock, which is held for a twentieth of the work.
MOST_READERS = 16


@dataclass(frozen=True, slots=True)
class ImageRanking:
    """How a classifier ranked the classes of one image.

    Attributes:
        number: Its place in the list of images, from 0.
        image: The image.
        target: Its class.
        rank: At which place its class came, from 1.
        best: The first classes, at most five.
        probabilities: Theirs.
    """

    number: int
    image: str
    target: int
    rank: int
    best: tuple[int, ...]
    probabilities: tuple[float, ...]


def worst_images(images: Sequence[ImageRanking]) -> list[ImageRanking]:
    """Order images: those whose class came last come first.

    Of wrong ones at the same place those that were surest come first, of right ones last.
    """

    def order(one: ImageRanking) -> tuple[float, float, int]:
        sure = one.probabilities[0]
        return -one.rank, sure if one.rank == 1 else -sure, one.number

    return sorted(images, key=order)


@dataclass(frozen=True, slots=True)
class TopKScores:
    """How often a classifier was right, over a whole set of images.

    Attributes:
        top1: Share of the images whose class came first, a fraction of 1. The error is 1 - that.
        top5: Share of those whose class was among the first five.
        images: Number of images.
        per_image: Each of them, in their order, where that was asked for.
        failed: Images that could not be scored, with their errors.
        loss: Mean cross-entropy of the images, where that was asked for.
    """

    top1: float
    top5: float
    images: int
    per_image: tuple[ImageRanking, ...] = ()
    failed: tuple[Mapping[str, str], ...] = ()
    loss: float | None = None

    def to_json(self) -> dict[str, Any]:
        """Give the scores ready for JSON."""
        loss = {} if self.loss is None else {"loss": self.loss}
        return {"images": self.images, **loss, "top1": self.top1, "top5": self.top5}


class BatchRanking(NamedTuple):
    """Some images: ranks of their classes from 1, the first classes, their probabilities, losses.

    An image that failed has rank 0 and loss 0.

    Shapes: int64 `(N,)`, int64 `(N, 5)`, float64 `(N, 5)` and `(N,)`; fewer than 5 for fewer
    classes.
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
    """Classify every image once, and compare.

    Each process takes its share and the counts are added up: nothing is padded or counted twice.
    On CPUs each image is computed alone in a single thread, so that the scores do not depend on
    how many processes there are; on GPUs the batches do, and with them how sums are rounded.

    Args:
        classifier: The network with its settings.
        samples: All of them, at least one, in every process; `target` counts the network's classes.
        group: The processes.
        per_image: Whether the ranking of each image is wanted too.
        partial: Whether the others are scored where an image fails.
        loss: Whether the cross-entropy is wanted too.
        step: Called after each image of this process.
        stop: Asked now and then; where it says so in any process, all give up.

    Returns:
        The scores; None if it was given up.

    Raises:
        NonFiniteScoresError: A logit of an image is NaN or infinite.
        DrnError: An image cannot be read (with `partial`, all of them), or is of a class that the
            network does not have.
    """
    mine = group.shard(samples)
    dataset = ClassificationTestSet(mine, classifier.view, classifier.crop, classifier.resize)
    last = max(samples, key=lambda sample: sample.target)
    unread: dict[int, DrnError] | None = {} if partial else None

    def look(batch: Batch) -> BatchRanking:
        images = batch.images if classifier.view == "10-crop" else batch.images[:, None]
        try:
            scores = classifier.log_probabilities(images)
        except NonFiniteScoresError as error:
            if not partial or batch.labels[error.number] == FAILED:
                raise
            images[error.number], batch.labels[error.number] = 0, FAILED
            return look(batch)
        if last.target >= scores.shape[1]:
            raise DrnError(
                f"{last.image}: is of class {last.target}; the network has {scores.shape[1]} "
                "classes, counted from 0"
            )
        return rank_classes(scores, batch.labels)

    counts = torch.zeros(2, dtype=torch.int64, device=group.device)
    rankings: list[BatchRanking] = []
    losses: list[Tensor] = []
    failed: list[tuple[int, str, str]] = []
    stopped = False
    numbers, seen = group.shard(range(len(samples))), 0
    for part in _naming(_parts(look, dataset, classifier, group.device, unread), mine):
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
    """Rank the classes of images.

    Args:
        log_probabilities: `(N, classes)`.
        targets: Classes, int64 `(N,)`, on the same device.
    """
    order = topk(log_probabilities, log_probabilities.shape[1])
    rank = ((order == targets[:, None]).int().argmax(1) + 1) * (targets != FAILED)
    best = order[:, :SHOWN]
    valid = targets != FAILED
    loss = -log_probabilities.gather(1, (targets * valid)[:, None])[:, 0] * valid
    return BatchRanking(rank, best, log_probabilities.gather(1, best).exp(), loss)


def _rankings(
    parts: Sequence[BatchRanking], samples: Sequence[ClassSample], group: Group
) -> Iterator[ImageRanking]:
    """Put what was found of this process's images beside their names."""
    numbers = iter(group.shard(range(len(samples))))
    for part in parts:
        rows = zip(*(column.tolist() for column in part), strict=True)
        for (rank, best, likely, _), number in zip(rows, numbers, strict=False):
            image, target = str(samples[number].image), samples[number].target
            if rank:
                yield ImageRanking(number, image, target, rank, tuple(best), tuple(likely))


def _naming(
    parts: Iterable[BatchRanking], samples: Sequence[ClassSample]
) -> Iterator[BatchRanking]:
    """Name the image in a NonFiniteScoresError that the next part raises."""
    seen = 0
    try:
        for part in parts:
            yield part
            seen += len(part.rank)
    except NonFiniteScoresError as error:
        raise NonFiniteScoresError(samples[seen + error.number].image) from None


def _parts(
    look: Callable[[Batch], BatchRanking],
    dataset: ClassificationTestSet,
    classifier: ClassificationPredictor,
    device: torch.device,
    unread: dict[int, DrnError] | None,
) -> Iterable[BatchRanking]:
    """Work on as many images as there are threads, each in a single one; a GPU on batches."""
    if device.type == "cpu":
        threads = default_concurrency(device)
        return map_in_threads(
            lambda index: look(_read(dataset, unread, [index])), range(len(dataset)), threads
        )
    at_once = GPU_BATCH if classifier.view == "1-crop" else GPU_BATCH // 10
    return batched(look, dataset, at_once, device, unread)


def batched(
    look: Callable[[Batch], BatchRanking],
    dataset: ClassificationTestSet,
    at_once: int,
    device: torch.device,
    unread: dict[int, DrnError] | None = None,
) -> Iterator[BatchRanking]:
    """Read batches, several at the same time, while the GPU works on those before.

    Images that cannot be read go to `unread`, by their numbers, with class `FAILED` in the batch;
    without it they are errors.
    """
    whole = range(len(dataset))
    parts = [whole[start : start + at_once] for start in whole[::at_once]]
    cores = len(os.sched_getaffinity(0)) // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    read = partial(_read, dataset, unread)
    batches = map_in_threads(read, parts, max(1, min(cores, MOST_READERS)))
    if device.type == "cuda":
        # Here, and not in a reading thread, for which the first GPU would be the current one.
        batches = (Batch(*(part.pin_memory() for part in batch)) for batch in batches)
    for batch in on_device(batches, device):
        yield look(batch)


def _read(
    dataset: ClassificationTestSet, unread: dict[int, DrnError] | None, indices: Sequence[int]
) -> Batch:
    """Read a batch: uint8 `(N, S, S, 3)` or `(N, 10, S, S, 3)`, and classes `(N,)`."""
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

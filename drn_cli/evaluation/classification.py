"""Score a classifier on labelled pictures."""

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from drn_cli.data.batches import Batch, normalise, on_device
from drn_cli.data.class_folders import ClassSample
from drn_cli.data.classification import ClassificationTestSet, View
from drn_cli.data.folders import Statistics
from drn_cli.distributed.group import Group
from drn_cli.errors import DrnError
from drn_cli.inference.reading import one_thread_each

Network = Callable[[Tensor], Tensor]  # (N, 3, S, S) to logits (N, classes)

GPU_BATCH = 64  # crops that a GPU takes at once
# Readers are threads, which share memory and start at once, at every validation. They keep up
# because decoding and resizing release Python's lock, which is held for a twentieth of the work.
MOST_READERS = 16
MOST_NETWORKS = 8  # that work at once on a CPU; each holds the activations of a picture


@dataclass(frozen=True, slots=True)
class TopScores:
    """How often a classifier was right, over a whole set of pictures.

    Attributes:
        top1: Share of the pictures whose class came first, a fraction of 1. The error is 1 - that.
        top5: Share of those whose class was among the first five.
        images: Number of pictures.
    """

    top1: float
    top5: float
    images: int

    def to_json(self) -> dict[str, Any]:
        """Give the scores ready for JSON."""
        return {"images": self.images, "top1": self.top1, "top5": self.top5}


def score(
    network: Network,
    samples: Sequence[ClassSample],
    group: Group,
    *,
    statistics: Statistics,
    crop: int = 224,
    resize: int = 256,
    view: View = "1-crop",
    precision: torch.dtype | None = None,
    step: Callable[[], object] = lambda: None,
    stop: Callable[[], bool] = lambda: False,
) -> TopScores | None:
    """Classify every picture once, and compare.

    Each process takes its share and the counts are added up: nothing is padded or counted twice.
    On CPUs each picture is computed alone in a single thread, so that the scores do not depend on
    how many processes there are; on GPUs the batches do, and with them how sums are rounded.

    Args:
        network: In evaluation mode, from normalised crops `(N, 3, crop, crop)` to logits
            `(N, classes)`.
        samples: All of them, at least one, in every process.
        group: The processes.
        statistics: Mean and standard deviation that the network was trained with.
        crop: Side of a crop, in pixels.
        resize: What the shorter side of each picture is brought to before, in pixels.
        view: `1-crop`, or `10-crop`, where the probabilities of ten crops are averaged.
        precision: Type that autocast computes in; None is no autocast.
        step: Called after each picture of this process.
        stop: Asked now and then; where it says so in any process, all give up.

    Returns:
        The scores; None if it was given up.

    Raises:
        DrnError: A picture cannot be read, or is of a class that the network does not have.
    """
    dataset = ClassificationTestSet(group.share(samples), view, crop, resize)
    last = max(samples, key=lambda sample: sample.target)

    @torch.inference_mode()
    def count(batch: Batch) -> Tensor:
        images = normalise(batch.images.flatten(0, -4), statistics)  # ten crops are ten pictures
        with torch.autocast(group.device.type, precision, enabled=precision is not None):
            logits = network(images)
        if last.target >= logits.shape[1]:
            raise DrnError(
                f"{last.image}: is of class {last.target}; the network has {logits.shape[1]} "
                "classes, counted from 0"
            )
        return right(logits.view(len(batch.labels), -1, logits.shape[1]), batch.labels)

    counts = torch.zeros(2, dtype=torch.int64, device=group.device)
    if group.device.type == "cpu":
        results = _one_by_one(count, dataset)
    else:
        at_once = GPU_BATCH if view == "1-crop" else GPU_BATCH // 10
        results = in_batches(count, dataset, at_once, group.device)
    stopped = False
    for hits, pictures in results:
        counts += hits
        for _ in range(pictures):
            step()
        if stopped := stop():
            break
    if group.any(stopped):
        return None
    top1, top5 = group.sum(counts).tolist()
    return TopScores(top1 / len(samples), top5 / len(samples), len(samples))


def right(logits: Tensor, targets: Tensor) -> Tensor:
    """Count the pictures whose class comes first, and those where it is among the first five.

    The probabilities of a picture's crops are averaged. Of equal classes the one with the lower
    number comes first; where a logit is NaN nothing is right.

    Args:
        logits: `(N, crops, classes)`.
        targets: Classes, int64 `(N,)`, on the same device.

    Returns:
        int64 `(2,)`.
    """
    # In double precision, which keeps logits apart that differ; as logarithms, which keep small
    # probabilities apart that would all be 0.
    scores = logits.double().log_softmax(2).logsumexp(1)
    first = scores.sort(dim=1, descending=True, stable=True).indices[:, :5]
    hits = (first == targets[:, None]) & ~scores.isnan().any(1, keepdim=True)
    return torch.stack([hits[:, 0].sum(), hits.sum()])


def _one_by_one(
    count: Callable[[Batch], Tensor], dataset: ClassificationTestSet
) -> Iterator[tuple[Tensor, int]]:
    """Work on as many pictures as there are threads, each in a single thread."""

    def work(index: int) -> Tensor:
        return count(_read(dataset, [index]))

    threads = min(torch.get_num_threads(), MOST_NETWORKS)
    for hits in one_thread_each(work, range(len(dataset)), threads):
        yield hits, 1


def in_batches(
    count: Callable[[Batch], Tensor],
    dataset: ClassificationTestSet,
    at_once: int,
    device: torch.device,
) -> Iterator[tuple[Tensor, int]]:
    """Read batches, several at the same time, while the GPU works on those before."""
    whole = range(len(dataset))
    parts = [whole[start : start + at_once] for start in whole[::at_once]]
    cores = len(os.sched_getaffinity(0)) // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    batches = one_thread_each(partial(_read, dataset), parts, max(1, min(cores, MOST_READERS)))
    if device.type == "cuda":
        # Here, and not in a reading thread, for which the first GPU would be the current one.
        batches = (Batch(*(part.pin_memory() for part in batch)) for batch in batches)
    for batch in on_device(batches, device):
        yield count(batch), len(batch.labels)


def _read(dataset: ClassificationTestSet, indices: Sequence[int]) -> Batch:
    """Read a batch: uint8 `(N, S, S, 3)` or `(N, 10, S, S, 3)`, and classes `(N,)`."""
    images, targets = [], []
    for index in indices:
        item = dataset[index]
        if isinstance(item, DrnError):
            raise item
        images.append(item[0])
        targets.append(item[1])
    return Batch(torch.from_numpy(np.stack(images)), torch.tensor(targets))

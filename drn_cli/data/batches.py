"""From the lists to batches: which samples, in which order, read by whom.

Batches hold uint8 pixels as they were decoded; the device turns them into what the network
takes (`normalise`), which costs the reading processes nothing and moves a quarter of the bytes.
"""

import os
import signal
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from drn_cli.data.augment import Augmentation
from drn_cli.data.classes import IGNORED
from drn_cli.data.folders import Sample, Statistics
from drn_cli.data.images import Pixels, read_image, read_label
from drn_cli.errors import DrnError


class Batch(NamedTuple):
    """Pixels of a batch, on the host.

    Attributes:
        images: uint8 `(N, H, W, 3)`.
        labels: uint8 `(N, H, W)`; 255 is ignored.
    """

    images: Tensor
    labels: Tensor


class Turn(NamedTuple):
    """Which sample, in which epoch: all that its augmentation depends on, with the seed."""

    epoch: int
    sample: int


def read_pair(sample: Sample, classes: int) -> tuple[Pixels, Pixels]:
    """Read a picture and its label map.

    Shapes: `(H, W, 3)` and `(H, W)`.

    Raises:
        DrnError: One is broken, their sizes differ, or a label is neither a class nor 255.
    """
    assert sample.label is not None, "the lists were read without labels"
    image, label = read_image(sample.image), read_label(sample.label)
    if image.shape[:2] != label.shape:
        raise DrnError(
            f"{sample.label}: is {label.shape[1]}x{label.shape[0]}, "
            f"its picture {sample.image} {image.shape[1]}x{image.shape[0]}"
        )
    wrong = label[(label >= classes) & (label != IGNORED)]
    if wrong.size:
        raise DrnError(
            f"{sample.label}: {np.sum(wrong == wrong[0])} pixels have the label {wrong[0]}; "
            f"labels are 0 to {classes - 1}, or 255 for ignored",
            "are these label ids where train ids are meant, or is data.classes too small?",
        )
    return image, label


class TrainingSet(Dataset[Any]):
    """Augmented crops.

    An item that cannot be read is its error: raised in a reading process, it would reach the user
    as a page of traceback.
    """

    def __init__(
        self, samples: Sequence[Sample], classes: int, augmentation: Augmentation, seed: int
    ) -> None:
        self.samples, self.classes = samples, classes
        self.augmentation, self.seed = augmentation, seed

    def __getitem__(self, turn: Turn) -> tuple[Pixels, Pixels] | DrnError:
        try:
            image, label = read_pair(self.samples[turn.sample], self.classes)
        except DrnError as error:
            return error
        return self.augmentation.apply(
            image, label, self.augmentation.draw(self.seed, turn.epoch, turn.sample)
        )


@dataclass(frozen=True, slots=True)
class Order:
    """The order of an epoch's samples: a function of (seed, epoch), whoever reads them.

    Every global batch is cut into one contiguous part for each process; the incomplete last batch
    is dropped.
    """

    samples: int
    batch_size: int
    seed: int

    @property
    def steps(self) -> int:
        """Batches in an epoch."""
        return self.samples // self.batch_size

    def batches(self, epoch: int, rank: int, world: int, start: int = 0) -> Iterator[list[Turn]]:
        """Yield a process's part of each global batch, from step `start` on."""
        order = np.random.default_rng((self.seed, epoch)).permutation(self.samples)
        for step in range(start, self.steps):
            batch = order[step * self.batch_size : (step + 1) * self.batch_size]
            yield [Turn(epoch, int(index)) for index in np.array_split(batch, world)[rank]]


class _Steps(Sampler[list[Turn]]):
    """Hands the data loader the turns of one epoch, set before each."""

    def __init__(self) -> None:
        self.turns: list[list[Turn]] = []

    def __iter__(self) -> Iterator[list[Turn]]:
        return iter(self.turns)

    def __len__(self) -> int:
        return len(self.turns)


class TrainingBatches:
    """Reads training batches, with processes that live as long as the run."""

    def __init__(
        self, dataset: TrainingSet, order: Order, *, rank: int, world: int, workers: int, pin: bool
    ) -> None:
        self.order, self.rank, self.world = order, rank, world
        self._steps = _Steps()
        self._loader: DataLoader[Any] = DataLoader(
            dataset,
            batch_sampler=self._steps,
            num_workers=workers,
            collate_fn=_collate,
            pin_memory=pin,
            worker_init_fn=_obey_only_the_parent,
            persistent_workers=workers > 0,
            prefetch_factor=4 if workers > 0 else None,
        )

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """Yield this process's part of an epoch's batches, from step `start` on.

        Raises:
            DrnError: A picture or label of the batch cannot be used.
        """
        self._steps.turns = list(self.order.batches(epoch, self.rank, self.world, start))
        for batch in self._loader:
            if isinstance(batch, DrnError):
                break
            yield batch
        else:
            return
        # The error's traceback keeps this object; its processes should end before the program.
        del self._loader
        raise batch


def _obey_only_the_parent(_: int) -> None:
    """Ctrl-C, and a cluster's SIGTERM, reach every process; the parent ends its step first.

    The parent's own SIGTERM counts: Python ends its children so, and waits for them, at exit.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    threading.Thread(target=_end_when_the_parent_says, daemon=True).start()


def _end_when_the_parent_says() -> None:
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != os.getppid():
        pass
    os._exit(0)


def _collate(items: list[tuple[Pixels, Pixels] | DrnError]) -> Batch | DrnError:
    images, labels = [], []
    for item in items:
        if isinstance(item, DrnError):
            return item
        images.append(torch.from_numpy(item[0]))
        labels.append(torch.from_numpy(item[1]))
    return Batch(torch.stack(images), torch.stack(labels))


def normalise(images: Tensor, statistics: Statistics) -> Tensor:
    """Turn pixels into what the network takes: in 0..1, minus mean, over std.

    Shapes: uint8 `(N, H, W, 3)` in, float32 `(N, 3, H, W)` in channels-last memory out.
    """
    mean = torch.tensor(statistics.mean, device=images.device)
    std = torch.tensor(statistics.std, device=images.device)
    return images.float().div_(255).sub_(mean).div_(std).permute(0, 3, 1, 2)

"""The order in which an epoch's samples are read, and by which process."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np


class Turn(NamedTuple):
    """Which sample, in which epoch: all that its augmentation depends on, with the seed."""

    epoch: int
    sample: int


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

"""The order in which an epoch's samples are read, and by which process."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Indices = npt.NDArray[np.int64]


class SampleKey(NamedTuple):
    """Which sample, in which epoch: all that its augmentation depends on, with the seed."""

    epoch: int
    sample: int


@dataclass(frozen=True, slots=True)
class EpochSampler:
    """The order of an epoch's samples: a function of (seed, epoch), whoever reads them.

    Every global batch is cut into contiguous passes, and every pass into one contiguous part for
    each process; the incomplete last batch is dropped.
    """

    samples: int
    batch_size: int
    seed: int
    passes: int = 1

    @property
    def steps(self) -> int:
        """Batches in an epoch."""
        return self.samples // self.batch_size

    def batch(self, epoch: int, step: int) -> list[int]:
        """List the samples of one global batch."""
        return [int(index) for index in self._batch(self._permutation(epoch), step)]

    def parts(self, epoch: int, rank: int, world: int, start: int = 0) -> Iterator[list[SampleKey]]:
        """Yield a process's part of each pass of each global batch, from step `start` on."""
        permutation = self._permutation(epoch)
        for step in range(start, self.steps):
            for together in np.array_split(self._batch(permutation, step), self.passes):
                part = np.array_split(together, world)[rank]
                yield [SampleKey(epoch, index) for index in part.tolist()]

    def _permutation(self, epoch: int) -> Indices:
        return np.random.default_rng((self.seed, epoch)).permutation(self.samples)

    def _batch(self, permutation: Indices, step: int) -> Indices:
        return permutation[step * self.batch_size : (step + 1) * self.batch_size]

"""The order of samples in each epoch, and their distribution over ranks."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Indices = npt.NDArray[np.int64]


class SampleKey(NamedTuple):
    """Epoch and sample number, which together with the seed determine the augmentation."""

    epoch: int
    sample: int


@dataclass(frozen=True, slots=True)
class EpochSampler:
    """Sample order as a function of (seed, epoch), independent of ranks and workers.

    Each global batch is split into `accumulate` contiguous micro-batches, and each of these into
    one contiguous part per rank. The incomplete last batch is dropped.
    """

    samples: int
    batch_size: int
    seed: int
    accumulate: int = 1

    @property
    def steps(self) -> int:
        """Number of global batches per epoch."""
        return self.samples // self.batch_size

    def batch(self, epoch: int, step: int) -> list[int]:
        """Return the sample numbers of one global batch."""
        return [int(index) for index in self._batch(self._permutation(epoch), step)]

    def parts(
        self, epoch: int, rank: int, world: int, first_step: int = 0
    ) -> Iterator[list[SampleKey]]:
        """Yield a rank's part of each micro-batch of each global batch, from `first_step` on."""
        permutation = self._permutation(epoch)
        for step in range(first_step, self.steps):
            for micro_batch in np.array_split(self._batch(permutation, step), self.accumulate):
                part = np.array_split(micro_batch, world)[rank]
                yield [SampleKey(epoch, index) for index in part.tolist()]

    def _permutation(self, epoch: int) -> Indices:
        return np.random.default_rng((self.seed, epoch)).permutation(self.samples)

    def _batch(self, permutation: Indices, step: int) -> Indices:
        return permutation[step * self.batch_size : (step + 1) * self.batch_size]

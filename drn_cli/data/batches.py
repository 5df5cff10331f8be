"""From samples to batches: read by processes of their own, handed to the device.

Batches hold uint8 pixels as they were decoded; the device turns them into what the network
takes (`normalise`), which costs the reading processes nothing and moves a quarter of the bytes.
"""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler, get_worker_info

from drn_cli.data.augment import Augmentation
from drn_cli.data.cache import DecodedCache
from drn_cli.data.decoding import read_pair
from drn_cli.data.folders import ChannelStats, Sample
from drn_cli.data.images import Pixels
from drn_cli.data.order import EpochSampler, SampleKey
from drn_cli.data.readers import ignore_signals_in_worker, raise_open_file_limit, wrap_worker_errors
from drn_cli.errors import DrnError


class Batch(NamedTuple):
    """A batch as it was read.

    Attributes:
        images: uint8 `(N, H, W, 3)`.
        labels: uint8 `(N, H, W)`, where 255 is ignored; for classification int64 `(N,)`.
    """

    images: Tensor
    labels: Tensor


class TrainDataset(Dataset[Any]):
    """Augmented crops.

    An item that cannot be read is its error: raised in a reading process, it would reach the user
    as a page of traceback.
    """

    def __init__(
        self,
        samples: Sequence[Sample],
        classes: int,
        augmentation: Augmentation,
        seed: int,
        cache: DecodedCache | None = None,
    ) -> None:
        self.samples, self.classes = samples, classes
        self.augmentation, self.seed = augmentation, seed
        self.read = read_pair if cache is None else cache.read

    def __getitem__(self, turn: SampleKey) -> tuple[Pixels, Pixels] | DrnError:
        sample = self.samples[turn.sample]
        draw = self.augmentation.draw(self.seed, turn.epoch, turn.sample)
        try:
            return self.augmentation.apply(*self.read(sample, self.classes), draw)
        except DrnError as error:
            return error


class BatchSampler(Sampler[list[SampleKey]]):
    """Hands the data loader the turns of one epoch, set before each."""

    def __init__(self) -> None:
        self.turns: list[list[SampleKey]] = []

    def __iter__(self) -> Iterator[list[SampleKey]]:
        return iter(self.turns)

    def __len__(self) -> int:
        return len(self.turns)


class TrainLoader:
    """Reads training batches, with processes that live as long as the run.

    Args:
        dataset: Gives an image and its label or class for a `Turn`, or the error that it met.
        order: Of the samples.
        rank: Which process this is.
        world: Of how many.
        workers: Reading processes; 0 reads in place.
        pin: Whether batches come in page-locked memory, from where GPUs copy while they work.
        start: How reading processes start: `fork`, `spawn` or `forkserver`.
    """

    def __init__(
        self,
        dataset: Dataset[Any],
        order: EpochSampler,
        *,
        rank: int,
        world: int,
        workers: int,
        pin: bool,
        start: str = "fork",
    ) -> None:
        self.order, self.rank, self.world = order, rank, world
        self._steps = BatchSampler()
        self._loader: DataLoader[Any] = DataLoader(
            dataset,
            batch_sampler=self._steps,
            num_workers=workers,
            collate_fn=_collate,
            pin_memory=pin,
            worker_init_fn=ignore_signals_in_worker,
            multiprocessing_context=start if workers > 0 else None,
            persistent_workers=workers > 0,
            prefetch_factor=4 if workers > 0 else None,
            # It draws a number for each epoch; that of others is not touched.
            generator=torch.Generator(),
        )

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """Yield this process's part of each pass of an epoch's batches, from step `start` on.

        Raises:
            DrnError: An image or label of the batch cannot be used, or a reading process died.
        """
        raise_open_file_limit(self._loader.num_workers)
        self._steps.turns = list(self.order.parts(epoch, self.rank, self.world, start))
        with wrap_worker_errors(self._loader):
            for batch in self._loader:
                if isinstance(batch, DrnError):
                    break
                yield batch
            else:
                return
        # The error's traceback keeps this object; its processes should end before the program.
        del self._loader
        raise batch


def _collate(items: list[tuple[Pixels, Pixels | int] | DrnError]) -> Batch | DrnError:
    good: list[tuple[Pixels, Pixels | int]] = []
    for item in items:
        if isinstance(item, DrnError):
            return item
        good.append(item)
    images, labels = zip(*good, strict=True)
    return Batch(_stacked(images), _stacked(labels))


def _stacked(parts: Sequence[Pixels | int]) -> Tensor:
    """Copy the parts of a batch together; pixels stay bytes, classes become int64."""
    first = np.asarray(parts[0])
    whole = torch.empty((len(parts), *first.shape), dtype=torch.uint8 if first.ndim else torch.long)
    if get_worker_info() is not None:
        # Here, where a lack of shared memory is an error, and not in the thread that sends.
        whole.share_memory_()
    np.stack(parts, out=whole.numpy())
    return whole


def on_device(batches: Iterator[Batch], device: torch.device) -> Iterator[Batch]:
    """Move batches to a device; a GPU copies each while it works on the one before.

    The copy has a stream of its own, so that it does not queue behind the work. Batches should
    come in page-locked memory.
    """
    if device.type != "cuda":
        for batch in batches:
            yield Batch(*(part.to(device) for part in batch))
        return
    copying = torch.cuda.Stream(device)
    for batch in batches:
        with torch.cuda.stream(copying):
            moved = Batch(*(part.to(device, non_blocking=True) for part in batch))
        working = torch.cuda.current_stream(device)
        working.wait_stream(copying)
        for part in moved:
            part.record_stream(working)  # its memory is not given away while it is worked on
        yield moved


def normalize(images: Tensor, statistics: ChannelStats) -> Tensor:
    """Turn pixels into what the network takes: in 0..1, minus mean, over std.

    Shapes: `(N, H, W, 3)` in, uint8 or whole floats; float32 `(N, 3, H, W)` in channels-last memory
    out.
    """
    count, height, width, _ = images.shape
    # A row at a time: with three channels innermost, a CPU would work on three numbers at once.
    mean, std = (
        torch.tensor(values, device=images.device).repeat(width)
        for values in (statistics.mean, statistics.std)
    )
    rows = images.reshape(count, height, 3 * width).to(torch.float32, copy=True)
    rows.div_(255).sub_(mean).div_(std)
    return rows.view(count, height, width, 3).permute(0, 3, 1, 2)

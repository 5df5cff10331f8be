"""From samples to batches: training dataset, data loader and transfer to the device.

Batches contain uint8 pixels. They are normalized on the device (`normalize`), which costs the data
loader workers nothing and transfers a quarter of the bytes.
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
    """A batch of images and labels."""

    images: Tensor  # uint8 (N, H, W, 3)
    labels: Tensor  # uint8 (N, H, W), where 255 is ignored; for classification int64 (N,)


class TrainDataset(Dataset[Any]):
    """Augmented crops of images and label maps.

    For a sample that cannot be read it returns the error: raised in a data loader worker, it would
    reach the user as a long traceback.
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

    def __getitem__(self, key: SampleKey) -> tuple[Pixels, Pixels] | DrnError:
        params = self.augmentation.draw(self.seed, key.epoch, key.sample)
        try:
            pair = self.read(self.samples[key.sample], self.classes)
            return self.augmentation.apply(*pair, params)
        except DrnError as error:
            return error


class EpochBatchSampler(Sampler[list[SampleKey]]):
    """Sampler whose batches are set before each epoch, so that workers can persist."""

    def __init__(self) -> None:
        self.batches: list[list[SampleKey]] = []

    def __iter__(self) -> Iterator[list[SampleKey]]:
        return iter(self.batches)

    def __len__(self) -> int:
        return len(self.batches)


class TrainLoader:
    """Loads training batches, with workers that persist between epochs.

    Args:
        dataset: Returns image and label (or class id) for a `SampleKey`, or a DrnError.
        order: Sample order.
        rank: Rank of this process.
        world: World size.
        workers: Data loader workers; 0 loads in this process.
        pin: Whether to pin the memory of batches, so that GPUs copy them asynchronously.
        start_method: Start method of the workers: `fork`, `spawn` or `forkserver`.
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
        start_method: str = "fork",
    ) -> None:
        self.order, self.rank, self.world = order, rank, world
        self._sampler = EpochBatchSampler()
        self._loader: DataLoader[Any] = DataLoader(
            dataset,
            batch_sampler=self._sampler,
            num_workers=workers,
            collate_fn=_collate,
            pin_memory=pin,
            worker_init_fn=ignore_signals_in_worker,
            multiprocessing_context=start_method if workers > 0 else None,
            persistent_workers=workers > 0,
            prefetch_factor=4 if workers > 0 else None,
            # It draws a number per epoch, which must not advance the global generator.
            generator=torch.Generator(),
        )

    def epoch(self, epoch: int, first_step: int = 0) -> Iterator[Batch]:
        """Yield this rank's part of each micro-batch of an epoch, from `first_step` on.

        Raises:
            DrnError: An image or label of the batch cannot be used, or a worker died.
        """
        raise_open_file_limit(self._loader.num_workers)
        self._sampler.batches = list(self.order.parts(epoch, self.rank, self.world, first_step))
        with wrap_worker_errors(self._loader):
            for batch in self._loader:
                if isinstance(batch, DrnError):
                    break
                yield batch
            else:
                return
        # The traceback of the error keeps this object alive, but its workers should end now.
        del self._loader
        raise batch


def _collate(items: list[tuple[Pixels, Pixels | int] | DrnError]) -> Batch | DrnError:
    good: list[tuple[Pixels, Pixels | int]] = []
    for item in items:
        if isinstance(item, DrnError):
            return item
        good.append(item)
    images, labels = zip(*good, strict=True)
    return Batch(_stack(images), _stack(labels))


def _stack(parts: Sequence[Pixels | int]) -> Tensor:
    """Stack arrays as uint8, or class ids as int64."""
    first = np.asarray(parts[0])
    whole = torch.empty((len(parts), *first.shape), dtype=torch.uint8 if first.ndim else torch.long)
    if get_worker_info() is not None:
        # Share memory here: in the sending thread, running out of it would not raise.
        whole.share_memory_()
    np.stack(parts, out=whole.numpy())
    return whole


def on_device(batches: Iterator[Batch], device: torch.device) -> Iterator[Batch]:
    """Move batches to a device; on a GPU, each copy overlaps with work on the previous batch.

    Copies use a separate CUDA stream, so that they do not queue behind kernels. Batches should be
    in pinned memory.
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
            part.record_stream(working)  # keeps its memory from being reused while it is in use
        yield moved


def normalize(images: Tensor, statistics: ChannelStats) -> Tensor:
    """Scale pixels to 0..1, subtract the mean and divide by the standard deviation.

    Shapes: `(N, H, W, 3)`, uint8 or integral floats, to float32 `(N, 3, H, W)` in channels-last
    memory format.
    """
    count, height, width, _ = images.shape
    # Whole rows are processed: with 3 channels as last dimension, a CPU would vectorize over 3.
    mean, std = (
        torch.tensor(values, device=images.device).repeat(width)
        for values in (statistics.mean, statistics.std)
    )
    rows = images.reshape(count, height, 3 * width).to(torch.float32, copy=True)
    rows.div_(255).sub_(mean).div_(std)
    return rows.view(count, height, width, 3).permute(0, 3, 1, 2)

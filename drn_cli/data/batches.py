"""From the lists to batches: which samples, in which order, read by whom.

Batches hold uint8 pixels as they were decoded; the device turns them into what the network
takes (`normalise`), which costs the reading processes nothing and moves a quarter of the bytes.
"""

import os
import shutil
import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler, get_worker_info

from drn_cli.data.augment import Augmentation
from drn_cli.data.cache import DecodedCache, size
from drn_cli.data.decoding import check_labels, decode
from drn_cli.data.folders import Sample, Statistics
from drn_cli.data.images import Pixels
from drn_cli.data.memory_folder import SHARED_MEMORY
from drn_cli.errors import DrnError


class Batch(NamedTuple):
    """A batch as it was read.

    Attributes:
        images: uint8 `(N, H, W, 3)`.
        labels: uint8 `(N, H, W)`, where 255 is ignored; for classification int64 `(N,)`.
    """

    images: Tensor
    labels: Tensor


class Turn(NamedTuple):
    """Which sample, in which epoch: all that its augmentation depends on, with the seed."""

    epoch: int
    sample: int


class TrainingSet(Dataset[Any]):
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
        self.read = decode if cache is None else cache.read

    def __getitem__(self, turn: Turn) -> tuple[Pixels, Pixels] | DrnError:
        sample = self.samples[turn.sample]
        draw = self.augmentation.draw(self.seed, turn.epoch, turn.sample)
        try:
            image, label = self.augmentation.apply(*self.read(sample), draw)
            check_labels(label, self.classes, sample.label)
        except DrnError as error:
            return error
        return image, label


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
    """Reads training batches, with processes that live as long as the run.

    Args:
        dataset: Gives a picture and its label or class for a `Turn`, or the error that it met.
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
        order: Order,
        *,
        rank: int,
        world: int,
        workers: int,
        pin: bool,
        start: str = "fork",
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
            multiprocessing_context=start if workers > 0 else None,
            persistent_workers=workers > 0,
            prefetch_factor=4 if workers > 0 else None,
        )

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """Yield this process's part of an epoch's batches, from step `start` on.

        Raises:
            DrnError: A picture or label of the batch cannot be used, or a reading process died.
        """
        self._steps.turns = list(self.order.batches(epoch, self.rank, self.world, start))
        with reading_failures(self._loader):
            for batch in self._loader:
                if isinstance(batch, DrnError):
                    break
                yield batch
            else:
                return
        # The error's traceback keeps this object; its processes should end before the program.
        del self._loader
        raise batch


@contextmanager
def reading_failures(loader: DataLoader[Any] | None = None) -> Iterator[None]:
    """Turn the death of a reading process into an error that names the cause.

    PyTorch learns of it by a signal, and raises wherever the program happens to be; or, when it
    waits for a batch of `loader`, without the cause.

    Raises:
        DrnError: A reading process died.
    """
    try:
        yield
    except RuntimeError as failure:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # one death is enough
        readers = getattr(getattr(loader, "_iterator", None), "_workers", ())
        ends = [
            f"signal: {signal.strsignal(-r.exitcode)}" for r in readers if (r.exitcode or 0) < 0
        ]
        raise _why_reading_failed(failure, "; ".join([str(failure), *ends])) from None


def _why_reading_failed(failure: RuntimeError, text: str) -> Exception:
    """Say what killed a reading process; a failure of another kind stays what it is."""
    if "Bus error" in text or "shared memory" in text or "/torch_" in text:
        free = shutil.disk_usage(SHARED_MEMORY)
        return DrnError(
            f"a reading process ran out of shared memory: {SHARED_MEMORY} has "
            f"{size(free.total)}, of which {size(free.free)} are free",
            "make it larger (docker run --shm-size=8g), or read with fewer data.workers; "
            "data.workers=0 needs none",
        )
    if "signal: Killed" in text:
        return DrnError(
            "a reading process was killed, most often because memory ran out",
            "read with fewer data.workers, or make train.batch_size smaller",
        )
    if "DataLoader worker" in text and "Caught" not in text:
        return DrnError(f"a reading process ended: {text}")
    return failure


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


def normalise(images: Tensor, statistics: Statistics) -> Tensor:
    """Turn pixels into what the network takes: in 0..1, minus mean, over std.

    Shapes: uint8 `(N, H, W, 3)` in, float32 `(N, 3, H, W)` in channels-last memory out.
    """
    count, height, width, _ = images.shape
    # A row at a time: with three channels innermost, a CPU would work on three numbers at once.
    mean, std = (
        torch.tensor(values, device=images.device).repeat(width)
        for values in (statistics.mean, statistics.std)
    )
    rows = images.reshape(count, height, 3 * width).float().div_(255).sub_(mean).div_(std)
    return rows.view(count, height, width, 3).permute(0, 3, 1, 2)

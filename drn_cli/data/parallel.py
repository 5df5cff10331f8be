"""Parallel processing of many images, and exact pixel statistics."""

import multiprocessing
import multiprocessing.connection
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from drn_cli.data.folders import ChannelStats
from drn_cli.data.images import Pixels
from drn_cli.interrupts import defer_interrupts

FEW = 16  # images that are decoded in the time that processes take to start

Progress = Callable[[int, int], None]  # called with the number done and the total
Item = TypeVar("Item")
Result = TypeVar("Result")


def in_parallel(
    work: Callable[[Item], Result],
    items: Sequence[Item],
    progress: Progress | None,
    *,
    few: int = FEW,
) -> Iterator[Result]:
    """Apply `work` to items on all cores and yield the results in order.

    Processes are spawned, because a forked process can hang if this one has threads. They end with
    this process, even if it is killed.

    Args:
        work: A picklable function.
        items: Its arguments, one per call.
        progress: Called after each result.
        few: Up to this many items are processed in this process.
    """
    if len(items) <= few:
        for done, item in enumerate(items, start=1):
            result = work(item)
            if progress is not None:
                progress(done, len(items))
            yield result
        return
    context = multiprocessing.get_context("spawn")
    workers = min(len(os.sched_getaffinity(0)), len(items))
    chunk = max(1, min(4, len(items) // (4 * max(1, workers))))
    with ProcessPoolExecutor(workers, mp_context=context, initializer=_end_with_parent) as pool:
        try:
            with defer_interrupts():
                results = pool.map(work, items, chunksize=chunk)
            for done, result in enumerate(results, start=1):
                if progress is not None:
                    progress(done, len(items))
                yield result
        except BaseException:
            with defer_interrupts():  # a second Ctrl-C should not interrupt the shutdown
                pool.shutdown(cancel_futures=True)
            raise


def _end_with_parent() -> None:
    """End this worker when its parent ends; after a killed parent it would wait forever.

    The parent holds one end of a pipe, which the kernel closes when it ends. (PR_SET_PDEATHSIG of
    prctl follows the thread that started the worker, which may end before the process.)
    """
    parent = multiprocessing.parent_process()
    assert parent is not None  # only workers call this

    def watch() -> None:
        multiprocessing.connection.wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


@dataclass(slots=True)
class RunningStats:
    """Sums over pixels of images as exact integers, so that the order does not matter."""

    pixels: int
    sums: npt.NDArray[np.int64]  # (3,), per channel, of values 0 to 255
    squares: npt.NDArray[np.int64]  # (3,), likewise of their squares

    @classmethod
    def of(cls, image: Pixels) -> "RunningStats":
        """Return the sums of one image `(H, W, 3)`."""
        values = np.arange(256, dtype=np.int64)
        counts = np.stack([np.bincount(image[..., c].ravel(), minlength=256) for c in range(3)])
        return cls(image.shape[0] * image.shape[1], counts @ values, counts @ values**2)

    @classmethod
    def total(cls, parts: Iterable["RunningStats"]) -> "RunningStats":
        whole = cls(0, np.zeros(3, np.int64), np.zeros(3, np.int64))
        for part in parts:
            whole.pixels += part.pixels
            whole.sums += part.sums
            whole.squares += part.squares
        return whole

    def statistics(self) -> ChannelStats:
        """Return mean and standard deviation per channel, in 0..1, rounded to 8 digits."""
        mean = self.sums / self.pixels
        std = np.sqrt(np.maximum(0, self.squares / self.pixels - mean**2))
        (r, g, b), (std_r, std_g, std_b) = (
            [round(float(value), 8) for value in values / 255] for values in (mean, std)
        )
        return ChannelStats((r, g, b), (std_r, std_g, std_b))

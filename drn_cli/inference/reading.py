"""Prefetching and concurrent work in threads."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from typing import TypeVar

import torch

from drn_cli.interrupts import defer_interrupts

Item = TypeVar("Item")
Result = TypeVar("Result")

MAX_CONCURRENCY = 8


def prefetch(
    read: Callable[[Item], Result],
    items: Iterable[Item],
    depth: int = 2,
    initializer: Callable[[], object] | None = None,
) -> Iterator[tuple[Item, Callable[[], Result]]]:
    """Call `read` on up to `depth` items ahead, in `depth` threads, and yield them in order.

    Args:
        read: Function of an item.
        items: The items.
        depth: Number of threads.
        initializer: Called once by each thread.

    Yields:
        The item, and a function that returns the result of `read` or raises its exception.
    """
    pool = ThreadPoolExecutor(depth, thread_name_prefix="read", initializer=initializer)
    queue: deque[tuple[Item, Future[Result]]] = deque()
    try:
        for item in items:
            queue.append((item, pool.submit(read, item)))
            if len(queue) > depth:
                done, future = queue.popleft()
                yield done, future.result
        while queue:
            done, future = queue.popleft()
            yield done, future.result
    except GeneratorExit:  # the caller failed or was interrupted: ignore a second Ctrl-C
        with suppress(KeyboardInterrupt), defer_interrupts():
            pool.shutdown(wait=True, cancel_futures=True)
        raise
    finally:
        # Wait for running calls: they may use a network that the caller changes next, and Python
        # aborts at exit if an interrupt leaves threads behind.
        with defer_interrupts():
            pool.shutdown(wait=True, cancel_futures=True)


def default_concurrency(device: torch.device, images: int = MAX_CONCURRENCY) -> int:
    """Return how many images to predict concurrently: one on a GPU, up to eight threads on a CPU.

    Each image needs memory for its activations.
    """
    if device.type == "cuda":
        return 1
    return max(1, min(torch.get_num_threads(), MAX_CONCURRENCY, images))


def map_in_threads(
    function: Callable[[Item], Result], items: Iterable[Item], threads: int, inner: int = 1
) -> Iterator[Result]:
    """Map a function over items in several threads, in each of which PyTorch uses few threads.

    PyTorch threads of one image wait for each other. Their number also determines the order of
    summation: results of a few pixels would depend on the number of processes.

    Args:
        function: Function of an item.
        items: The items.
        threads: Number of threads.
        inner: PyTorch threads in each; above 1 if there are fewer items than cores.

    Yields:
        The results, in order.
    """
    before = torch.get_num_threads()
    try:
        for _, result in prefetch(function, items, threads, lambda: torch.set_num_threads(inner)):
            yield result()
    finally:
        torch.set_num_threads(before)  # the default of threads that start later

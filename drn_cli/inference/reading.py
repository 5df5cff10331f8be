"""Read files, or do other work, ahead of what is being looked at."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from typing import TypeVar

import torch

from drn_cli.interrupts import defer_interrupts

Item = TypeVar("Item")
Result = TypeVar("Result")

MOST_NETWORKS = 8


def ahead(
    read: Callable[[Item], Result],
    items: Iterable[Item],
    depth: int = 2,
    prepare: Callable[[], object] | None = None,
) -> Iterator[tuple[Item, Callable[[], Result]]]:
    """Read items in `depth` other threads, as many ahead, and yield them in their order.

    Args:
        read: What to do with an item.
        items: The items.
        depth: Number of threads.
        prepare: Called by each thread before its first item.

    Yields:
        The item and a call that gives what was read, or raises what reading it raised.
    """
    pool = ThreadPoolExecutor(depth, thread_name_prefix="read", initializer=prepare)
    waiting: deque[tuple[Item, Future[Result]]] = deque()
    try:
        for item in items:
            waiting.append((item, pool.submit(read, item)))
            if len(waiting) > depth:
                done, future = waiting.popleft()
                yield done, future.result
        while waiting:
            done, future = waiting.popleft()
            yield done, future.result
    except GeneratorExit:  # the caller failed or was interrupted: a second Ctrl-C adds nothing
        with suppress(KeyboardInterrupt), defer_interrupts():
            pool.shutdown(wait=True, cancel_futures=True)
        raise
    finally:
        # What is under way comes to its end here: it may use a network that is changed afterwards,
        # and threads that an interrupt left behind would end Python with an abort.
        with defer_interrupts():
            pool.shutdown(wait=True, cancel_futures=True)


def networks_at_once(device: torch.device, images: int = MOST_NETWORKS) -> int:
    """Say how many images a network works on at the same time: one on a GPU, else some threads.

    Each holds the activations of an image.
    """
    if device.type == "cuda":
        return 1
    return max(1, min(torch.get_num_threads(), MOST_NETWORKS, images))


def one_thread_each(
    work: Callable[[Item], Result], items: Iterable[Item], threads: int, inner: int = 1
) -> Iterator[Result]:
    """Work on items in several threads, in each of which PyTorch has no further ones.

    Several threads on one image wait for one another, and their number decides in which order
    sums are rounded: then a few pixels would depend on the number of processes.

    Args:
        work: What to do with an item.
        items: The items.
        threads: How many are worked on at the same time.
        inner: PyTorch's threads in each, for those who have fewer items than cores.
    """
    before = torch.get_num_threads()
    try:
        for _, result in ahead(work, items, threads, lambda: torch.set_num_threads(inner)):
            yield result()
    finally:
        torch.set_num_threads(before)  # what later threads start with

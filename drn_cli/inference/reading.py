"""Read files ahead of the one that is being worked on."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def ahead(
    read: Callable[[Item], Result], items: Iterable[Item], depth: int = 2
) -> Iterator[tuple[Item, Callable[[], Result]]]:
    """Read items in other threads, up to `depth` ahead, and yield them in their order.

    Yields:
        The item and a call that gives what was read, or raises what reading it raised.
    """
    pool = ThreadPoolExecutor(depth, thread_name_prefix="read")
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
    finally:
        pool.shutdown(wait=False, cancel_futures=True)

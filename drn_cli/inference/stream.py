"""Images through a network: reading, the network and writing at the same time."""

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import torch

from drn_cli.data.images import Pixels
from drn_cli.errors import DrnError
from drn_cli.inference.reading import ahead, networks_at_once, one_thread_each
from drn_cli.inference.score_maps import NonFiniteScoresError

Item = TypeVar("Item")
Answer = TypeVar("Answer")
Result = TypeVar("Result")

READERS = 4
WRITERS = 4
GPU_BYTES = 12 << 20  # of images of one size that a GPU is given at once: four megapixels
MOST_AT_ONCE = 64
WAITING_BYTES = 4 * GPU_BYTES  # of images that wait for others of their size


@dataclass(frozen=True, slots=True)
class DecodedImage(Generic[Item]):
    """An item with its image, or with why it has no answer."""

    item: Item
    image: Pixels | DrnError


def stream(
    items: Sequence[Item],
    read: Callable[[Item], Pixels],
    answer: Callable[[Sequence[Pixels]], Sequence[Answer]],
    finish: Callable[[Item, Pixels, Answer], Result],
    device: torch.device,
    at_once: int | None = None,
) -> Iterator[tuple[Item, Result | DrnError]]:
    """Read images, answer them and write what is to be written, as many ahead as is useful.

    On a CPU an image belongs to one thread, as in evaluation, unless there are fewer images than
    threads. On a GPU images of one size are answered together.

    Args:
        items: What to work on.
        read: Reads the image of an item.
        answer: Answers images of one size: the network.
        finish: Makes the result of an item, in another thread: writes files.
        device: Where the network runs.
        at_once: Images to a batch of the GPU, by default as many as fill it.

    Yields:
        Each item with its result, or with why its image could not be read or has scores that are
        not finite; on a GPU not in order.

    Raises:
        DrnError: What else `answer` or `finish` raised.
    """

    def read_item(item: Item) -> DecodedImage[Item]:
        try:
            return DecodedImage(item, read(item))
        except DrnError as error:
            return DecodedImage(item, error)

    def finish_item(
        one: tuple[DecodedImage[Item], Answer | None],
    ) -> tuple[Item, Result | DrnError]:
        (done, answered) = one
        if isinstance(done.image, DrnError):
            return done.item, done.image
        assert answered is not None
        return done.item, finish(done.item, done.image, answered)

    reads = (result() for _, result in ahead(read_item, items, READERS))
    if device.type == "cpu":
        answers = _in_threads(reads, answer, device, len(items))
    else:
        answers = _in_batches(reads, answer, at_once)
    for _, result in ahead(finish_item, answers, WRITERS):
        yield result()


def _in_threads(
    reads: Iterable[DecodedImage[Item]],
    answer: Callable[[Sequence[Pixels]], Sequence[Answer]],
    device: torch.device,
    count: int,
) -> Iterator[tuple[DecodedImage[Item], Answer | None]]:
    def work(one: DecodedImage[Item]) -> tuple[DecodedImage[Item], Answer | None]:
        ((answered, found),) = _answered([one], answer)
        return answered, found

    threads = networks_at_once(device, count)
    inner = torch.get_num_threads() // threads if count < torch.get_num_threads() else 1
    return one_thread_each(work, reads, threads, inner)


def _in_batches(
    reads: Iterable[DecodedImage[Item]],
    answer: Callable[[Sequence[Pixels]], Sequence[Answer]],
    at_once: int | None,
) -> Iterator[tuple[DecodedImage[Item], Answer | None]]:
    for batch in by_size(reads, at_once):
        yield from _answered(batch, answer)


def _answered(
    batch: Sequence[DecodedImage[Item]], answer: Callable[[Sequence[Pixels]], Sequence[Answer]]
) -> Iterator[tuple[DecodedImage[Item], Answer | None]]:
    """Answer images of one size, each alone where the scores of one are not finite."""
    images = [one.image for one in batch if not isinstance(one.image, DrnError)]
    if not images:  # what cannot be read is alone
        yield batch[0], None
        return
    try:
        answers = answer(images)
    except NonFiniteScoresError as error:
        if len(batch) == 1:
            yield DecodedImage(batch[0].item, error), None
        else:
            for one in batch:
                yield from _answered([one], answer)
    else:
        yield from zip(batch, answers, strict=True)


def by_size(
    reads: Iterable[DecodedImage[Item]], at_once: int | None = None
) -> Iterator[list[DecodedImage[Item]]]:
    """Put images of one size together, as they come; one that cannot be read is alone.

    Args:
        reads: The images.
        at_once: How many to a batch, by default as many as fill a GPU.
    """
    waiting: defaultdict[tuple[int, ...], list[DecodedImage[Item]]] = defaultdict(list)
    held = 0  # bytes
    for one in reads:
        if isinstance(one.image, DrnError):
            yield [one]
            continue
        size, area = one.image.shape, one.image.size
        waiting[size].append(one)
        held += area
        full = at_once or max(1, min(MOST_AT_ONCE, GPU_BYTES // area))
        if len(waiting[size]) < full and held > WAITING_BYTES:
            size = max(waiting, key=lambda each: len(waiting[each]) * math.prod(each))
        elif len(waiting[size]) < full:
            continue
        batch = waiting.pop(size)
        held -= len(batch) * math.prod(size)
        yield batch
    yield from waiting.values()

"""Pipeline of reading, prediction and writing, which run concurrently."""

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import torch

from drn_cli.data.images import Pixels
from drn_cli.errors import DrnError
from drn_cli.inference.reading import default_concurrency, map_in_threads, prefetch
from drn_cli.inference.score_maps import NonFiniteScoresError

Item = TypeVar("Item")
Output = TypeVar("Output")
Result = TypeVar("Result")

READERS = 4
WRITERS = 4
GPU_BYTES = 12 << 20  # of images in a GPU batch: four megapixels
MAX_BATCH = 64
WAITING_BYTES = 4 * GPU_BYTES  # of images in incomplete batches


@dataclass(frozen=True, slots=True)
class DecodedImage(Generic[Item]):
    """An item with its image, or with the error that replaces its result."""

    item: Item
    image: Pixels | DrnError


def stream(
    items: Sequence[Item],
    read: Callable[[Item], Pixels],
    predict: Callable[[Sequence[Pixels]], Sequence[Output]],
    finish: Callable[[Item, Pixels, Output], Result],
    device: torch.device,
    batch_size: int | None = None,
) -> Iterator[tuple[Item, Result | DrnError]]:
    """Read, predict and finish items concurrently.

    A CPU predicts each image in one thread, as in evaluation, unless there are fewer images than
    threads. A GPU predicts images of equal size in batches.

    Args:
        items: The items.
        read: Reads the image of an item.
        predict: Runs the network on images of equal size.
        finish: Returns the result of an item; called in other threads, for example to write files.
        device: Device of the network.
        batch_size: Images per GPU batch; by default as many as fill the GPU.

    Yields:
        Each item with its result, or with the error if its image cannot be read or its scores are
        not finite; on a GPU out of order.

    Raises:
        DrnError: Another error of `predict` or `finish`.
    """

    def read_item(item: Item) -> DecodedImage[Item]:
        try:
            return DecodedImage(item, read(item))
        except DrnError as error:
            return DecodedImage(item, error)

    def finish_item(
        predicted: tuple[DecodedImage[Item], Output | None],
    ) -> tuple[Item, Result | DrnError]:
        one, output = predicted
        if isinstance(one.image, DrnError):
            return one.item, one.image
        assert output is not None
        return one.item, finish(one.item, one.image, output)

    decoded = (result() for _, result in prefetch(read_item, items, READERS))
    if device.type == "cpu":
        threads = default_concurrency(device, len(items))
        inner = torch.get_num_threads() // threads if len(items) < torch.get_num_threads() else 1
        outputs = map_in_threads(
            lambda one: next(_predict([one], predict)), decoded, threads, inner
        )
    else:
        batches = group_by_size(decoded, batch_size)
        outputs = (pair for batch in batches for pair in _predict(batch, predict))
    for _, result in prefetch(finish_item, outputs, WRITERS):
        yield result()


def _predict(
    batch: Sequence[DecodedImage[Item]], predict: Callable[[Sequence[Pixels]], Sequence[Output]]
) -> Iterator[tuple[DecodedImage[Item], Output | None]]:
    """Predict images of equal size; one by one if scores of any of them are not finite."""
    images = [one.image for one in batch if not isinstance(one.image, DrnError)]
    if not images:  # an unreadable image is a batch of its own
        yield batch[0], None
        return
    try:
        outputs = predict(images)
    except NonFiniteScoresError as error:
        if len(batch) == 1:
            yield DecodedImage(batch[0].item, error), None
        else:
            for one in batch:
                yield from _predict([one], predict)
    else:
        yield from zip(batch, outputs, strict=True)


def group_by_size(
    images: Iterable[DecodedImage[Item]], batch_size: int | None = None
) -> Iterator[list[DecodedImage[Item]]]:
    """Collect images of equal size into batches; an unreadable image is a batch of its own.

    Args:
        images: The images.
        batch_size: Images per batch; by default as many as fill a GPU.
    """
    waiting: defaultdict[tuple[int, ...], list[DecodedImage[Item]]] = defaultdict(list)
    waiting_bytes = 0
    for one in images:
        if isinstance(one.image, DrnError):
            yield [one]
            continue
        shape, size = one.image.shape, one.image.nbytes
        waiting[shape].append(one)
        waiting_bytes += size
        full = batch_size or max(1, min(MAX_BATCH, GPU_BYTES // size))
        if len(waiting[shape]) < full and waiting_bytes > WAITING_BYTES:
            shape = max(waiting, key=lambda each: len(waiting[each]) * math.prod(each))
        elif len(waiting[shape]) < full:
            continue
        batch = waiting.pop(shape)
        waiting_bytes -= len(batch) * math.prod(shape)
        yield batch
    yield from waiting.values()

import gc
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import torch

from drn_cli.data.classes import generic
from drn_cli.data.folders import IMAGENET
from drn_cli.data.images import Pixels
from drn_cli.errors import DrnError
from drn_cli.inference.predictor import SegmentationPredictor
from drn_cli.inference.stream import (
    GPU_BYTES,
    MAX_BATCH,
    WAITING_BYTES,
    WRITERS,
    DecodedImage,
    group_by_size,
    stream,
)
from drn_cli.networks import create_model

CPU = torch.device("cpu")
GPU = torch.device("cuda")  # only selects the code path; nothing runs on it
DEVICES = pytest.mark.parametrize("device", [CPU, GPU], ids=str)
PATIENCE = 60  # seconds


@pytest.fixture(autouse=True)
def threads() -> Iterator[Callable[[int], None]]:
    """Set the number of PyTorch threads during a test."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


def make_image(number: int) -> Pixels:
    """Return an image of one of three sizes; every seventh is unreadable."""
    if number % 7 == 6:
        raise DrnError(f"{number}: broken image")
    return np.full((4 + number % 3, 5, 3), number, np.uint8)


def first_values(images: Sequence[Pixels]) -> list[int]:
    return [int(image[0, 0, 0]) for image in images]


def together(number: int, image: Pixels, answer: int) -> tuple[int, int]:
    return int(image[0, 0, 0]), answer


def run(count: int, device: torch.device = CPU, **given: Any) -> list[tuple[int, Any]]:
    ways = {"read": make_image, "predict": first_values, "finish": together} | given
    return list(stream(range(count), device=device, **ways))


def errors(results: Sequence[tuple[int, Any]]) -> dict[int, str]:
    return {item: str(result) for item, result in results if isinstance(result, DrnError)}


@pytest.mark.parametrize("number", [1, 3])
def test_results_in_order_on_cpu(threads: Callable[[int], None], number: int) -> None:
    threads(number)
    results = run(40)
    assert [item for item, _ in results] == list(range(40))
    assert [result for _, result in results if not isinstance(result, DrnError)] == [
        (n, n) for n in range(40) if n % 7 != 6
    ]


@DEVICES
def test_each_item_has_its_result(device: torch.device) -> None:
    results = dict(run(40, device, batch_size=4))
    assert len(results) == 40
    assert all(results[n] == (n, n) for n in range(40) if n % 7 != 6)


@DEVICES
def test_unreadable_images_have_errors(device: torch.device) -> None:
    expected = {n: f"{n}: broken image" for n in (6, 13, 20)}
    assert errors(run(21, device)) == expected


@DEVICES
def test_only_unreadable_images(device: torch.device) -> None:
    def read(number: int) -> Pixels:
        raise DrnError(f"{number}: broken")

    assert errors(run(9, device, read=read)) == {n: f"{n}: broken" for n in range(9)}


@DEVICES
@pytest.mark.parametrize("count", [0, 1])
def test_few_images(device: torch.device, count: int) -> None:
    assert run(count, device) == [(0, (0, 0))][:count]


def test_results_equal_sequential_prediction(threads: Callable[[int], None]) -> None:
    torch.manual_seed(0)
    model = create_model("drn_d_22", "segmentation", 5).eval()
    options = {"statistics": IMAGENET, "class_set": generic(5), "device": CPU}
    predictor = SegmentationPredictor(network=model.scores, **options)
    random = np.random.default_rng(0)
    images = [random.integers(0, 256, (24 + 8 * n, 40, 3)).astype(np.uint8) for n in range(3)] * 2
    alone = [predictor(image).numpy() for image in images]
    for number in (1, 2):
        threads(number)
        results = stream(images, lambda one: one, predictor.batch, lambda _, __, a: a, CPU)
        for (_, classes), expected in zip(results, alone, strict=True):
            assert np.array_equal(classes.numpy(), expected)


def threads_inside(count: int) -> set[int]:
    used = set()

    def answer(images: Sequence[Pixels]) -> list[int]:
        used.add(torch.get_num_threads())
        return first_values(images)

    assert len(run(count, predict=answer)) == count
    return used


@pytest.mark.parametrize(
    ("number", "count", "inside"),
    [(6, 1, 6), (6, 2, 3), (6, 3, 2), (6, 4, 1), (6, 6, 1), (6, 20, 1), (20, 10, 2), (20, 20, 1)],
)
def test_few_images_use_several_threads_each(
    threads: Callable[[int], None], number: int, count: int, inside: int
) -> None:
    threads(number)
    assert threads_inside(count) == {inside}
    assert_threads(number)


def assert_threads(number: int) -> None:
    """Check the number of PyTorch threads of this thread and of a new one."""
    assert torch.get_num_threads() == number
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(torch.get_num_threads).result() == number


def test_images_are_predicted_concurrently(threads: Callable[[int], None]) -> None:
    threads(3)
    meeting = threading.Barrier(3)

    def answer(images: Sequence[Pixels]) -> list[int]:
        meeting.wait(PATIENCE)
        return first_values(images)

    assert len(run(6, predict=answer)) == 6


@DEVICES
def test_finish_runs_during_prediction(device: torch.device) -> None:
    """The first is finished after the prediction of a later one has started."""
    begun = threading.Event()
    finishers = set()

    def answer(images: Sequence[Pixels]) -> list[int]:
        if images[0][0, 0, 0] >= 2:
            begun.set()
        return first_values(images)

    def finish(number: int, image: Pixels, answer: int) -> bool:
        finishers.add(threading.current_thread())
        return begun.wait(PATIENCE)

    results = run(6, device, predict=answer, finish=finish, batch_size=1)
    assert [result for _, result in results] == [True] * 6
    assert threading.current_thread() not in finishers


@DEVICES
def test_finish_runs_concurrently(device: torch.device) -> None:
    meeting = threading.Barrier(WRITERS)

    def finish(number: int, image: Pixels, answer: int) -> int:
        return meeting.wait(PATIENCE)

    # A multiple of the writers, none of them broken.
    assert len(run(WRITERS, device, finish=finish, batch_size=1)) == WRITERS


@DEVICES
def test_prefetch_is_bounded(device: torch.device) -> None:
    read = []

    def note(number: int) -> Pixels:
        read.append(number)
        return np.zeros((4, 4, 3), np.uint8)

    results = stream(range(1000), note, first_values, together, device, batch_size=1)
    next(results)
    results.close()
    assert len(read) < 50


def fail(*_: Any) -> Any:
    raise DrnError("the disk is full")


@DEVICES
@pytest.mark.parametrize("where", ["predict", "finish"])
def test_failure_restores_threads(
    threads: Callable[[int], None], device: torch.device, where: str
) -> None:
    threads(2)
    before = set(threading.enumerate())
    answered = []

    def note(images: Sequence[Pixels]) -> list[int]:
        answered.append(len(images))
        return first_values(images)

    with pytest.raises(DrnError, match="the disk is full"):
        run(1000, device, **{"predict": note, "batch_size": 1, where: fail})
    gc.collect()
    assert len(answered) < 50
    assert_threads(2)
    assert set(threading.enumerate()) <= before


def test_closing_restores_threads(threads: Callable[[int], None]) -> None:
    threads(2)
    before = set(threading.enumerate())
    results = stream(range(100), make_image, first_values, together, CPU)
    next(results)
    results.close()
    assert_threads(2)
    assert set(threading.enumerate()) <= before


def empty(height: int, width: int) -> Pixels:
    """Return an image without memory."""
    return np.broadcast_to(np.zeros(3, np.uint8), (height, width, 3))


def reads(images: Sequence[Pixels | DrnError]) -> Iterator[DecodedImage[int]]:
    return (DecodedImage(number, image) for number, image in enumerate(images))


def items(batches: Sequence[Sequence[DecodedImage[int]]]) -> list[list[int]]:
    return [[one.item for one in batch] for batch in batches]


def test_images_are_grouped_by_size() -> None:
    images = [empty(4 + n % 3, 5) for n in range(10)]
    assert items(list(group_by_size(reads(images), 2))) == [
        [0, 3], [1, 4], [2, 5], [6, 9], [7], [8],
    ]  # fmt: skip
    images = [empty(2, 3), empty(3, 2)]  # as many pixels, and yet another size
    assert items(list(group_by_size(reads(images), 2))) == [[0], [1]]


def test_unreadable_image_is_its_own_batch() -> None:
    images = [empty(4, 5), DrnError("broken"), empty(4, 5)]
    assert items(list(group_by_size(reads(images), 3))) == [[1], [0, 2]]


@pytest.mark.parametrize("batch_size", [1, 3, 5])
def test_batches_have_one_size_and_a_maximum(batch_size: int) -> None:
    seen = []

    def answer(images: Sequence[Pixels]) -> list[int]:
        seen.append([image.shape for image in images])
        return first_values(images)

    run(60, GPU, predict=answer, batch_size=batch_size)
    assert all(len(set(shapes)) == 1 for shapes in seen)
    assert max(map(len, seen)) == batch_size
    assert sum(map(len, seen)) == 60 - 60 // 7


@pytest.mark.parametrize(
    ("size", "expected"),
    [((64, 64), MAX_BATCH), ((1024, 2048), 2), ((2000, 2000), 1), ((9000, 9000), 1)],
)
def test_default_batch_size(size: tuple[int, int], expected: int) -> None:
    batches = list(group_by_size(reads([empty(*size)] * 130)))
    assert {len(batch) for batch in batches[:-1]} == {expected}
    assert expected == 1 or expected * size[0] * size[1] * 3 <= GPU_BYTES


@pytest.mark.parametrize("batch_size", [None, 1000])
def test_incomplete_batches_are_bounded(batch_size: int | None) -> None:
    """All sizes differ: without the bound there would be no batch before the end."""
    images = [empty(1000 + n % 97, 1000 + n) for n in range(200)]
    given, gone, most = 0, 0, 0

    def counted() -> Iterator[DecodedImage[int]]:
        nonlocal given, most
        for one in reads(images):
            most = max(most, given - gone)
            given += one.image.size
            yield one

    let_go = []
    for batch in group_by_size(counted(), batch_size):
        gone += sum(one.image.size for one in batch)
        let_go += [one.item for one in batch]
    assert sorted(let_go) == list(range(200))
    assert WAITING_BYTES / 2 < most <= WAITING_BYTES  # and it is made use of


def test_largest_incomplete_batch_is_first() -> None:
    large, small = empty(1000, 1000), empty(900, 900)
    fitting = (WAITING_BYTES - 3 * large.size) // small.size
    first, second = group_by_size(reads([large] * 3 + [small] * (fitting + 1)), 1000)
    assert {one.image.shape for one in first} == {small.shape}
    assert {one.image.shape for one in second} == {large.shape}

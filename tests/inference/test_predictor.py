import math
import subprocess
import sys
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from torch import Tensor

from drn_cli.data.classes import generic
from drn_cli.data.folders import ChannelStats
from drn_cli.errors import DrnError
from drn_cli.inference import memory
from drn_cli.inference.memory import TileSizer
from drn_cli.inference.predictor import SegmentationPredictor
from drn_cli.inference.score_maps import NonFiniteScoresError
from drn_cli.recipe.schema import Eval

STATISTICS = ChannelStats((0.2, 0.4, 0.6), (0.1, 0.2, 0.3))


def strongest_channel(images: Tensor) -> Tensor:
    return images


def predictor(**options: object) -> SegmentationPredictor:
    fixed = {"statistics": STATISTICS, "class_set": generic(3), "device": torch.device("cpu")}
    return SegmentationPredictor(**{"network": strongest_channel, "stride": 1, **fixed, **options})


@pytest.mark.parametrize(
    "options",
    [{}, {"view": Eval(tile=64)}, {"view": Eval(flip=True)}, {"autocast": torch.bfloat16}],
)
def test_class_of_each_pixel(options: dict[str, object]) -> None:
    image = np.random.default_rng(0).integers(0, 256, (72, 80, 3)).astype(np.uint8)
    image.setflags(write=False)  # as Pillow gives them
    normalised = (image / 255 - STATISTICS.mean) / STATISTICS.std
    classes = predictor(**options)(image)
    assert classes.dtype == torch.uint8
    second, first = np.sort(normalised, axis=2)[..., 1:].transpose(2, 0, 1)
    clear = first - second > 1e-4  # where rounding cannot decide
    assert clear.mean() > 0.99
    assert np.array_equal(classes.numpy()[clear], normalised.argmax(axis=2)[clear])
    assert predictor().classes == 3


def noise(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3)).astype(np.uint8)


class Limited:
    """Looks at neighbours too, and at no more than so many pixels at once."""

    def __init__(self, most: int) -> None:
        self.most = most
        self.seen: list[tuple[int, ...]] = []
        self.images: list[int] = []

    def __call__(self, images: Tensor) -> Tensor:
        self.seen.append(tuple(images.shape[-2:]))
        self.images.append(len(images))
        if images[:, 0].numel() > self.most:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        # Back to colours, of which each is as often the strongest as the others.
        mean, std = (torch.tensor(x).view(3, 1, 1) for x in (STATISTICS.mean, STATISTICS.std))
        return 20 * torch.nn.functional.avg_pool2d(images * std + mean, 5, stride=1, padding=2)


VIEWS = [Eval(), Eval(scales=(0.5, 1.25), flip=True), Eval(tile=64)]


@pytest.mark.parametrize("view", VIEWS)
def test_batch_equals_single_images(view: Eval) -> None:
    images = [noise(72, 90, seed) for seed in range(3)]
    images[1] = images[1][:, ::-1]
    images[2].setflags(write=False)
    network = Limited(10**9)
    together = predictor(network=network, view=view).batch(images)
    assert set(network.images) == {3}
    alone = [predictor(network=network, view=view)(image) for image in images]
    assert len(together) == 3
    for found, expected in zip(together, alone, strict=True):
        assert (found == expected).float().mean() > 0.999
    assert (alone[0] == alone[1]).float().mean() < 0.5


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("place", [(0, 1), (3, 0), (5, 2)])
@pytest.mark.parametrize("tile", [None, 64])
def test_non_finite_score_of_any_view_is_an_error(
    value: float, place: tuple[int, int], tile: int | None
) -> None:
    view, number = place
    calls = 0

    def network(images: Tensor) -> Tensor:
        nonlocal calls
        scores = images.clone()
        if calls == (view if tile is None else 0):
            scores[number, 1, 2, 3] = value
        calls += 1
        return scores

    looking = predictor(network=network, view=Eval(scales=(0.5, 1, 1.5), flip=True, tile=tile))
    with pytest.raises(NonFiniteScoresError, match="are not finite") as caught:
        looking.batch([noise(72, 90, seed) for seed in range(3)])
    assert caught.value.number == number


def test_batch_out_of_memory_is_split(caplog: pytest.LogCaptureFixture) -> None:
    network = Limited(100 * 100)
    limited = predictor(network=network)
    images = [noise(100, 100, seed) for seed in range(3)]
    found = limited.batch(images)
    assert network.images == [3, 1, 1, 1]
    assert set(network.seen) == {(100, 100)}  # each one whole
    assert limited.tiles.side is None
    assert not caplog.records
    for image, classes in zip(images, found, strict=True):
        assert torch.equal(classes, predictor(network=Limited(10**9))(image))


def test_batch_out_of_memory_is_tiled() -> None:
    network = Limited(160 * 160)
    images = [noise(300, 280, seed) for seed in range(2)]
    limited = predictor(network=network)
    found = limited.batch(images)
    assert network.images[:3] == [2, 1, 1]
    assert limited.tiles.side == 152
    assert max(network.seen[-1]) <= 152
    expected = predictor(network=Limited(10**9), view=Eval(tile=152))
    for image, classes in zip(images, found, strict=True):
        assert torch.equal(classes, expected(image))


@pytest.mark.parametrize("view", VIEWS)
def test_probabilities_agree_with_classes(view: Eval) -> None:
    image = noise(72, 90)
    image.setflags(write=False)
    looking = predictor(network=Limited(10**9), view=view)
    classes, shares = looking.with_probabilities(image)
    assert torch.equal(classes, looking(image))
    assert shares.shape == (3, 72, 90)
    assert shares.dtype == torch.float32
    torch.testing.assert_close(shares.sum(0), torch.ones(72, 90))
    chosen = shares.gather(0, classes.long()[None])[0]
    assert (shares.max(0).values - chosen).max() < 1e-6
    assert shares.min() < 0.2
    assert shares.max() > 0.8


def test_probabilities_out_of_memory_are_tiled() -> None:
    network = Limited(160 * 160)
    limited = predictor(network=network)
    classes, _ = limited.with_probabilities(noise(300, 280))
    assert limited.tiles.side == 152
    assert max(network.seen[-1]) <= 152
    expected = predictor(network=Limited(10**9), view=Eval(tile=152))(noise(300, 280))
    assert torch.equal(classes, expected)


@pytest.mark.parametrize("kind", [torch.bfloat16, None])
def test_autocast_applies_to_network_only(kind: torch.dtype | None) -> None:
    weights = torch.eye(3).view(3, 3, 1, 1)
    inside, scores = [], []

    def network(images: Tensor) -> Tensor:
        inside.append(torch.is_autocast_enabled("cpu"))
        assert images.dtype == torch.float32
        scores.append(torch.nn.functional.conv2d(images, weights))
        return scores[-1]

    image = noise(32, 40)
    _, shares = predictor(network=network, autocast=kind, view=Eval(flip=True)).with_probabilities(
        image
    )
    assert not torch.is_autocast_enabled("cpu")
    assert inside == [kind is not None] * 2
    assert scores[0].dtype == (kind or torch.float32)
    # The mean of the two views, whose scores are the same, is not rounded once more.
    expected = scores[0].float().softmax(1)[0]
    torch.testing.assert_close(shares, expected, rtol=0, atol=1e-5)


def test_out_of_memory_tiles_this_and_later_images(
    caplog: pytest.LogCaptureFixture,
) -> None:
    network = Limited(160 * 160)
    limited = predictor(network=network)
    image = noise(300, 600)
    classes = limited(image)
    # Half of the longer side, up to a multiple of 8, and half of that; evened out they are less.
    sides = [max(size) for size in network.seen]
    assert sides[0] == 600
    assert 152 < sides[1] <= 304
    assert 128 < max(sides[2:]) <= 152
    assert limited.tiles.side == 152
    expected = predictor(network=Limited(10**9), view=Eval(tile=152))(image)
    assert torch.equal(classes, expected)
    (warning,) = caplog.records  # of what was found to work, not of what was tried
    assert "tiles of 152 pixels" in warning.message
    assert "eval.tile=152" in warning.message

    network.seen.clear()
    assert torch.equal(limited(image), expected)
    assert 128 < max(max(size) for size in network.seen) <= 152
    assert len(caplog.records) == 1


def test_memory_is_released_before_retry() -> None:
    held: list[weakref.ref[torch.UntypedStorage]] = []

    def network(images: Tensor) -> Tensor:
        assert all(reference() is None for reference in held)
        near = torch.nn.functional.avg_pool2d(images, 5, stride=1, padding=2)
        if images.shape[-1] > 160:
            held.append(weakref.ref(near.untyped_storage()))
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return near

    predictor(network=network)(noise(300, 600))
    assert len(held) == 2


def test_image_larger_than_free_memory_is_tiled(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    fitting = 160 * 160 * memory.bytes_per_pixel(None)
    monkeypatch.setattr(memory, "available_bytes", lambda _: fitting / memory.SHARE + 1)
    network = Limited(160 * 160)
    tiles = TileSizer(None, torch.device("cpu"))
    image = noise(300, 280)
    classes = predictor(network=network, tiles=tiles)(image)
    assert 128 < max(max(size) for size in network.seen) <= 160
    assert torch.equal(classes, predictor(network=Limited(10**9), view=Eval(tile=160))(image))
    # Predictors share what is known: this one has never seen an image.
    other = Limited(160 * 160)
    predictor(network=other, tiles=tiles)(noise(200, 200))
    assert max(max(size) for size in other.seen) <= 160
    assert not caplog.records  # nothing ran out


@pytest.mark.parametrize(
    ("view", "first"), [(Eval(tile=256), 256), (Eval(scales=(0.5, 1.5), flip=True), 450)]
)
def test_tile_size_is_half_of_failed_input(view: Eval, first: int) -> None:
    network = Limited(130 * 130)
    image = noise(200, 300)
    limited = predictor(network=network, view=view)
    classes = limited(image)
    assert first // 2 < max(max(size) for size in network.seen) <= first
    assert limited.tiles.side == 128
    expected = view.model_copy(update={"tile": 128})
    assert torch.equal(classes, predictor(network=Limited(10**9), view=expected)(image))


def test_out_of_memory_with_smallest_tiles_is_an_error() -> None:
    network = Limited(0)
    with pytest.raises(DrnError, match=r"image of 300x200 .* in tiles of 128 pixels") as raised:
        predictor(network=network)(noise(200, 300))
    assert "\n" not in str(raised.value)
    sides = [max(size) for size in network.seen]
    assert sides[0] == 300
    assert [128 < side <= 152 for side in sides[1:]] == [True, False]


def test_other_exceptions_propagate() -> None:
    def broken(_: Tensor) -> Tensor:
        raise RuntimeError("shapes differ")

    with pytest.raises(RuntimeError, match="shapes differ"):
        predictor(network=broken)(noise(200, 300))


def test_threads_share_reduced_tile_size(caplog: pytest.LogCaptureFixture) -> None:
    threads = 4
    together = threading.Barrier(threads)
    limited = Limited(320 * 320)

    def network(images: Tensor) -> Tensor:
        if images.shape[-1] == 600:
            together.wait(60)  # until every thread has begun with the whole image
        return limited(images)

    with ThreadPoolExecutor(threads) as pool:
        limited_once = predictor(network=network)
        found = list(pool.map(limited_once, [noise(300, 600)] * threads))
    seen = [max(size) for size in limited.seen]
    assert seen.count(600) == threads
    assert limited_once.tiles.side == 304  # halved once, not once by each
    assert max(set(seen) - {600}) <= 304
    expected = predictor(network=Limited(10**9), view=Eval(tile=304))(noise(300, 600))
    assert all(torch.equal(classes, expected) for classes in found)
    assert len(caplog.records) == 1


# Whole, an image takes 2 x 64 maps of 2 MiB here; the process may have 200 MiB more.
REAL = """
import logging
import resource
import numpy as np
import torch
from drn_cli.data.classes import generic
from drn_cli.data.folders import IMAGENET
from drn_cli.inference.predictor import SegmentationPredictor
from drn_cli.recipe.schema import Eval

class Warnings(logging.Handler):
    def emit(self, record):
        sides.append(record.args[0])

def network(x):
    near = torch.nn.functional.avg_pool2d(x, 5, stride=1, padding=2)
    return near.repeat(1, 21, 1, 1).relu()[:, -3:]

def make(**options):
    return SegmentationPredictor(network=network, stride=1, statistics=IMAGENET,
                                 class_set=generic(3), device=torch.device("cpu"), **options)

sides = []
logging.getLogger("drn_cli").addHandler(Warnings())
image = np.random.default_rng(0).integers(0, 256, (512, 1024, 3)).astype(np.uint8)
make()(image[:64, :64])
unlimited = resource.getrlimit(resource.RLIMIT_AS)
limit = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize() + (200 << 20)
resource.setrlimit(resource.RLIMIT_AS, (limit, unlimited[1]))
classes = make()(image)
resource.setrlimit(resource.RLIMIT_AS, unlimited)
(side,) = sides
print(side < 1024, torch.equal(classes, make(view=Eval(tile=side))(image)), len(sides))
"""


def test_process_at_memory_limit_uses_tiles() -> None:
    done = subprocess.run(
        [sys.executable, "-c", REAL], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.stdout == "True True 1\n", done.stderr

import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from torch import Tensor

from drn_cli.data.classes import generic
from drn_cli.data.folders import Statistics
from drn_cli.errors import DrnError
from drn_cli.inference.predictor import Predictor, evaluating
from drn_cli.recipe.schema import Eval

STATISTICS = Statistics((0.2, 0.4, 0.6), (0.1, 0.2, 0.3))


def strongest_channel(pictures: Tensor) -> Tensor:
    return pictures


def predictor(**options: object) -> Predictor:
    fixed = {"statistics": STATISTICS, "class_set": generic(3), "device": torch.device("cpu")}
    return Predictor(**{"network": strongest_channel, **fixed, **options})


@pytest.mark.parametrize(
    "options",
    [{}, {"view": Eval(tile=64)}, {"view": Eval(flip=True)}, {"autocast": torch.bfloat16}],
)
def test_picture_is_normalised_and_each_pixel_gets_its_class(options: dict[str, object]) -> None:
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


def test_network_is_put_back_into_its_mode_whatever_happens() -> None:
    model = torch.nn.Linear(1, 1)
    for mode in (True, False):
        model.train(mode)
        with pytest.raises(RuntimeError, match="stop"), evaluating(model):
            assert not model.training
            raise RuntimeError("stop")
        assert model.training is mode


def noise(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3)).astype(np.uint8)


class Limited:
    """Looks at neighbours too, and at no more than so many pixels."""

    def __init__(self, most: int) -> None:
        self.most = most
        self.seen: list[tuple[int, ...]] = []

    def __call__(self, pictures: Tensor) -> Tensor:
        self.seen.append(tuple(pictures.shape[-2:]))
        if pictures[0, 0].numel() > self.most:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return torch.nn.functional.avg_pool2d(pictures, 5, stride=1, padding=2)


def test_picture_that_does_not_fit_is_seen_in_tiles_and_so_are_those_after_it(
    caplog: pytest.LogCaptureFixture,
) -> None:
    network = Limited(160 * 160)
    limited = predictor(network=network)
    image = noise(300, 600)
    classes = limited(image)
    sides = [max(size) for size in network.seen]
    assert sides[:2] == [600, 304]  # half of the longer side, up to a multiple of 8
    assert set(sides[2:]) == {152}
    expected = predictor(network=Limited(10**9), view=Eval(tile=152))(image)
    assert torch.equal(classes, expected)
    (warning,) = caplog.records  # of what was found to work, not of what was tried
    assert "tiles of 152 pixels" in warning.message
    assert "eval.tile=152" in warning.message

    network.seen.clear()
    assert torch.equal(limited(image), expected)
    assert {max(size) for size in network.seen} == {152}
    assert len(caplog.records) == 1


@pytest.mark.parametrize(
    ("view", "first"), [(Eval(tile=256), 256), (Eval(scales=(0.5, 1.5), flip=True), 450)]
)
def test_tiles_are_halves_of_what_the_network_saw(view: Eval, first: int) -> None:
    network = Limited(130 * 130)
    image = noise(200, 300)
    classes = predictor(network=network, view=view)(image)
    assert max(max(size) for size in network.seen) == first
    expected = view.model_copy(update={"tile": 128})
    assert torch.equal(classes, predictor(network=Limited(10**9), view=expected)(image))


def test_memory_that_suffices_for_no_tile_is_a_mistake_in_one_line() -> None:
    network = Limited(0)
    with pytest.raises(DrnError, match=r"picture of 300x200 .* in tiles of 128 pixels") as raised:
        predictor(network=network)(noise(200, 300))
    assert "\n" not in str(raised.value)
    assert [max(size) for size in network.seen] == [300, 152, 128]


def test_other_failures_are_left_as_they_are() -> None:
    def broken(_: Tensor) -> Tensor:
        raise RuntimeError("shapes differ")

    with pytest.raises(RuntimeError, match="shapes differ"):
        predictor(network=broken)(noise(200, 300))


def test_threads_find_the_side_together(caplog: pytest.LogCaptureFixture) -> None:
    threads = 4
    together = threading.Barrier(threads)
    limited = Limited(320 * 320)

    def network(pictures: Tensor) -> Tensor:
        if pictures.shape[-1] == 600:
            together.wait(60)  # until every thread has begun with the whole picture
        return limited(pictures)

    with ThreadPoolExecutor(threads) as pool:
        found = list(pool.map(predictor(network=network), [noise(300, 600)] * threads))
    seen = [max(size) for size in limited.seen]
    assert seen.count(600) == threads
    assert set(seen) == {600, 304}  # halved once, not once by each
    expected = predictor(network=Limited(10**9), view=Eval(tile=304))(noise(300, 600))
    assert all(torch.equal(classes, expected) for classes in found)
    assert len(caplog.records) == 1


# Whole, a picture takes 2 x 64 maps of 2 MiB here; the process may have 200 MiB more.
REAL = """
import logging
import resource
import numpy as np
import torch
from drn_cli.data.classes import generic
from drn_cli.data.folders import IMAGENET
from drn_cli.inference.predictor import Predictor
from drn_cli.recipe.schema import Eval

class Warnings(logging.Handler):
    def emit(self, record):
        sides.append(record.args[0])

def network(x):
    near = torch.nn.functional.avg_pool2d(x, 5, stride=1, padding=2)
    return near.repeat(1, 21, 1, 1).relu()[:, -3:]

def make(**options):
    return Predictor(network=network, statistics=IMAGENET, class_set=generic(3),
                     device=torch.device("cpu"), **options)

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


def test_a_process_that_may_not_have_more_memory_goes_on_in_tiles() -> None:
    done = subprocess.run(
        [sys.executable, "-c", REAL], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.stdout == "True True 1\n", done.stderr

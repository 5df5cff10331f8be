"""Exported networks answer as the checkpoint does, however they are asked."""

import itertools
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from exported_networks import (
    CLASS_SET,
    CROP,
    FIXED,
    FOLDERS,
    RESIZE,
    RUNTIMES,
    STATISTICS,
    Exports,
    noise,
)
from torch import Tensor

from drn_cli.errors import DrnError
from drn_cli.inference.classifier import Classifier
from drn_cli.inference.loading import load_classifier, load_predictor
from drn_cli.inference.opening import Found, TrainedNetwork, open_network, read_network
from drn_cli.inference.predictor import PixelPredictor
from drn_cli.inference.runtimes import AS_PIXELS
from drn_cli.networks.catalog import Task
from drn_cli.recipe.schema import Eval

CPU = torch.device("cpu")
SMALL = [(1, 1), (1, 9), (7, 8), (33, 47), (72, 96)]
VIEWS = [Eval(), Eval(scales=(0.5, 1.25)), Eval(flip=True), Eval(tile=64)]
IMAGE = noise(40, 80)

Open = Callable[..., Found]
Look = Callable[[Eval], tuple[Tensor, Tensor]]


@pytest.fixture(scope="module")
def opened(exports: Exports) -> Open:
    """Open exported networks, each once: reading a program takes a second."""

    @cache
    def read(task: Task = "segmentation", **options: Any) -> Found:
        return open_network(exports(task, **options))

    return read


@pytest.fixture(scope="module")
def checkpoint(exports: Exports) -> TrainedNetwork:
    """Read what the segmenters were made of."""
    return read_network(exports.run() / "checkpoints" / "best.safetensors")


@pytest.fixture(scope="module")
def right(checkpoint: TrainedNetwork) -> PixelPredictor:
    return load_predictor(checkpoint, CPU)


@pytest.fixture(scope="module")
def look(checkpoint: TrainedNetwork) -> Look:
    """Give what the checkpoint says of `IMAGE`: classes and probabilities."""
    known: dict[str, tuple[Tensor, Tensor]] = {}

    def seen(view: Eval) -> tuple[Tensor, Tensor]:
        if str(view) not in known:
            ready = load_predictor(checkpoint, CPU, view=view)
            known[str(view)] = ready.with_probabilities(IMAGE)
        return known[str(view)]

    return seen


def assert_same(found: Tensor, expected: Tensor) -> None:
    assert (found.dtype, found.shape) == (torch.uint8, expected.shape)
    # Two classes may be so near each other that rounding decides between them.
    assert (found == expected).float().mean() > 0.999


@pytest.mark.parametrize("format_", [*RUNTIMES, "fyu", "safetensors"])
def test_index_maps_of_any_size(opened: Open, right: PixelPredictor, format_: str) -> None:
    exported = load_predictor(opened(format=format_), CPU)
    assert exported.class_set == right.class_set == CLASS_SET
    assert exported.statistics == right.statistics == STATISTICS
    for size in SMALL:
        assert_same(exported(noise(*size)), right(noise(*size)))
    assert set(exported(noise(72, 96)).unique().tolist()) == {0, 1, 2}


@pytest.mark.parametrize("format_", RUNTIMES)
@pytest.mark.parametrize("view", VIEWS, ids=str)
def test_probabilities_of_every_view(opened: Open, look: Look, format_: str, view: Eval) -> None:
    exported = load_predictor(opened(format=format_), CPU, view=view)
    classes, shares = exported.with_probabilities(IMAGE)
    assert_same(classes, look(view)[0])
    torch.testing.assert_close(shares, look(view)[1], rtol=0, atol=1e-4)


def test_views_differ(look: Look) -> None:
    """The test above would be content with a view that nobody looks at."""
    for one, other in itertools.combinations(VIEWS, 2):
        assert (look(one)[1] - look(other)[1]).abs().max() > 1e-3


@pytest.mark.parametrize("format_", RUNTIMES)
def test_several_pictures_at_once_in_threads(
    opened: Open, right: PixelPredictor, format_: str
) -> None:
    images = [noise(24 + 8 * (number % 3), 40, number) for number in range(12)]
    together = load_predictor(opened(format=format_), CPU, at_once=4)
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(together, images))
    for given, image in zip(found, images, strict=True):
        assert_same(given, right(image))


@pytest.mark.parametrize("format_", RUNTIMES)
def test_a_batch_gets_what_each_picture_gets(
    opened: Open, right: PixelPredictor, format_: str
) -> None:
    exported = load_predictor(opened(format=format_), CPU)
    images = [noise(33, 47, seed) for seed in range(3)]
    for given, image in zip(exported.batch(images), images, strict=True):
        assert_same(given, right(image))


@pytest.mark.parametrize(
    "options",
    [
        {"format": "pt2", "argmax": True},
        {"format": "onnx", "argmax": True, "normalize": True},
        {"format": "pt2", "size": FIXED},
    ],
    ids=str,
)
def test_other_forms_give_the_same_index_maps(
    opened: Open, right: PixelPredictor, options: dict[str, Any]
) -> None:
    exported = load_predictor(opened(**options), CPU)
    assert exported.statistics == (AS_PIXELS if "normalize" in options else STATISTICS)
    image = noise(*FIXED)
    assert_same(exported(image), right(image))
    assert_same(exported.batch([image, image])[1], right(image))


def test_classes_alone_have_no_probabilities_and_no_views(opened: Open) -> None:
    found = opened(format="pt2", argmax=True)
    with pytest.raises(DrnError, match=r"classes alone.*export it without --argmax"):
        load_predictor(found, CPU).with_probabilities(IMAGE)
    for view in VIEWS[1:]:
        with pytest.raises(DrnError, match=r"net\.pt2: gives classes alone, .* without --argmax"):
            load_predictor(found, CPU, view=view)


def test_another_size_than_the_one_it_takes_is_refused(opened: Open) -> None:
    found = opened(format="pt2", size=FIXED)
    message = r"net\.pt2: input size 64x40 is not the fixed 64x48 of this network .*without --size"
    with pytest.raises(DrnError, match=message):
        load_predictor(found, CPU)(noise(40, 64))
    with pytest.raises(DrnError, match="size 32x24 is not"):
        load_predictor(found, CPU, view=Eval(scales=(0.5,)))(noise(*FIXED))


@pytest.fixture(params=RUNTIMES)
def classifiers(
    request: pytest.FixtureRequest, exports: Exports, opened: Open
) -> tuple[Found, Found]:
    """Give an exported classifier, and the one it was made of."""
    run = exports.run("classification")
    trained = read_network(run / "checkpoints" / "best.safetensors")
    return opened("classification", format=request.param), trained


def loaded(source: Found, view: Any) -> Classifier:
    return load_classifier(source, CPU, crop=CROP, resize=RESIZE, view=view)


@pytest.mark.parametrize("view", ["1-crop", "10-crop"])
def test_classes_of_crops(classifiers: tuple[Found, Found], view: Any) -> None:
    exported, right = (loaded(source, view) for source in classifiers)
    crops = torch.from_numpy(np.stack([right.crops(noise(50, 70, seed)) for seed in (1, 2)]))
    assert crops.shape[1] == (10 if view == "10-crop" else 1)
    found, expected = (one.log_probabilities(crops) for one in (exported, right))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)
    assert (expected[0] - expected[1]).abs().max() > 1e-3


def test_where_a_classifier_sees_its_classes(classifiers: tuple[Found, Found]) -> None:
    exported, right = (loaded(source, "1-crop") for source in classifiers)
    x = torch.rand(1, 3, 40, 64)
    found, expected = exported.maps(x), right.maps(x)
    assert found.shape == (1, 3, 5, 8)
    exported.maps(1 - x)  # which leaves the first answer as it is
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)


def test_a_classifiers_file_knows_its_classes_and_crops(classifiers: tuple[Found, Found]) -> None:
    exported = load_classifier(classifiers[0], CPU)
    assert (exported.names, exported.folders, exported.named) == (CLASS_SET.names, FOLDERS, True)
    assert (exported.crop, exported.resize) == (CROP, RESIZE)
    assert exported.statistics == STATISTICS
    assert load_classifier(classifiers[0], CPU, crop=24, resize=30).crop == 24


@pytest.mark.parametrize("task", ["segmentation", "classification"])
def test_what_was_exported_is_not_compiled_and_keeps_its_task(
    exports: Exports, opened: Open, task: Any
) -> None:
    loaders: list[Any] = [load_predictor, load_classifier]
    fitting, wrong = loaders if task == "segmentation" else loaders[::-1]
    with pytest.raises(DrnError, match=r"net\.onnx: cannot be compiled: its own runtime runs it"):
        fitting(opened(task, format="onnx"), CPU, compiled=True)
    with pytest.raises(DrnError, match=r"net\.onnx: holds a .* is needed"):
        wrong(exports(task, format="onnx"), CPU)


CLOSED_IN_TURN = """
import gc, signal, subprocess, sys
from pathlib import Path
import torch
from drn_cli.inference.loading import load_predictor
first, second = (load_predictor(Path(sys.argv[1]), torch.device("cpu")) for _ in range(2))
for predictor in (first, second):
    predictor.network(torch.zeros(1, 3, 32, 48))
del predictor, first
gc.collect()
del second
gc.collect()
signal.signal(signal.SIGCHLD, lambda *_: print("signal handled", flush=True))
subprocess.run(["true"], check=True)
"""


def test_signals_are_handled_after_networks_of_openvino_were_closed(exports: Exports) -> None:
    """OpenVINO puts a stack of its own under signal handlers, which must outlive each network."""
    file = exports("segmentation", format="openvino")
    command = [sys.executable, "-X", "faulthandler", "-c", CLOSED_IN_TURN, str(file)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "signal handled\n"), done.stderr

"""Exported networks return what their checkpoint does, in every runtime and view."""

import itertools
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
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

from drn_cli.data.batches import normalize
from drn_cli.errors import DrnError
from drn_cli.inference.classifier import ClassificationPredictor
from drn_cli.inference.loading import load_classifier, load_predictor
from drn_cli.inference.opening import OpenedNetwork, TrainedNetwork, open_network, read_network
from drn_cli.inference.predictor import SegmentationPredictor
from drn_cli.inference.runtimes import UINT8_STATISTICS, ExportedNetwork, Output
from drn_cli.networks.catalog import Task
from drn_cli.recipe.schema import Eval

CPU = torch.device("cpu")
SMALL = [(1, 1), (1, 9), (7, 8), (33, 47), (72, 96)]
VIEWS = [Eval(), Eval(scales=(0.5, 1.25)), Eval(flip=True), Eval(tile=64)]
IMAGE = noise(40, 80)

Open = Callable[..., OpenedNetwork]
Look = Callable[[Eval], tuple[Tensor, Tensor]]


@pytest.fixture(scope="module")
def opened(exports: Exports) -> Open:
    """Open exported networks, each once: reading a program takes a second."""

    @cache
    def read(task: Task = "segmentation", **options: Any) -> OpenedNetwork:
        return open_network(exports(task, **options))

    return read


@pytest.fixture(scope="module")
def checkpoint(exports: Exports) -> TrainedNetwork:
    """Checkpoint of the exported segmentation networks."""
    return read_network(exports.run() / "checkpoints" / "best.safetensors")


@pytest.fixture(scope="module")
def right(checkpoint: TrainedNetwork) -> SegmentationPredictor:
    return load_predictor(checkpoint, CPU)


@pytest.fixture(scope="module")
def look(checkpoint: TrainedNetwork) -> Look:
    """Return classes and probabilities of `IMAGE`, predicted with the checkpoint."""
    known: dict[str, tuple[Tensor, Tensor]] = {}

    def seen(view: Eval) -> tuple[Tensor, Tensor]:
        if str(view) not in known:
            ready = load_predictor(checkpoint, CPU, view=view)
            known[str(view)] = ready.with_probabilities(IMAGE)
        return known[str(view)]

    return seen


def assert_same(found: Tensor, expected: Tensor) -> None:
    assert (found.dtype, found.shape) == (torch.uint8, expected.shape)
    # Rounding decides between classes of nearly equal scores.
    assert (found == expected).float().mean() > 0.999


@pytest.mark.parametrize("format_", [*RUNTIMES, "fyu", "safetensors"])
def test_index_maps_of_all_sizes(opened: Open, right: SegmentationPredictor, format_: str) -> None:
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
    """Without this, the test above would pass if views were ignored."""
    for one, other in itertools.combinations(VIEWS, 2):
        assert (look(one)[1] - look(other)[1]).abs().max() > 1e-3


@pytest.mark.parametrize("format_", RUNTIMES)
def test_concurrent_images(opened: Open, right: SegmentationPredictor, format_: str) -> None:
    images = [noise(24 + 8 * (number % 3), 40, number) for number in range(12)]
    together = load_predictor(opened(format=format_), CPU, concurrency=4)
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(together, images))
    for given, image in zip(found, images, strict=True):
        assert_same(given, right(image))


@pytest.mark.parametrize("format_", RUNTIMES)
def test_batch_equals_single_images(
    opened: Open, right: SegmentationPredictor, format_: str
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
def test_argmax_normalize_and_size_keep_the_index_maps(
    opened: Open, right: SegmentationPredictor, options: dict[str, Any]
) -> None:
    exported = load_predictor(opened(**options), CPU)
    assert exported.statistics == (UINT8_STATISTICS if "normalize" in options else STATISTICS)
    image = noise(*FIXED)
    assert_same(exported(image), right(image))
    assert_same(exported.batch([image, image])[1], right(image))


def test_argmax_excludes_probabilities_and_views(opened: Open) -> None:
    found = opened(format="pt2", argmax=True)
    with pytest.raises(DrnError, match=r"class ids only.*export it without --argmax"):
        load_predictor(found, CPU).with_probabilities(IMAGE)
    for view in VIEWS[1:]:
        with pytest.raises(
            DrnError, match=r"net\.pt2: outputs class ids only; .* without --argmax"
        ):
            load_predictor(found, CPU, view=view)


def test_fixed_size(opened: Open) -> None:
    found = opened(format="pt2", size=FIXED)
    message = r"net\.pt2: input size 64x40 is not the fixed 64x48 of this network .*without --size"
    with pytest.raises(DrnError, match=message):
        load_predictor(found, CPU)(noise(40, 64))
    with pytest.raises(DrnError, match="size 32x24 is not"):
        load_predictor(found, CPU, view=Eval(scales=(0.5,)))(noise(*FIXED))


@pytest.fixture(params=RUNTIMES)
def classifiers(
    request: pytest.FixtureRequest, exports: Exports, opened: Open
) -> tuple[OpenedNetwork, OpenedNetwork]:
    """An exported classifier and its checkpoint."""
    run = exports.run("classification")
    trained = read_network(run / "checkpoints" / "best.safetensors")
    return opened("classification", format=request.param), trained


def loaded(source: OpenedNetwork, view: Any) -> ClassificationPredictor:
    return load_classifier(source, CPU, crop=CROP, resize=RESIZE, view=view)


@pytest.mark.parametrize("view", ["1-crop", "10-crop"])
def test_classes_of_crops(classifiers: tuple[OpenedNetwork, OpenedNetwork], view: Any) -> None:
    exported, right = (loaded(source, view) for source in classifiers)
    crops = torch.from_numpy(np.stack([right.crops(noise(50, 70, seed)) for seed in (1, 2)]))
    assert crops.shape[1] == (10 if view == "10-crop" else 1)
    found, expected = (one.log_probabilities(crops) for one in (exported, right))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)
    assert (expected[0] - expected[1]).abs().max() > 1e-3


def test_class_score_maps(classifiers: tuple[OpenedNetwork, OpenedNetwork]) -> None:
    exported, right = (loaded(source, "1-crop") for source in classifiers)
    x = torch.rand(1, 3, 40, 64)
    found, expected = exported.maps(x), right.maps(x)
    assert found.shape == (1, 3, 5, 8)
    exported.maps(1 - x)  # must not change the first result
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)


def test_classes_and_crops_from_metadata(classifiers: tuple[OpenedNetwork, OpenedNetwork]) -> None:
    exported = load_classifier(classifiers[0], CPU)
    assert (exported.names, exported.folders, exported.named) == (CLASS_SET.names, FOLDERS, True)
    assert (exported.crop, exported.resize) == (CROP, RESIZE)
    assert exported.statistics == STATISTICS
    assert load_classifier(classifiers[0], CPU, crop=24, resize=30).crop == 24


@pytest.mark.parametrize("task", ["segmentation", "classification"])
def test_compiling_and_the_wrong_task_are_refused(
    exports: Exports, opened: Open, task: Any
) -> None:
    loaders: list[Any] = [load_predictor, load_classifier]
    fitting, wrong = loaders if task == "segmentation" else loaders[::-1]
    with pytest.raises(DrnError, match=r"net\.onnx: exported networks cannot be compiled"):
        fitting(opened(task, format="onnx"), CPU, compiled=True)
    with pytest.raises(DrnError, match=r"net\.onnx: is a .*, not a "):
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


def test_signals_after_openvino_networks_were_closed(exports: Exports) -> None:
    """OpenVINO installs a signal stack of its own, which must outlive each network."""
    file = exports("segmentation", format="openvino")
    command = [sys.executable, "-X", "faulthandler", "-c", CLOSED_IN_TURN, str(file)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "signal handled\n"), done.stderr


Calls = list[tuple[object, ...]]


def recording(calls: Calls, **metadata: str) -> ExportedNetwork:
    """Return a network whose sessions return their input, and which records its calls."""

    def start(*arguments: object) -> Callable[[Tensor, Output], Tensor]:
        def run(x: Tensor, output: Output) -> Tensor:
            calls.append((x.dtype, output))
            return x

        calls.append(arguments)
        return run

    known = {"arch": "drn_d_22", "task": "segmentation", "classes": "7", "input": "normalised"}
    known |= {"outputs": "logits,scores"} | metadata
    return ExportedNetwork(path=Path("net.onnx"), metadata=known, runtime="none", start=start)


def test_metadata() -> None:
    network = recording([])
    assert (network.arch, network.task, network.classes) == ("drn_d_22", "segmentation", 7)
    assert (network.architecture.width, network.size) == (1, None)
    assert not (network.outputs_classes or network.takes_uint8)
    network = recording([], input="uint8", outputs="classes", size="48x64", width="0.25")
    assert (network.architecture.width, network.size) == (0.25, (48, 64))
    assert network.outputs_classes
    assert network.takes_uint8


def test_threads_are_divided_among_concurrent_images(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 9)
    calls: Calls = []
    for concurrency in (2, 100):
        recording(calls).session(CPU, concurrency)
    assert calls == [(CPU, 4, 2), (CPU, 1, 100)]


def test_uint8_and_float_inputs() -> None:
    calls: Calls = []
    pixels = torch.arange(256, dtype=torch.uint8).view(1, 16, 16, 1).expand(1, 16, 16, 3)
    given = recording(calls, input="uint8").session(CPU, 1)(
        normalize(pixels, UINT8_STATISTICS), "scores"
    )
    assert torch.equal(given, pixels.permute(0, 3, 1, 2))
    x = torch.randn(1, 3, 5, 7)
    assert torch.equal(recording(calls).session(CPU, 1)(x, "logits"), x)
    assert calls[1::2] == [(torch.uint8, "scores"), (torch.float32, "logits")]

"""Run the cases one after the other, time them, and compare them with an earlier run."""

import gc
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from copy import deepcopy
from dataclasses import asdict, dataclass, replace
from itertools import count, product
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from drn_cli.bench.cases import EAGER, BenchCase, BenchTarget, activation_bytes, image_flops
from drn_cli.data.batches import Batch, TrainLoader, normalize
from drn_cli.data.class_folders import ClassSample
from drn_cli.data.classes import cityscapes, generic
from drn_cli.data.folders import IMAGENET, Sample
from drn_cli.data.images import Pixels
from drn_cli.data.prepare.scenes import draw_scene, make_scenes
from drn_cli.device import autocast, autocast_type, is_out_of_memory
from drn_cli.distributed.group import Group
from drn_cli.environment import MachineInfo
from drn_cli.errors import DrnError
from drn_cli.files import read_json
from drn_cli.formatting import size
from drn_cli.inference.classifier import ClassificationPredictor
from drn_cli.inference.loading import load_classifier, load_predictor
from drn_cli.inference.memory import available_bytes
from drn_cli.inference.normalization import Normalization
from drn_cli.inference.opening import TrainedNetwork
from drn_cli.inference.predictor import SegmentationPredictor
from drn_cli.inference.runtimes import ExportedNetwork
from drn_cli.recipe.loading import load_recipe
from drn_cli.recipe.schema import MULTI_SCALE, Eval, Recipe
from drn_cli.training.setup import build_train_state
from drn_cli.training.step import StepStats, take_step
from drn_cli.training.tasks import DataBundle, task_of

Call = Callable[[], object]

MIN_ROUNDS = 3  # calls that are timed even if they exceed the time budget
FORMAT = "drn bench 1"  # value of `format` in the JSON document
CASE_KEYS = ("what", "runtime", "precision", "compiled", "batch", "height", "width", "workers")
NETWORK_KEYS = ("arch", "width", "task", "classes")

# Recipes for networks without a run.
SHIPPED = {"segmentation": "drn_d_22_cityscapes", "classification": "drn_d_22_imagenet"}
LEARNING_RATE = 1e-6  # so low that the weights hardly change

LOADER_BATCHES = 16  # timed together: a single one may be prefetched already
SYNTHETIC_IMAGES = 8
SYNTHETIC_STEPS = 64  # per epoch of synthetic images: the end of an epoch, a pause, should be rare
PHOTO_SIZE = (500, 375)  # width and height of the usual ImageNet image
PHOTO_NOISE = 9.3  # standard deviation that makes a JPEG file as large as that of a photograph


@dataclass(frozen=True, slots=True, kw_only=True)
class TimingBudget:
    """Limits of a measurement."""

    warmup: int = 3  # calls that are not timed, at least one
    rounds: int = 50  # largest number of timed calls
    # Time after which neither warm-up nor measurement starts another call, once three are timed.
    seconds: float = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Timings:
    """Number of timed calls, and the minimum and percentiles of their times in seconds."""

    rounds: int
    least: float
    p50: float
    p90: float
    p99: float

    @classmethod
    def of(cls, seconds: Sequence[float]) -> "Timings":
        """Summarize times; percentiles are interpolated linearly."""
        p50, p90, p99 = (float(value) for value in np.percentile(seconds, (50, 90, 99)))
        return cls(rounds=len(seconds), least=min(seconds), p50=p50, p90=p90, p99=p99)


def synchronized_clock() -> float:
    """Wait for the GPUs' work and return the time in seconds."""
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()
    return time.perf_counter()


def time_calls(
    call: Call, budget: TimingBudget, clock: Callable[[], float] = synchronized_clock
) -> Timings:
    """Time each call by itself, on all threads.

    `torch.utils.benchmark.Timer` has no limit of rounds, averages over blocks of short calls, which
    hides the slow ones, and its import warns where CUDA is installed without a GPU.
    """

    def seconds() -> float:
        start = clock()
        call()
        return clock() - start

    spent, warm = 0.0, 0
    while warm < max(1, budget.warmup) and spent < budget.seconds:
        spent += seconds()
        warm += 1
    taken: list[float] = []
    while len(taken) < min(MIN_ROUNDS, budget.rounds) or (
        len(taken) < budget.rounds and sum(taken) < budget.seconds
    ):
        taken.append(seconds())
    return Timings.of(taken)


@dataclass(frozen=True, slots=True)
class BenchResult:
    """The result of a case."""

    case: BenchCase
    flops: int | None  # floating-point operations per image; None without a network
    activation_bytes: int | None  # of a batch; None without a network
    timings: Timings | None  # of a batch; None after a failure
    failure: str | None = None  # its reason

    def to_json(self) -> dict[str, Any]:
        rate = None if self.timings is None else self.case.batch / self.timings.p50
        return {
            **asdict(self.case),
            "flops": self.flops,
            "activation_bytes": self.activation_bytes,
            "seconds": None if self.timings is None else asdict(self.timings),
            "images_per_second": rate,
            "flops_per_second": None if self.flops is None or rate is None else self.flops * rate,
            "error": self.failure,
        }


def measure(
    target: BenchTarget,
    case: BenchCase,
    device: torch.device,
    budget: TimingBudget,
    data: Path | None = None,
) -> BenchResult:
    """Measure a case; running out of memory is a result, not an error.

    Args:
        target: The network.
        case: What to measure.
        device: Where to compute.
        budget: How often.
        data: Data folder of the input pipeline, instead of the run's or of synthetic images.

    Raises:
        DrnError: The data folder cannot be used.
    """
    flops, needed = image_flops(target, case), activation_bytes(target, case)
    failure, timings, free = None, None, available_bytes(device)
    # On a CPU the process would be killed. Predictions split an image that is too large into tiles.
    if needed is not None and case.what not in ("predict", "multi-scale") and needed > free:
        failure = f"out of memory: needs {size(needed)} for activations, and {size(free)} are free"
    else:
        try:
            if case.compiled:
                torch.compiler.reset()  # torch.compile gives up after a few sizes of one network
            if case.what == "input":
                timings = time_loader(target, case, device, budget, data)
            else:
                timings = time_calls(prepare_call(target, case, device), budget)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            failure = "out of memory"
    # After the handler: the error's traceback and the call hold tensors until here.
    if failure is not None or device.type == "cuda":
        gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
    return BenchResult(case, flops, needed, timings, failure)


def prepare_call(target: BenchTarget, case: BenchCase, device: torch.device) -> Call:
    """Load the network and return the call to time, on noise.

    `forward` is the network alone: from normalized images on the device to scores at an eighth of
    the size, or a classifier's logits. `predict` and `multi-scale` are all that `drn predict` does
    between reading and writing: from pixels in memory to the class of each pixel, or to
    probabilities, in memory. `train` is a step of `drn train`.
    """
    pixels = np.random.default_rng(0).integers(
        0, 256, (case.batch, case.height, case.width, 3), dtype=np.uint8
    )
    if case.what == "train":
        return _training_step(target, case, device, pixels)
    loaded = _load(target, case, device)
    if case.what == "forward":
        images = normalize(torch.from_numpy(pixels).to(device), loaded.statistics)

        @torch.inference_mode()
        def forward() -> Tensor:
            with autocast(device, case.precision or "fp32"):
                return loaded.network(images)

        return forward
    if isinstance(loaded, SegmentationPredictor):
        return lambda: [classes.cpu() for classes in loaded.batch(list(pixels))]

    def classify() -> Tensor:
        crops = np.stack([loaded.crops(image) for image in pixels])
        return loaded.log_probabilities(torch.from_numpy(crops).to(device)).cpu()

    return classify


def _load(
    target: BenchTarget, case: BenchCase, device: torch.device
) -> SegmentationPredictor | ClassificationPredictor:
    network, dtype = target.network, autocast_type(case.precision or "fp32")
    loaded: SegmentationPredictor | ClassificationPredictor
    # Noise needs no mean and std of its own: any take the same time, and no guess is reported.
    given = None if "mean" in network.metadata else Normalization(IMAGENET, "noise")
    if target.task == "segmentation":
        view = Eval(scales=MULTI_SCALE) if case.what == "multi-scale" else Eval()
        loaded = load_predictor(
            network,
            device,
            given=given,
            view=view,
            autocast=dtype,
            compiled=case.compiled,
            concurrency=1,
        )
    else:
        side = min(case.height, case.width)
        loaded = load_classifier(
            network,
            device,
            given=given,
            crop=side,
            resize=side,
            autocast=dtype,
            compiled=case.compiled,
        )
    if case.runtime == EAGER:
        assert isinstance(network, TrainedNetwork)
        model = deepcopy(network.model).to(device).eval()
        plain = model if target.task == "classification" else model.scores
        if case.compiled:
            plain = torch.compile(plain, dynamic=False)
        return replace(loaded, network=lambda images: plain(images.contiguous()))
    if isinstance(network, ExportedNetwork) and target.task == "classification":
        run = network.session(device, 1)  # one call has all threads
        return replace(loaded, network=lambda images: run(images, "logits"))
    return loaded


def _training_step(
    target: BenchTarget, case: BenchCase, device: torch.device, pixels: Pixels
) -> Call:
    """Set up training of a batch that is on the device already."""
    recipe = bench_recipe(target, case, {"workers": 0, "cache": "none"})
    classification, classes = recipe.task == "classification", recipe.data.classes
    none = Path("none")  # never read
    sample = ClassSample(none, 0) if classification else Sample(none, None)
    samples = [sample] * recipe.train.batch_size
    material = DataBundle(
        train=samples, val=[], statistics=IMAGENET, class_set=generic(classes), root=none
    )
    training = build_train_state(recipe, material, Group(0, 1, device))
    shape = pixels.shape[: 1 if classification else 3]
    labels = torch.randint(classes, shape, generator=torch.Generator().manual_seed(0))
    if not classification:
        labels = labels.to(torch.uint8)
    batch = Batch(torch.from_numpy(pixels).to(device), labels.to(device))
    meter = StepStats(device)
    return lambda: take_step(training, [batch], LEARNING_RATE, 0, meter)


def bench_recipe(target: BenchTarget, case: BenchCase, data: dict[str, Any]) -> Recipe:
    """Return the run's recipe, or a shipped one, changed to the case and the settings of data."""
    recipe = target.recipe or load_recipe(SHIPPED[target.task]).recipe
    model = {"arch": target.arch.name, "width": target.arch.width, "weights": None}
    train: dict[str, Any] = {"batch_size": case.batch, "accumulate": 1, "compile": case.compiled}
    if case.precision is not None:
        train["precision"] = case.precision
    return recipe.model_copy(
        update={
            "model": recipe.model.model_copy(update=model),
            "data": recipe.data.model_copy(update={"classes": target.classes} | data),
            "augment": recipe.augment.model_copy(update={"crop": max(case.height, case.width)}),
            "train": recipe.train.model_copy(update=train),
        }
    )


def check_data(target: BenchTarget, cases: Sequence[BenchCase], data: Path | None) -> None:
    """Check the input pipeline's folder before anything is measured.

    Raises:
        DrnError: The data folder cannot be used, or has fewer images than a batch.
    """
    for case in cases:
        if case.what == "input" and (data is not None or target.recipe is not None):
            _loader_data(target, case, data)


def time_loader(
    target: BenchTarget,
    case: BenchCase,
    device: torch.device,
    budget: TimingBudget,
    data: Path | None,
) -> Timings:
    """Time the input pipeline: batches of augmented crops from files, as training reads them.

    Raises:
        DrnError: The data folder cannot be used, or has fewer images than a batch.
    """
    with TemporaryDirectory(prefix="drn-bench-") as scratch:
        if data is None and target.recipe is None:
            recipe, material = _synthetic_data(target, case, Path(scratch) / "data")
        else:
            recipe, material = _loader_data(target, case, data)
        training = build_train_state(recipe, material, Group(0, 1, device))
        together = min(LOADER_BATCHES, training.order.steps)
        with closing(_endless(training.batches)) as batches:
            timings = time_calls(lambda: [next(batches) for _ in range(together)], budget)
    names = ("least", "p50", "p90", "p99")
    return replace(timings, **{name: getattr(timings, name) / together for name in names})


def _endless(batches: TrainLoader) -> Generator[Batch, None, None]:
    for epoch in count():
        yield from batches.epoch(epoch)


def _loader_data(
    target: BenchTarget, case: BenchCase, data: Path | None
) -> tuple[Recipe, DataBundle]:
    folder = {} if data is None else {"root": str(data), "lists": None}
    recipe = bench_recipe(target, case, {"workers": case.workers, **folder})
    try:
        material = task_of(recipe).load_data(recipe)
    except DrnError as error:
        raise DrnError(error.message, "name a data folder with --data") from error
    if case.batch > len(material.train):
        raise DrnError(
            f"--batch {case.batch}: {recipe.data.root} has {len(material.train)} training images"
        )
    return recipe, material


def _synthetic_data(target: BenchTarget, case: BenchCase, root: Path) -> tuple[Recipe, DataBundle]:
    """Write images of the usual size, and return an epoch of them."""
    if target.task == "classification":
        classes = 2
        for split, number in product(("train", "val"), range(SYNTHETIC_IMAGES)):
            scene, _ = draw_scene(number, *PHOTO_SIZE)
            noisy = scene + np.random.default_rng(number).normal(0, PHOTO_NOISE, scene.shape)
            path = root / split / f"class{number % classes}" / f"{number}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.clip(noisy, 0, 255).astype(np.uint8)).save(path, quality=95)
    else:
        classes = len(cityscapes())
        # Twice as high and four times as wide as the crop, but no larger than those of Cityscapes.
        side = min(max(16, case.height, case.width), 512)
        make_scenes(root, train=SYNTHETIC_IMAGES, val=1, test=0, width=4 * side, height=2 * side)
    data = {"root": str(root), "lists": None, "classes": classes, "workers": case.workers}
    recipe = bench_recipe(target, case, data)
    material = task_of(recipe).load_data(recipe)
    repeats = -(-SYNTHETIC_STEPS * case.batch // len(material.train))
    return recipe, replace(material, train=list(material.train) * repeats)


def to_json(
    target: BenchTarget, machine: MachineInfo, results: Sequence[BenchResult]
) -> dict[str, Any]:
    """Return the document that `read_baseline` reads."""
    return {
        "format": FORMAT,
        "source": target.name,
        "verified": target.verified,
        "arch": target.arch.name,
        "width": target.arch.width,
        "task": target.task,
        "classes": target.classes,
        "parameters": target.parameters,
        "machine": machine.to_json(),
        "results": [result.to_json() for result in results],
    }


@dataclass(frozen=True, slots=True)
class Baseline:
    """An earlier document."""

    medians: dict[tuple[Any, ...], float]  # seconds per batch of each case, by its `CASE_KEYS`
    network: dict[str, Any]  # values of `NETWORK_KEYS`
    machine: dict[str, Any]  # machine and versions


def read_baseline(path: Path) -> Baseline:
    """Read a document that `drn bench` wrote.

    Raises:
        DrnError: The file cannot be read, or is no such document.
    """
    found = read_json(path)
    if not isinstance(found, dict) or found.get("format") != FORMAT:
        raise DrnError(f"{path}: not written by this `drn bench`", "use a file of --out or --json")
    try:
        medians = {
            tuple(row[key] for key in CASE_KEYS): float(row["seconds"]["p50"])
            for row in found["results"]
            if row["seconds"] is not None
        }
        known = {"width": 1.0} | found  # older documents have no width
        network = {key: known[key] for key in NETWORK_KEYS}
        return Baseline(medians, network, dict(found["machine"]))
    except (KeyError, TypeError, ValueError) as error:
        raise DrnError(f"{path}: is damaged: {error}", "measure again") from error


def add_baseline(document: dict[str, Any], baseline: Baseline) -> dict[str, Any]:
    """Add each case's earlier median in seconds and its speedup, and list other differences."""
    compared = []
    for row in document["results"]:
        then, now = baseline.medians.get(tuple(row[key] for key in CASE_KEYS)), row["seconds"]
        speed = None if then is None or now is None else then / now["p50"]
        compared.append({**row, "earlier": then, "speed": speed})
    pairs = [(key, baseline.network[key], document[key]) for key in NETWORK_KEYS]
    pairs += [(key, baseline.machine.get(key), now) for key, now in document["machine"].items()]
    differences = [f"{key} was {then}, is {now}" for key, then, now in pairs if then != now]
    return {**document, "differences": differences, "results": compared}

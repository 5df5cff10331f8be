"""What is measured: a network, and one case for each combination of what was asked for."""

from dataclasses import dataclass
from itertools import product
from typing import Literal, get_args

import torch

from drn_cli.device import Precision, autocast_type, resolve_precision
from drn_cli.errors import DrnError
from drn_cli.files import user_path
from drn_cli.inference.opening import Found, TrainedNetwork, open_network
from drn_cli.inference.runtimes import ExportedNetwork
from drn_cli.inference.source import find_source
from drn_cli.inference.views import view_size
from drn_cli.networks import create_model, profiling
from drn_cli.networks.catalog import Architecture, Task
from drn_cli.networks.models import parameters
from drn_cli.recipe.schema import MULTI_SCALE, Loss, Recipe
from drn_cli.training.loss import make_loss

# In the order of measurement: training comes late because it tunes the whole process for itself.
What = Literal["forward", "predict", "multi-scale", "train", "input"]
WHATS: tuple[What, ...] = get_args(What)
ON_CROPS = ("train", "input")  # batches of training crops; the others take whole images

Workers = int | Literal["auto"]

# `pytorch` is what runs in `drn predict`: batch norm folded, channels-last memory format, faster
# 3x3 convolutions on CPUs. `eager` is the network as it is trained. An exported file has a runtime
# of its own.
PYTORCH, EAGER = RUNTIMES = ("pytorch", "eager")
RUNTIME_OF = {".onnx": "onnxruntime", ".xml": "openvino", ".pt2": "pt2"}

# Height and width in pixels, and batch size, where neither an option nor a recipe has them.
IMAGE_SIZE = {"segmentation": (512, 1024), "classification": (224, 224)}
CROP_SIZE = {"segmentation": (512, 512), "classification": (224, 224)}
TRAIN_BATCH = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchTarget:
    """A network to measure.

    Attributes:
        name: Name that the user gave.
        network: The network with its weights.
        recipe: Recipe of the run it belongs to.
        runtimes: Runtimes that can run it.
        verified: Whether the checksum of its file is right; None without a file.
    """

    name: str
    network: Found
    recipe: Recipe | None = None
    runtimes: tuple[str, ...] = RUNTIMES
    verified: bool | None = None

    @property
    def arch(self) -> Architecture:
        return self.network.architecture

    @property
    def task(self) -> Task:
        return self.network.task

    @property
    def classes(self) -> int:
        return self.network.classes

    @property
    def parameters(self) -> int:
        """Number of parameters, before batch norm is folded."""
        return parameters(self.arch, self.task, self.classes)


def open_target(source: str, task: Task | None = None, classes: int | None = None) -> BenchTarget:
    """Build an architecture with random weights, or open a run, a checkpoint or an export.

    Args:
        source: Name of an architecture, or a path.
        task: Task of an architecture; by default segmentation.
        classes: Number of classes of an architecture; by default 19 or 1000.

    Raises:
        DrnError: There is no such architecture or file, or `task` or `classes` go with a file.
    """
    path = user_path(source)
    if path.exists():
        if task is not None or classes is not None:
            raise DrnError(
                f"--task, --classes: {source} has its own",
                "leave them out; they are for the name of an architecture",
            )
        found = find_source(path)
        network = open_network(found.checkpoint)
        trained = isinstance(network, TrainedNetwork)
        return BenchTarget(
            name=source,
            network=network,
            recipe=found.recipe if trained else None,
            runtimes=RUNTIMES if trained else (RUNTIME_OF[found.checkpoint.suffix.lower()],),
            verified=network.verified,
        )
    if path.suffix or len(path.parts) > 1:
        raise DrnError(f"{source}: no such run folder or file")
    torch.manual_seed(0)
    model = create_model(source, task or "segmentation", classes).eval()
    return BenchTarget(name=model.arch, network=TrainedNetwork(path, model, {}, verified=False))


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchCase:
    """One measurement: all that its time depends on besides the network and the machine.

    Attributes:
        what: What is timed.
        runtime: What runs the network; None in training and for the input pipeline.
        precision: Precision of the computation; None for the input pipeline and exported files.
        compiled: Whether the network runs through torch.compile.
        batch: Batch size.
        height: Height of an image in pixels.
        width: Width of an image in pixels.
        workers: Data loader workers, as in a recipe; None where no files are read.
    """

    what: What
    runtime: str | None
    precision: Precision | None
    compiled: bool
    batch: int
    height: int
    width: int
    workers: Workers | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchOptions:
    """What to measure; None is the default of each measurement.

    Attributes:
        whats: What to time.
        batches: Batch sizes.
        sizes: Heights and widths of images, in pixels.
        precisions: Precisions of the computation.
        compiled: Whether to measure through torch.compile too.
        runtimes: Runtimes of the network.
        workers: Number of data loader workers.
    """

    whats: tuple[What, ...] = ("forward",)
    batches: tuple[int, ...] | None = None
    sizes: tuple[tuple[int, int], ...] | None = None
    precisions: tuple[Precision | Literal["auto"], ...] = ("auto",)
    compiled: bool = False
    runtimes: tuple[str, ...] | None = None
    workers: int | None = None


def plan_cases(target: BenchTarget, options: BenchOptions, device: torch.device) -> list[BenchCase]:
    """List the measurements, each once.

    Raises:
        DrnError: The network does not allow one of the options.
    """
    _check(target, options)
    recipe = target.recipe
    workers: Workers | None = options.workers
    if workers is None:
        workers = "auto" if recipe is None else recipe.data.workers
    cases: list[BenchCase] = []
    for what in (what for what in WHATS if what in options.whats):
        for (height, width), batch, runtime, precision, compiled in product(
            options.sizes or (_default_size(target, what),),
            options.batches or (_default_batch(target, what),),
            options.runtimes or target.runtimes[:1],
            options.precisions,
            (False, True) if options.compiled else (False,),
        ):
            wanted = precision
            if recipe is not None and what == "train" and precision == "auto":
                wanted = recipe.train.precision
            exported = isinstance(target.network, ExportedNetwork) and what != "train"
            fixed = what == "input" or exported
            cases.append(
                BenchCase(
                    what=what,
                    runtime=None if what in ON_CROPS else runtime,
                    precision=None if fixed else resolve_precision(wanted, device),
                    compiled=compiled and what != "input",
                    batch=batch,
                    height=height,
                    width=width,
                    workers=workers if what == "input" else None,
                )
            )
    return list(dict.fromkeys(cases))


def _check(target: BenchTarget, options: BenchOptions) -> None:
    whats, exported = set(options.whats), isinstance(target.network, ExportedNetwork)
    for runtime in options.runtimes or ():
        if runtime not in target.runtimes:
            raise DrnError(
                f"--runtime {runtime}: cannot run {target.name}",
                f"some of: {','.join(target.runtimes)}",
            )
    if target.task == "classification" and "multi-scale" in whats:
        raise DrnError("--what multi-scale: is for segmenters, and this is a classifier")
    if exported and not set(options.precisions) <= {"auto", "fp32"}:
        raise DrnError(f"--precision: {target.name} has the precision of its export")
    if exported and options.compiled:
        raise DrnError(f"--compile: {target.name} has a runtime of its own")
    checkpointing = target.recipe is not None and target.recipe.train.checkpoint_activations
    if options.compiled and "train" in whats and checkpointing:
        raise DrnError(
            "--compile: does not go with train.checkpoint_activations of the run's recipe",
            "leave train out of --what, or --compile",
        )
    square = {"input"} | ({"predict"} if target.task == "classification" else set())
    if affected := sorted(square & whats):
        for height, width in options.sizes or ():
            if height != width:
                raise DrnError(
                    f"--size {width}x{height}: crops are square (--what {','.join(affected)})",
                    f"--size {min(height, width)}",
                )


def _default_size(target: BenchTarget, what: What) -> tuple[int, int]:
    if isinstance(target.network, ExportedNetwork) and target.network.size is not None:
        height, width = target.network.size
        return height, width
    crops = what in ON_CROPS or target.task == "classification"
    if crops and target.recipe is not None:
        return target.recipe.augment.crop, target.recipe.augment.crop
    return (CROP_SIZE if crops else IMAGE_SIZE)[target.task]


def _default_batch(target: BenchTarget, what: What) -> int:
    if what not in ON_CROPS:
        return 1
    if target.recipe is None:
        return TRAIN_BATCH
    return target.recipe.train.batch_size // target.recipe.train.accumulate


def image_flops(target: BenchTarget, case: BenchCase) -> int | None:
    """Return the floating-point operations per image; None for the input pipeline."""
    if case.what == "input":
        return None
    count = profiling.step_flops if case.what == "train" else profiling.forward_flops
    return sum(
        count(target.arch, target.task, target.classes, height=height, width=width)
        for height, width in _network_sizes(case)
    )


def activation_bytes(target: BenchTarget, case: BenchCase) -> int | None:
    """Return the bytes of a batch's activations; None for the input pipeline.

    For inference it is the largest amount at one time, images and scores included, at the largest
    of several sizes. For a training step it is what is saved for the backward pass. Weights do not
    count, nor what libraries allocate, such as copies in other memory formats.
    """
    if case.what == "input":
        return None
    network = (target.arch, target.task, target.classes)
    dtype = autocast_type(case.precision or "fp32")
    shape = (case.batch, *max(_network_sizes(case)))
    if case.what != "train":
        folded = case.runtime != EAGER
        return profiling.activation_bytes(*network, shape, dtype=dtype, folded=folded).peak
    recipe = target.recipe
    loss = make_loss(Loss() if recipe is None else recipe.loss, target.task, torch.device("cpu"))
    checkpointing = recipe is not None and recipe.train.checkpoint_activations
    return profiling.activation_bytes(
        *network, shape, dtype=dtype, loss=loss, checkpointing=checkpointing
    ).saved


def _network_sizes(case: BenchCase) -> list[tuple[int, int]]:
    if case.what != "multi-scale":
        return [(case.height, case.width)]
    return [view_size(case.height, case.width, scale) for scale in MULTI_SCALE]

"""What is measured: a network, and one case for each combination of what was asked for."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Literal, get_args

import torch

from drn_cli.device import Precision, autocast_type, resolve_precision
from drn_cli.errors import DrnError
from drn_cli.files import user_path
from drn_cli.inference.opening import OpenedNetwork, TrainedNetwork, open_network
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
    """A network to measure."""

    name: str  # as the user wrote it
    network: OpenedNetwork
    recipe: Recipe | None = None  # of the run it belongs to
    runtimes: tuple[str, ...] = RUNTIMES
    verified: bool | None = None  # whether the checksum of its file is right; None without a file

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
        raise DrnError(f"{source}: no such run directory or file")
    torch.manual_seed(0)
    model = create_model(source, task or "segmentation", classes).eval()
    return BenchTarget(name=model.arch, network=TrainedNetwork(path, model, {}, verified=False))


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchCase:
    """One measurement: all that its time depends on besides the network and the machine."""

    what: What
    runtime: str | None  # None in training and for the input pipeline
    precision: Precision | None  # None for the input pipeline and exported files
    compiled: bool  # whether the network runs through torch.compile
    batch: int
    height: int  # pixels
    width: int
    workers: Workers | None = None  # of the data loader; None where no files are read


def plan_cases(
    target: BenchTarget,
    device: torch.device,
    *,
    whats: Collection[What],
    batches: Sequence[int] = (),
    sizes: Sequence[tuple[int, int]] = (),
    precisions: Sequence[Precision | Literal["auto"]] = ("auto",),
    compiled: bool = False,
    runtimes: Sequence[str] = (),
    workers: int | None = None,
) -> list[BenchCase]:
    """List the measurements, each once. What is empty or None has a default in each of them.

    Args:
        target: The network.
        device: Where to compute.
        whats: What to time.
        batches: Batch sizes.
        sizes: Heights and widths of images, in pixels.
        precisions: Precisions of the computation.
        compiled: Whether to measure through torch.compile too.
        runtimes: Runtimes of the network.
        workers: Number of data loader workers.

    Raises:
        DrnError: The network does not allow one of the options.
    """
    recipe, exported = target.recipe, isinstance(target.network, ExportedNetwork)
    if unknown := [runtime for runtime in runtimes if runtime not in target.runtimes]:
        hint = f"some of: {','.join(target.runtimes)}"
        raise DrnError(f"--runtime {unknown[0]}: cannot run {target.name}", hint)
    if target.task == "classification" and "multi-scale" in whats:
        raise DrnError("--what multi-scale: is for segmenters, and this is a classifier")
    if exported and not set(precisions) <= {"auto", "fp32"}:
        raise DrnError(f"--precision: {target.name} has the precision of its export")
    if exported and compiled:
        raise DrnError(f"--compile: {target.name} has its own runtime")
    if compiled and "train" in whats and recipe and recipe.train.checkpoint_activations:
        raise DrnError(
            "--compile: does not go with train.checkpoint_activations of the run's recipe",
            "leave train out of --what, or --compile",
        )
    square = {"input"} | ({"predict"} if target.task == "classification" else set())
    if affected := sorted(square & set(whats)):
        for height, width in sizes:
            if height != width:
                raise DrnError(
                    f"--size {width}x{height}: crops are square (--what {','.join(affected)})",
                    f"--size {min(height, width)}",
                )
    loader_workers: Workers = "auto" if recipe is None else recipe.data.workers
    cases: list[BenchCase] = []
    for what in (what for what in WHATS if what in whats):
        for (height, width), batch, runtime, precision, through_compile in product(
            sizes or (_default_size(target, what),),
            batches or (_default_batch(target, what),),
            runtimes or target.runtimes[:1],
            precisions,
            (False, True) if compiled else (False,),
        ):
            wanted = precision
            if recipe is not None and what == "train" and precision == "auto":
                wanted = recipe.train.precision
            fixed = what == "input" or (exported and what != "train")
            case = BenchCase(
                what=what,
                runtime=None if what in ON_CROPS else runtime,
                precision=None if fixed else resolve_precision(wanted, device),
                compiled=through_compile and what != "input",
                batch=batch,
                height=height,
                width=width,
            )
            if what == "input":
                case = replace(case, workers=loader_workers if workers is None else workers)
            cases.append(case)
    return list(dict.fromkeys(cases))


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

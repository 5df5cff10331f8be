"""Images per second, memory, and utilization of the device's matrix peak of a training step.

    python benchmarks/training.py [--arch drn_d_22 drn_d_105] [--crop 896 840] [--batch 8]
        [--variants fp32 bf16 ...] [--rounds 7] [--steps 10] [--json] [--profile FILE]

Each variant adds one setting to the one before; the first is fp32 as it comes, without TF32. What
runs is the step of `drn train`, on one batch that is on the device already: no time goes into
reading. Variants take turns, round by round, after a warm-up that does not count, and the medians
over the rounds are printed. The arithmetic of a step is that of the forward and backward pass, as
torch.utils.flop_counter has it, whatever a variant computes twice. The peak that it is compared
with is measured in the same run, as products of large matrices.

On a GPU, crops and batch are those of the Cityscapes recipes; on CPUs they are small, and nothing
is compiled unless it is asked for. `--profile` writes where the time of the last variant goes: a
trace for Perfetto if FILE ends in .json, a table otherwise.
"""

import argparse
import os
import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from drn_cli.cli import console
from drn_cli.data.batches import Batch
from drn_cli.data.classes import IGNORED, generic
from drn_cli.data.folders import IMAGENET, Sample
from drn_cli.device import set_matmul_precision
from drn_cli.distributed.group import Group
from drn_cli.files import atomic, write_text
from drn_cli.networks import create_model
from drn_cli.recipe.loading import load_recipe
from drn_cli.training.memory import GIB, estimate
from drn_cli.training.setup import TrainState, build_train_state
from drn_cli.training.step import StepStats, take_step
from drn_cli.training.tasks import DataBundle

CROPS = {"drn_d_22": 896, "drn_d_105": 840}  # of the recipes; others are as the first

# What each variant adds to those before it; the last does without the compiler.
VARIANTS = {
    "fp32": (
        "train.precision=fp32",
        "train.tf32=false",
        "train.channels_last=false",
        "train.optimiser.implementation=loop",
        "train.compile=false",
    ),
    "bf16": ("train.precision=bf16",),
    "channels_last": ("train.channels_last=true",),
    "optimiser": ("train.optimiser.implementation=auto",),
    "compile": ("train.compile=true",),
    "recompute": ("train.compile=false", "train.checkpoint_activations=true"),
}
SAID = {
    "fp32": "fp32, eager, NCHW",
    "bf16": "+ bf16",
    "channels_last": "+ channels_last",
    "optimiser": "+ fused optimiser (foreach on CPUs)",
    "compile": "+ torch.compile",
    "recompute": "activations computed again, not compiled",
}


@dataclass
class Variant:
    """A training configuration to measure.

    Attributes:
        name: As in `VARIANTS`.
        training: The network with its settings.
        memory: What its warm-up took at most on the GPU, in bytes; None on CPUs.
        estimated: What `drn train --dry-run` would say, without its allowances.
        seconds: Of a step, one number a round.
    """

    name: str
    training: TrainState
    memory: int | None = None
    estimated: int = 0
    seconds: list[float] = field(default_factory=list)


@dataclass(frozen=True)
class Result:
    """Measurements of a variant, in bytes, seconds and fractions."""

    arch: str
    crop: int
    batch: int
    variant: str
    seconds: float
    images_per_second: float
    speed: float
    share_of_peak: float
    memory: int | None
    estimated_memory: int


def synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def step_flops(arch: str, crop: int, classes: int) -> int:
    """Return the FLOPs of one image, forward and backward, without computing them."""
    with torch.device("meta"):
        model = create_model(arch, "segmentation", classes)
        image = torch.empty(1, 3, crop, crop)
    with FlopCounterMode(display=False) as counter:
        model(image).sum().backward()
    flops: int = counter.get_total_flops()
    return flops


def matrix_peak(device: torch.device, kind: torch.dtype, rounds: int) -> float:
    """Measure the FLOP/s of large matrix products, the best of several rounds."""
    side, repeats = (8192, 20) if device.type == "cuda" else (2048, 2)
    left, right = (torch.randn(side, side, device=device, dtype=kind) for _ in range(2))
    best = float("inf")
    for _ in range(rounds + 1):
        start = time.perf_counter()
        for _ in range(repeats):
            torch.mm(left, right)
        synchronise(device)
        best = min(best, time.perf_counter() - start)
    return 2 * side**3 * repeats / best


def prepare(arch: str, crop: int, batch: int, name: str, device: torch.device) -> Variant:
    """Build a variant as `drn train` would, with placeholder images."""
    settings: list[str] = []
    for known, changes in VARIANTS.items():
        settings += changes
        if known == name:
            break
    recipe = load_recipe(
        "drn_d_22_cityscapes",
        [
            f"model.arch={arch}",
            "model.weights=null",
            f"augment.crop={crop}",
            f"train.batch_size={batch}",
            "train.sync_bn=true",  # no warning of single images
            "data.workers=0",
            *settings,
        ],
    ).recipe
    material = DataBundle(
        train=[Sample(Path("none"), None)] * batch,
        val=[],
        statistics=IMAGENET,
        class_set=generic(recipe.data.classes),
        root=Path(),
    )
    variant = Variant(name, build_train_state(recipe, material, Group(0, 1, device)))
    needed = estimate(recipe, 1, precision=variant.training.precision, on_gpu=device.type == "cuda")
    variant.estimated = needed.total - needed.workspace
    return variant


def make_batch(crop: int, batch: int, classes: int, device: torch.device) -> Batch:
    """Return noise images and labels with some void."""
    random = torch.Generator().manual_seed(0)
    images = torch.randint(256, (batch, crop, crop, 3), dtype=torch.uint8, generator=random)
    labels = torch.randint(classes, (batch, crop, crop), dtype=torch.uint8, generator=random)
    labels[:, : crop // 8] = IGNORED
    return Batch(images.to(device), labels.to(device))


def run_steps(variant: Variant, batch: Batch, steps: int) -> float:
    """Take several steps and return the seconds per step."""
    training = variant.training
    device = training.group.device
    if device.type == "cuda":
        # The variant before set it for itself.
        set_matmul_precision(tf32=training.recipe.train.tf32)
    meter = StepStats(device)
    synchronise(device)
    start = time.perf_counter()
    for step in range(steps):
        take_step(training, [batch], 1e-3, step, meter)
    synchronise(device)
    return (time.perf_counter() - start) / steps


def measure(
    arch: str,
    crop: int,
    batch: int,
    names: list[str],
    device: torch.device,
    rounds: int,
    steps: int,
) -> tuple[list[Variant], Batch]:
    """Measure variants alternately."""
    variants = []
    images = make_batch(crop, batch, 19, device)
    for name in names:
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
            before = torch.cuda.memory_allocated()
        variants.append(variant := prepare(arch, crop, batch, name, device))
        run_steps(variant, images, 2)
        if device.type == "cuda":
            variant.memory = torch.cuda.max_memory_allocated() - before
    for _ in range(rounds):
        for variant in variants:
            variant.seconds.append(run_steps(variant, images, steps))
    return variants, images


def results(arch: str, crop: int, batch: int, variants: list[Variant], peak: float) -> list[Result]:
    arithmetic = batch * step_flops(arch, crop, variants[0].training.recipe.data.classes)
    medians = [statistics.median(variant.seconds) for variant in variants]
    return [
        Result(
            arch=arch,
            crop=crop,
            batch=batch,
            variant=variant.name,
            seconds=median,
            images_per_second=batch / median,
            speed=medians[0] / median,
            share_of_peak=arithmetic / median / peak,
            memory=variant.memory,
            estimated_memory=variant.estimated,
        )
        for variant, median in zip(variants, medians, strict=True)
    ]


def profile(work: Callable[[], object], path: Path) -> None:
    """Write a profile of a call."""
    with torch.profiler.profile() as profiler:
        work()
    if path.suffix == ".json":
        with atomic(path) as temporary:
            profiler.export_chrome_trace(str(temporary))
        return
    on_gpu = torch.cuda.is_available()
    order = "self_cuda_time_total" if on_gpu else "self_cpu_time_total"
    write_text(path, f"{profiler.key_averages().table(sort_by=order, row_limit=40)}\n")


def show(found: list[Result], heading: str) -> None:
    numbers = ("ms a step", "images/s", "speed", "of peak", "GiB", "estimated")
    table = console.table("network", "variant", *numbers, right=numbers)
    for one in found:
        table.add_row(
            f"{one.arch}, {one.batch} x {one.crop}",
            SAID[one.variant],
            f"{1000 * one.seconds:.1f}",
            f"{one.images_per_second:.2f}",
            f"{one.speed:.2f}x",
            f"{one.share_of_peak:.1%}",
            "" if one.memory is None else f"{one.memory / GIB:.2f}",
            f"{one.estimated_memory / GIB:.2f}",
        )
    console.out.print(heading, soft_wrap=True)
    console.out.print(table)


def describe(device: torch.device, peaks: dict[str, float], rounds: int) -> dict[str, Any]:
    on_gpu = device.type == "cuda"
    return {
        "device": torch.cuda.get_device_name() if on_gpu else platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "cuda": torch.version.cuda if on_gpu else None,
        "cudnn": torch.backends.cudnn.version() if on_gpu else None,
        "matrix_peaks": peaks,
        "rounds": rounds,
    }


def main() -> None:
    on_gpu = torch.cuda.is_available()
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--arch", nargs="+", default=list(CROPS) if on_gpu else ["drn_d_22"])
    parser.add_argument("--crop", nargs="+", type=int, help="one for each network")
    parser.add_argument("--batch", type=int, default=8 if on_gpu else 2)
    parser.add_argument(
        "--variants",
        nargs="+",
        choices=VARIANTS,
        default=[name for name in VARIANTS if on_gpu or name != "compile"],
    )
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--steps", type=int, default=10 if on_gpu else 1)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--profile", type=Path)
    wanted = parser.parse_args()
    device = torch.device("cuda" if on_gpu else "cpu")
    usual = [CROPS.get(arch, 896) if on_gpu else 128 for arch in wanted.arch]
    peaks = {
        name: matrix_peak(device, kind, wanted.rounds)
        for name, kind in (("bf16", torch.bfloat16), ("fp32", torch.float32))
    }
    found: list[Result] = []
    for arch, crop in zip(wanted.arch, wanted.crop or usual, strict=True):
        variants, batch = measure(
            arch, crop, wanted.batch, wanted.variants, device, wanted.rounds, wanted.steps
        )
        # Some CPUs compute bfloat16 no faster than float32: what can be had at best is the peak.
        found += results(arch, crop, wanted.batch, variants, max(peaks.values()))
        if wanted.profile:
            profile(partial(run_steps, variants[-1], batch, 3), wanted.profile)
        del variants
    machine = describe(device, peaks, wanted.rounds)
    if wanted.json:
        console.emit_json({**machine, "results": [asdict(one) for one in found]})
        return
    versions = f"CUDA {machine['cuda']}, cuDNN {machine['cudnn']}, " if on_gpu else ""
    show(
        found,
        f"{machine['device']}, {machine['cores']} cores, threads: {machine['threads']}, torch "
        f"{machine['torch']}, {versions}medians of {wanted.rounds} rounds; matrix peak "
        f"{', '.join(f'{name} {value / 1e12:.2f} TFLOP/s' for name, value in peaks.items())}",
    )


if __name__ == "__main__":
    main()

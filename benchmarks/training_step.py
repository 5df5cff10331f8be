"""Time of the parts of a training step on this machine.

    python benchmarks/training_step.py [--arch drn_d_22] [--crop 128] [--batch 4] [--rounds 7]

Prints medians: one sample read and augmented, the parts of a step, and the up-sampling against the
transposed convolution of the original. Images are drawn scenes; nothing is downloaded.
"""

import argparse
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional as F

from drn_cli.cli import console
from drn_cli.data.augment import Augmentation
from drn_cli.data.batches import normalize
from drn_cli.data.decoding import read_pair
from drn_cli.data.folders import IMAGENET, ListDataset
from drn_cli.data.prepare.scenes import make_scenes
from drn_cli.networks import create_model
from drn_cli.networks.conversion import upsampling_weight
from drn_cli.networks.models import upsample

CLASSES = 19


def milliseconds(work: Callable[[], object], rounds: int) -> float:
    """Return the median time of a call in milliseconds, after one warm-up call."""
    work()
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        work()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    return 1000 * statistics.median(times)


def time_sample(crop: int, rounds: int) -> dict[str, float]:
    """Time one sample of 512x256, with the augmentation of the best Cityscapes recipe."""
    with tempfile.TemporaryDirectory() as scratch:
        make_scenes(Path(scratch) / "data", train=1, val=0, test=0, width=512, height=256)
        (sample,) = ListDataset.open(Path(scratch) / "data").samples("train")
        image, label = read_pair(sample, CLASSES)
        full, plain = Augmentation(crop, scale=2, rotate=10), Augmentation(crop)
        turns = iter(range(1_000_000))
        return {
            "sample: read image and label": milliseconds(
                lambda: read_pair(sample, CLASSES), rounds
            ),
            "sample: crop, flip": milliseconds(
                lambda: plain.apply(image, label, plain.draw(0, 0, next(turns))), rounds
            ),
            "sample: rotate, scale, crop, flip": milliseconds(
                lambda: full.apply(image, label, full.draw(0, 0, next(turns))), rounds
            ),
        }


def time_step(arch: str, crop: int, batch: int, rounds: int) -> dict[str, float]:
    """Time the parts of a training step."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = create_model(arch, "segmentation", CLASSES).to(device)
    random = np.random.default_rng(0)
    pixels = torch.from_numpy(random.integers(0, 256, (batch, crop, crop, 3), dtype=np.uint8))
    labels = torch.from_numpy(random.integers(0, CLASSES, (batch, crop, crop))).to(device)
    pixels = pixels.to(device)
    images = normalize(pixels, IMAGENET)
    scores = model.scores(images).detach()
    weight = upsampling_weight(CLASSES).to(device)

    def forward() -> torch.Tensor:
        return F.cross_entropy(model(images), labels)

    with torch.no_grad():
        times = {
            "step: normalise": milliseconds(lambda: normalize(pixels, IMAGENET), rounds),
            "step: forward": milliseconds(forward, rounds),
            "up-sampling: ours": milliseconds(lambda: upsample(scores, crop, crop), rounds),
            "up-sampling: transposed convolution": milliseconds(
                lambda: F.conv_transpose2d(scores, weight, stride=8, padding=4, groups=CLASSES),
                rounds,
            ),
        }
    times["step: forward and backward"] = milliseconds(lambda: forward().backward(), rounds)
    return times


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--arch", default="drn_d_22")
    parser.add_argument("--crop", type=int, default=128)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=7)
    wanted = parser.parse_args()
    times = time_sample(wanted.crop, wanted.rounds)
    times |= time_step(wanted.arch, wanted.crop, wanted.batch, wanted.rounds)
    where = torch.cuda.get_device_name() if torch.cuda.is_available() else platform.processor()
    console.out.print(
        f"{wanted.arch}, {wanted.batch} crops of {wanted.crop}; {where or platform.machine()}, "
        f"{len(os.sched_getaffinity(0))} cores, torch {torch.__version__}"
    )
    table = console.table("part", "ms", right=("ms",))
    for part, value in times.items():
        table.add_row(part, f"{value:.2f}")
    console.out.print(table)


if __name__ == "__main__":
    main()

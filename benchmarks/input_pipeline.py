"""Time of a training sample on one core, compared with the original's; and of data preparation.

    python benchmarks/input_pipeline.py [--images 6] [--rounds 7] [--labels 300]

Segmentation: drawn scenes of 2048x1024 as PNG, with the two settings of the Cityscapes recipes. The
baseline decodes with Pillow and goes step by step over whole images as the original does, which
includes rotating nine reflected copies and handing over normalised floats. Ours hands over uint8;
what normalising would add on the core that reads is shown, though the device does it.

Classification: JPEGs of about the size of ImageNet's, against torchvision's v2 transforms on
tensors (more in classification_input.py). Preparing: the labels of Cityscapes, against decoding and
encoding them alone on all cores (more in prepare_cityscapes.py).

Every sample has the same draws in all ways. In each round every way reads all samples, one way
after the other, in one process; the table has the medians over samples and rounds. Nothing is
downloaded.
"""

import argparse
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import classification_input
import cv2
import numpy as np
import PIL
import torch
import torchvision
from PIL import Image

from drn_cli.cli import console
from drn_cli.data.augment import Augmentation
from drn_cli.data.batches import TrainDataset, normalize
from drn_cli.data.cache import DecodedCache
from drn_cli.data.folders import CITYSCAPES, ListDataset, Sample
from drn_cli.data.order import SampleKey
from drn_cli.data.prepare.scenes import make_scenes

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "data"))
import step_by_step

SETTINGS = {
    "D-105 (crop 840, scale 2, rotate 10, flip)": Augmentation(840, scale=2, rotate=10),
    "D-22 (crop 896, flip)": Augmentation(896),
}
GOALS = {"cache": (30, 60), "png": (10, 1.5)}  # for the two settings

Way = Callable[[SampleKey], object]


def original(samples: list[Sample], augmentation: Augmentation) -> Way:
    """Decode, augment and normalize as the original does."""
    mean, std = (
        torch.tensor(values)[:, None, None] for values in (CITYSCAPES.mean, CITYSCAPES.std)
    )

    def read(turn: SampleKey) -> object:
        sample = samples[turn.sample]
        image = np.asarray(Image.open(sample.image).convert("RGB"))
        label = np.asarray(Image.open(sample.label))
        draw = augmentation.draw(0, turn.epoch, turn.sample)
        image, label = step_by_step.augment(image, label, draw, augmentation.crop)
        pixels = torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1).contiguous()
        target = torch.from_numpy(np.ascontiguousarray(label)).long()
        return pixels.float().div(255).sub_(mean).div_(std), target

    return read


def ours(samples: list[Sample], augmentation: Augmentation, cache: DecodedCache | None) -> Way:
    return TrainDataset(samples, 19, augmentation, 0, cache).__getitem__


def normalised(way: Way) -> Way:
    def read(turn: SampleKey) -> object:
        item = way(turn)
        assert isinstance(item, tuple), item
        return normalize(torch.from_numpy(np.array(item[0]))[None], CITYSCAPES), item[1]

    return read


def medians(ways: dict[str, Way], samples: int, rounds: int) -> dict[str, float]:
    """Return the milliseconds of each implementation on the same crops, run alternately."""
    times: dict[str, list[float]] = {name: [] for name in ways}
    for epoch in range(rounds + 1):
        for name, way in ways.items():
            for sample in range(samples):
                start = time.perf_counter()
                way(SampleKey(epoch, sample))
                if epoch:  # the first round does not count
                    times[name].append(1000 * (time.perf_counter() - start))
    return {name: statistics.median(taken) for name, taken in times.items()}


def segmentation(images: int, rounds: int) -> None:
    table = console.table("sample", "way", "ms", "speed", "goal", right=("ms", "speed", "goal"))
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch) / "data"
        make_scenes(root, train=images, val=0, test=0, width=2048, height=1024)
        samples = ListDataset.open(root).samples("train")
        png, label = (
            statistics.mean(path.stat().st_size for path in paths) / 1000
            for paths in zip(*((sample.image, sample.label) for sample in samples), strict=True)
        )
        console.out.print(f"{images} PNG of {png:.0f} KB, labels of {label:.0f} KB")
        cache = DecodedCache(root / "drn-cache", root)
        for sample in samples:
            cache.add(sample)
        for number, (name, augmentation) in enumerate(SETTINGS.items()):
            plain, kept = ours(samples, augmentation, None), ours(samples, augmentation, cache)
            times = medians(
                {
                    "step by step": original(samples, augmentation),
                    "ours, from PNG": plain,
                    "ours, from PNG, normalised here": normalised(plain),
                    "ours, from the cache": kept,
                    "ours, from the cache, normalised here": normalised(kept),
                },
                images,
                rounds,
            )
            goals = ["", f"{GOALS['png'][number]}x", "", f"{GOALS['cache'][number]}x", ""]
            for (way, value), goal in zip(times.items(), goals, strict=True):
                speed = times["step by step"] / value
                table.add_row(name, way, f"{value:.2f}", f"{speed:.1f}x", goal)
    console.out.print(table)


def classification(images: int, rounds: int) -> None:
    table = console.table("sample", "way", "ms", "speed", "goal", right=("ms", "speed", "goal"))
    with tempfile.TemporaryDirectory() as scratch:
        files = [
            classification_input.draw_jpeg(Path(scratch) / f"{seed}.jpg", seed)
            for seed in range(images)
        ]
        works = classification_input.samples(files)
        times = classification_input.milliseconds(works, images, rounds)
    theirs = times["train: torchvision v2 on tensors"]
    for name in ("train: torchvision v2 on tensors", "train: ours", "train: ours, normalised here"):
        goal = "1.0x" if name == "train: ours" else ""
        speed = f"{theirs / times[name]:.2f}x"
        table.add_row("ImageNet-like JPEG", name, f"{times[name]:.2f}", speed, goal)
    console.out.print(table)


def preparing(labels: int) -> None:
    """Run the benchmark of data preparation in a separate process.

    Processes that it starts import its main module, which should not be this one, with torch.
    """
    script = Path(__file__).with_name("prepare_cityscapes.py")
    console.out.print("\nprepare cityscapes; goal: 0.8 of the rate of decoding and encoding alone")
    subprocess.run([sys.executable, script, "--labels", str(labels)], check=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=6)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--labels", type=int, default=300)
    wanted = parser.parse_args()
    torch.set_num_threads(1)
    console.out.print(
        f"{platform.machine()}, {len(os.sched_getaffinity(0))} cores, Python "
        f"{platform.python_version()}, torch {torch.__version__}, torchvision "
        f"{torchvision.__version__}, Pillow {PIL.__version__}, OpenCV {cv2.__version__}; "
        f"medians of {wanted.rounds} rounds",
        soft_wrap=True,
    )
    segmentation(wanted.images, wanted.rounds)
    classification(2 * wanted.images, 2 * wanted.rounds)
    preparing(wanted.labels)


if __name__ == "__main__":
    main()

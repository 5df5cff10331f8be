"""Time of a classification training sample on one core, compared with torchvision's transforms.

    python benchmarks/classification_input.py [--images 12] [--rounds 15]

The images are drawn scenes of 500x375 with noise, as JPEGs of about the size that ImageNet's
have; nothing is downloaded. Ours hands over uint8 and leaves it to the device to normalise, which
torchvision's transforms do on the core that reads. Everything is timed in turns, round by round,
in one process with one thread, and the medians over the rounds are printed; beside each resampler
and decoder, how far it is from the reference.
"""

import argparse
import io
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import PIL
import torch
import torchvision
from PIL import Image
from torchvision.io import ImageReadMode, decode_jpeg, read_file
from torchvision.transforms import v2

from drn_cli.cli import console
from drn_cli.data.batches import normalize
from drn_cli.data.class_folders import ClassSample
from drn_cli.data.classification import ClassificationSet, ClassificationTestSet
from drn_cli.data.folders import IMAGENET
from drn_cli.data.images import Pixels, read_image
from drn_cli.data.order import SampleKey
from drn_cli.data.prepare.scenes import draw_scene
from drn_cli.data.resized_crop import ResizedCrop, resample

WIDTH, HEIGHT, CROP = 500, 375, 224
NOISE = 9.3  # standard deviation; with quality 95 it makes files of about 110 KB

Work = Callable[[int], object]


def draw_jpeg(path: Path, seed: int) -> Path:
    """Write a scene with photographic grain: noise correlated between neighboring pixels."""
    scene, _ = draw_scene(seed, WIDTH, HEIGHT)
    noise = np.random.default_rng(seed).normal(0, 1, (HEIGHT, WIDTH, 3))
    grain = noise + 2 * cv2.GaussianBlur(noise, (3, 3), 0)
    image = np.clip(scene + NOISE * grain / grain.std(), 0, 255).astype(np.uint8)
    Image.fromarray(image).save(path, quality=95)
    return path


def milliseconds(works: dict[str, Work], count: int, rounds: int) -> dict[str, float]:
    """Return the median time of a call of each in milliseconds, after one warm-up round."""
    times: dict[str, list[float]] = {name: [] for name in works}
    for number in range(rounds + 1):
        for name, work in works.items():
            start = time.perf_counter()
            for index in range(count):
                work(index)
            if number:
                times[name].append((time.perf_counter() - start) / count)
    return {name: 1000 * statistics.median(taken) for name, taken in times.items()}


def samples(files: list[Path]) -> dict[str, Work]:
    """Return the complete path from a file to a training sample, for each implementation."""
    listed = [ClassSample(file, 0) for file in files]
    ours = ClassificationSet(listed, ResizedCrop(CROP), seed=0)
    one, ten = (ClassificationTestSet(listed, view) for view in ("1-crop", "10-crop"))
    epochs = iter(range(10**9))
    finish = [v2.ToDtype(torch.float32, scale=True), v2.Normalize(IMAGENET.mean, IMAGENET.std)]
    crop = v2.RandomResizedCrop(CROP, antialias=True)
    train = v2.Compose([crop, v2.RandomHorizontalFlip(), *finish])
    test = v2.Compose([v2.Resize(256, antialias=True), v2.CenterCrop(CROP), *finish])

    def decoded(index: int) -> torch.Tensor:
        return decode_jpeg(read_file(str(files[index])), mode=ImageReadMode.RGB)

    def normalised(item: Any) -> torch.Tensor:
        return normalize(torch.from_numpy(item[0])[None], IMAGENET)

    return {
        "train: torchvision v2 on tensors": lambda index: train(decoded(index)),
        "train: ours": lambda index: ours[SampleKey(next(epochs), index)],
        "train: ours, normalised here": lambda index: normalised(
            ours[SampleKey(next(epochs), index)]
        ),
        "1-crop test: torchvision v2 on tensors": lambda index: test(decoded(index)),
        "1-crop test: ours": lambda index: one[index],
        "10-crop test: ours": lambda index: ten[index],
    }


def decoders(files: list[Path]) -> dict[str, Callable[[int], Pixels]]:
    data = [np.fromfile(file, np.uint8) for file in files]
    held = [torch.from_numpy(values) for values in data]

    def pillow(index: int, reduced: int = 1) -> Pixels:
        image = Image.open(io.BytesIO(data[index].tobytes()))
        image.draft("RGB", (WIDTH // reduced, HEIGHT // reduced))
        return np.asarray(image)

    return {
        "torchvision decode_jpeg": lambda index: (
            decode_jpeg(held[index], mode=ImageReadMode.RGB).permute(1, 2, 0).numpy()
        ),
        "Pillow": pillow,
        "Pillow, draft of half the size": lambda index: pillow(index, 2),
        "OpenCV": lambda index: cv2.imdecode(data[index], cv2.IMREAD_COLOR_RGB),
        "ours (read_image)": lambda index: read_image(files[index]),
    }


def resamplers(files: list[Path]) -> dict[str, Callable[[int], Pixels]]:
    """Return resizing of training windows to the crop size, for each implementation."""
    images = [read_image(file) for file in files]
    tensors = [torch.from_numpy(image).permute(2, 0, 1).contiguous() for image in images]
    drawn = [ResizedCrop().draw(0, 0, index, HEIGHT, WIDTH) for index in range(len(files))]
    boxes = [(window.top, window.left, window.height, window.width) for window in drawn]

    def window(index: int) -> Pixels:
        top, left, height, width = boxes[index]
        return images[index][top : top + height, left : left + width]

    def pillow(index: int) -> Pixels:
        made = Image.fromarray(window(index)).resize((CROP, CROP), Image.Resampling.BILINEAR)
        return np.asarray(made)

    def pillow_box(index: int) -> Pixels:
        top, left, height, width = boxes[index]
        box = (left, top, left + width, top + height)
        whole = Image.fromarray(images[index])
        return np.asarray(whole.resize((CROP, CROP), Image.Resampling.BILINEAR, box=box))

    def torchvision_crop(index: int) -> Pixels:
        size = [CROP, CROP]
        made = v2.functional.resized_crop(tensors[index], *boxes[index], size, antialias=True)
        return made.permute(1, 2, 0).numpy()

    def opencv(index: int, kind: int) -> Pixels:
        return cv2.resize(window(index), (CROP, CROP), interpolation=kind)

    return {
        "torchvision resized_crop": torchvision_crop,
        "Pillow": pillow,
        "Pillow, box=": pillow_box,
        "OpenCV linear, not anti-aliased": lambda index: opencv(index, cv2.INTER_LINEAR),
        "OpenCV area": lambda index: opencv(index, cv2.INTER_AREA),
        "ours (resample)": lambda index: resample(window(index), CROP, CROP),
    }


def errors(works: dict[str, Callable[[int], Pixels]], count: int) -> dict[str, str]:
    """Describe the difference of each from the first, in levels of 255."""
    reference, *others = works
    said = {reference: "reference"}
    for name in others:
        pairs = [(works[reference](index), works[name](index)) for index in range(count)]
        if any(one.shape != other.shape for one, other in pairs):
            said[name] = "another size"
            continue
        off = np.concatenate([np.abs(one.astype(int) - other).ravel() for one, other in pairs])
        said[name] = f"{off.max()}; {(off > 0).mean():.1%} differ, {(off > 1).mean():.1%} by over 1"
    return said


def half_size_error() -> str:
    """Describe the error of crops decoded at half size, where half size suffices."""
    with tempfile.TemporaryDirectory() as scratch:
        file = Path(scratch) / "large.jpg"
        scene, _ = draw_scene(0, 4 * WIDTH, 4 * HEIGHT)
        noise = np.random.default_rng(0).normal(0, 5, scene.shape)
        Image.fromarray(np.clip(scene + noise, 0, 255).astype(np.uint8)).save(file, quality=95)
        whole = read_image(file)
        with Image.open(file) as image:
            image.draft("RGB", (2 * WIDTH, 2 * HEIGHT))
            half = np.asarray(image)
    said = []
    for side in (600, 1000, 1400):
        one = resample(whole[40 : 40 + side, 80 : 80 + side], CROP, CROP).astype(int)
        other = resample(half[20 : 20 + side // 2, 40 : 40 + side // 2], CROP, CROP)
        off = np.abs(one - other)
        said.append(f"window {side}: up to {off.max()}, {(off > 1).mean():.1%} by over 1")
    return "; ".join(said)


def show(title: str, times: dict[str, float], note: str, notes: Iterable[str]) -> None:
    table = console.table(title, "ms", note, right=("ms",))
    for (name, value), said in zip(times.items(), notes, strict=True):
        table.add_row(name, f"{value:.3f}", said)
    console.out.print(table)
    console.out.print()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=12)
    parser.add_argument("--rounds", type=int, default=15)
    wanted = parser.parse_args()
    count = wanted.images
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    with tempfile.TemporaryDirectory() as scratch:
        files = [draw_jpeg(Path(scratch) / f"{seed}.jpg", seed) for seed in range(count)]
        size = statistics.mean(file.stat().st_size for file in files)
        console.out.print(
            f"{count} JPEGs of {WIDTH}x{HEIGHT}, {size / 1000:.0f} KB on average; medians of "
            f"{wanted.rounds} rounds, one thread; {platform.machine()}, torch {torch.__version__}, "
            f"torchvision {torchvision.__version__}, Pillow {PIL.__version__}, "
            f"OpenCV {cv2.__version__}\n"
        )
        times = milliseconds(samples(files), count, wanted.rounds)
        theirs = times["train: torchvision v2 on tensors"]
        tested = times["1-crop test: torchvision v2 on tensors"]
        rates = ["", f"{theirs / times['train: ours']:.2f}x"]
        rates += [f"{theirs / times['train: ours, normalised here']:.2f}x"]
        rates += ["", f"{tested / times['1-crop test: ours']:.2f}x", ""]
        show("sample", times, "speed", rates)
        for title, works in (("decoder", decoders(files)), ("resampler", resamplers(files))):
            times = milliseconds(works, count, wanted.rounds)
            show(title, times, "off by, of 255", errors(works, count).values())
    console.out.print(f"crops from a JPEG decoded at half its size: {half_size_error()}")


if __name__ == "__main__":
    main()

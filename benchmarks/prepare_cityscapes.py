"""Time to convert Cityscapes labels to train ids, compared with decoding and encoding alone.

    python benchmarks/prepare_cityscapes.py [--labels 300] [--rounds 5]

The labels are drawn scenes of 2048x1024, a few of them many times over; nothing is downloaded.
"Alone" is what as many processes as there are cores do when each decodes a label with OpenCV and
saves it with Pillow at the same compression, and nothing else; they have started already.
"Prepared" is the whole of `prepare_cityscapes`: starting its processes, checking images and
labels, mapping the ids, lists and info.json. Prints medians and their ratio.
"""

import argparse
import multiprocessing
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import PIL
from PIL import Image

from drn_cli.cli import console
from drn_cli.data.prepare.cityscapes import prepare_cityscapes
from drn_cli.data.prepare.scenes import make_scenes

DRAWN = 8


def make_copy(folder: Path, labels: int) -> Path:
    """Create the layout of Cityscapes from links to a few synthetic scenes."""
    make_scenes(folder / "drawn", train=DRAWN, val=0, test=0, width=2048, height=1024)
    for top, end in (("leftImg8bit", "leftImg8bit"), ("gtFine", "gtFine_labelIds")):
        drawn = sorted((folder / "drawn" / top / "train").rglob(f"*_{end}.png"))
        place = folder / "cityscapes" / top / "train" / "dilaton"
        place.mkdir(parents=True)
        for number in range(labels):
            path = place / f"dilaton_{number:06d}_000019_{end}.png"
            path.hardlink_to(drawn[number % DRAWN])
    return folder / "cityscapes"


def recode(paths: tuple[Path, Path]) -> None:
    label = cv2.imread(str(paths[0]), cv2.IMREAD_UNCHANGED)
    Image.fromarray(label).save(paths[1], format="PNG", compress_level=1)


def seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def measure(root: Path, scratch: Path, rounds: int) -> tuple[list[float], list[float]]:
    """Time both alternately, so that changes of machine speed affect both."""
    sources = sorted((root / "gtFine").rglob("*_labelIds.png"))
    pairs = [(path, scratch / path.name) for path in sources]
    cores = len(os.sched_getaffinity(0))
    alone, prepared = [], []
    with ProcessPoolExecutor(cores, multiprocessing.get_context("spawn")) as pool:
        list(pool.map(recode, pairs[: 8 * cores], chunksize=4))  # start the processes
        for _ in range(rounds):
            alone.append(seconds(lambda: list(pool.map(recode, pairs, chunksize=4))))
            for path in [*root.rglob("*_trainIds.png"), *root.glob("*.txt"), *root.glob("*.json")]:
                path.unlink()
            prepared.append(seconds(lambda: prepare_cityscapes(root, partial=True)))
    return alone, prepared


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--labels", type=int, default=300)
    parser.add_argument("--rounds", type=int, default=5)
    wanted = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = make_copy(Path(folder), wanted.labels)
        scratch = Path(folder) / "scratch"
        scratch.mkdir()
        alone, prepared = measure(root, scratch, wanted.rounds)
        again = seconds(lambda: prepare_cityscapes(root, partial=True))
    console.out.print(
        f"{wanted.labels} labels of 2048x1024, {wanted.rounds} rounds; "
        f"{platform.processor() or platform.machine()}, {len(os.sched_getaffinity(0))} cores, "
        f"Python {platform.python_version()}, OpenCV {cv2.__version__}, "
        f"Pillow {PIL.__version__}, NumPy {np.__version__}",
        soft_wrap=True,
    )
    table = console.table("what", "seconds", "labels/s", right=("seconds", "labels/s"))
    medians = {"alone": statistics.median(alone), "prepared": statistics.median(prepared)}
    for what, value in {**medians, "prepared, second run": again}.items():
        table.add_row(what, f"{value:.2f}", f"{wanted.labels / value:.0f}")
    console.out.print(table)
    console.out.print(f"prepared / alone: {medians['alone'] / medians['prepared']:.2f} of the rate")


if __name__ == "__main__":
    main()

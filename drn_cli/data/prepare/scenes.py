"""A small data folder of synthetic street scenes, in the layout and naming of Cityscapes."""

import os
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from drn_cli.data.classes import cityscapes, cityscapes_train_ids
from drn_cli.data.parallel import Progress, RunningStats, in_parallel
from drn_cli.data.prepare.common import (
    PrepareResult,
    count_pixels,
    is_empty,
    locked_folder,
    new_folder,
    write_info,
    write_list,
)
from drn_cli.data.synthetic import draw_scene
from drn_cli.errors import DrnError
from drn_cli.files import read_json

__all__ = ["draw_scene", "make_scenes"]

# Invented cities; as in Cityscapes, no city is in two splits.
CITIES = {"train": ("dilaton", "residua"), "val": ("gridley",), "test": ("stridegate",)}
# Width and height: objects of smaller images are a few pixels, circles of larger ones polygons.
SMALLEST, LARGEST = (64, 32), (8192, 4096)
WIDEST, TALLEST = 8, 4  # largest width / height and height / width that show the street
REVISION = 2  # increment it when the same seed draws other images

# Measured: drawing a scene takes time in proportion to its pixels + 30,000, and 85 bytes of memory
# a pixel. Below about 5 million pixels, starting processes takes longer than drawing.
PIXELS_OF_A_SCENE, PIXELS_TO_SHARE, BYTES_PER_PIXEL = 30_000, 5_000_000, 85

Scene = tuple[str, int]  # split and index in the split
Drawn = tuple[RunningStats, NDArray[np.int64]]  # sums over the image, pixel count of each train id


def make_scenes(
    out: Path,
    *,
    train: int = 48,
    val: int = 12,
    test: int = 4,
    width: int = 256,
    height: int = 128,
    seed: int = 0,
    progress: Progress | None = None,
) -> PrepareResult:
    """Draw street scenes into a new data folder; a folder with the same scenes is left unchanged.

    Many or large scenes are drawn on all cores, with the same result.

    Args:
        out: Folder to create; it is renamed into place when it is complete.
        train: Number of training images.
        val: Number of validation images.
        test: Number of images without labels.
        width: Width of the images in pixels.
        height: Height of the images in pixels.
        seed: Random seed.
        progress: Called with the number of images done and their total.

    Raises:
        DrnError: `out` has other contents or cannot be written, or a number is out of range.
    """
    counts = {"train": train, "val": val, "test": test}
    _check(counts, width, height, seed)
    settings = {**counts, "width": width, "height": height, "seed": seed, "revision": REVISION}
    with locked_folder(out):
        if _is_up_to_date(out, settings):
            return PrepareResult(out, counts, unchanged=True)
        scenes = [(split, index) for split, count in counts.items() for index in range(count)]
        # On all cores if that is faster and needs at most half of the memory.
        processes = min(len(scenes), len(os.sched_getaffinity(0)))
        memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        pixels = width * height
        fits = processes * pixels * BYTES_PER_PIXEL <= memory / 2
        share = fits and len(scenes) * (pixels + PIXELS_OF_A_SCENE) > PIXELS_TO_SHARE
        few = 0 if processes > 1 and share else len(scenes)
        with new_folder(out) as folder:
            draw = partial(_draw, folder, counts, (width, height), seed)
            drawn = list(in_parallel(draw, scenes, progress, few=few))
            for split, count in counts.items():
                stems = [_stem(split, index, count) for index in range(count)]
                write_list(folder, f"{split}_images.txt", map(_image_path, stems))
                if split != "test":
                    paths = [_label_path(stem, "trainIds") for stem in stems]
                    write_list(folder, f"{split}_labels.txt", paths)
            results = list(zip(scenes, drawn, strict=True))
            training = (stats for (split, _), (stats, _) in results if split == "train")
            labels = (
                (split, _label_path(_stem(split, index, counts[split]), "trainIds"), train_ids)
                for (split, index), (_, train_ids) in results
                if split != "test"
            )
            write_info(
                folder,
                RunningStats.total(training).statistics(),
                cityscapes(),
                class_pixels=count_pixels(labels, len(cityscapes())),
                scenes=settings,
            )
        return PrepareResult(out, counts, unchanged=False)


def _check(counts: dict[str, int], width: int, height: int, seed: int) -> None:
    for split, count in counts.items():
        least = 1 if split == "train" else 0
        if count < least:
            raise DrnError(f"{count} {split} scenes: too few", f"choose {least} or more")
    in_range = SMALLEST[0] <= width <= LARGEST[0] and SMALLEST[1] <= height <= LARGEST[1]
    if not in_range or width > WIDEST * height or height > TALLEST * width:
        limits = "{}x{} to {}x{}".format(*SMALLEST, *LARGEST)
        raise DrnError(
            f"scenes of {width}x{height} pixels: size out of range",
            f"choose {limits}, at most {WIDEST} times as wide as high "
            f"and {TALLEST} times as high as wide",
        )
    if seed < 0:
        raise DrnError(f"seed {seed}: is negative", "choose 0 or more")


def _draw(
    folder: Path, counts: Mapping[str, int], size: tuple[int, int], seed: int, scene: Scene
) -> Drawn:
    """Draw and save one scene; return the statistics of its image and its train id counts."""
    split, index = scene
    # No two scenes of a folder have the same seed, however many there are.
    words = (seed, list(CITIES).index(split), index)
    scene_seed = int(np.random.SeedSequence(words).generate_state(1, np.uint64)[0])
    image, labels = draw_scene(scene_seed, *size)
    train_ids = cityscapes_train_ids()[labels]
    stem = _stem(split, index, counts[split])
    files = {_image_path(stem): image}
    if split != "test":
        files |= {_label_path(stem, "labelIds"): labels, _label_path(stem, "trainIds"): train_ids}
    for name, pixels in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)
    return RunningStats.of(image), np.bincount(train_ids.ravel(), minlength=256)


def _is_up_to_date(out: Path, settings: dict[str, int]) -> bool:
    """Whether `out` contains exactly these scenes; DrnError if it contains anything else."""
    if not os.path.lexists(out) or is_empty(out):
        return False
    info: Any = read_json(out / "info.json") if (out / "info.json").is_file() else {}
    found = info.get("scenes") if isinstance(info, dict) else None
    if found == settings:
        return True
    what = "contains scenes with other settings" if found else "was not made by this command"
    raise DrnError(f"{out}: exists and {what}", "choose another folder")


def _stem(split: str, index: int, count: int) -> str:
    """Return `SPLIT/CITY/CITY_SEQUENCE_FRAME`; images are divided among the cities of a split."""
    cities = CITIES[split]
    each = -(-count // len(cities))
    city, sequence = cities[index // each], index % each
    return f"{split}/{city}/{city}_{sequence:06d}_000019"


def _image_path(stem: str) -> str:
    return f"leftImg8bit/{stem}_leftImg8bit.png"


def _label_path(stem: str, kind: str) -> str:
    return f"gtFine/{stem}_gtFine_{kind}.png"

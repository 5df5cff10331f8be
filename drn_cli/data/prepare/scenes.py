"""A small data folder of drawn street scenes, in the layout and naming of Cityscapes."""

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
    claimed,
    count_pixels,
    is_untouched,
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
SMALLEST, LARGEST = (64, 32), (8192, 4096)  # below, objects are blots; above, circles have corners
WIDEST, TALLEST = 8, 4  # width over height, height over width: beyond, the street is out of view
REVISION = 2  # of the drawing: raise it when the same seed gives other images

# Measured: a scene takes as long as its pixels and 30,000 more, and 85 bytes a pixel of memory.
# Below some 5 million pixels in all, one process is done before others have started.
PIXELS_OF_A_SCENE, PIXELS_TO_SHARE, BYTES_PER_PIXEL = 30_000, 5_000_000, 85

Scene = tuple[str, int]  # split, and number in it
Drawn = tuple[RunningStats, NDArray[np.int64]]  # of an image, and number of pixels of each train id


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
        out: Folder to create; it appears only when it is complete.
        train: Number of training images.
        val: Number of validation images.
        test: Number of images without labels.
        width: Width of the images in pixels.
        height: Height of the images in pixels.
        seed: Random seed.
        progress: Called with the number of images done and their total.

    Raises:
        DrnError: `out` is something else or cannot be written, or a number is out of range.
    """
    counts = {"train": train, "val": val, "test": test}
    _check(counts, width, height, seed)
    settings = {**counts, "width": width, "height": height, "seed": seed, "revision": REVISION}
    with claimed(out):
        if _is_made(out, settings):
            return PrepareResult(out, counts, unchanged=True)
        scenes = [(split, index) for split, count in counts.items() for index in range(count)]
        shared = _is_worth_sharing(len(scenes), width * height)
        run = partial(in_parallel, few=0 if shared else len(scenes))
        with new_folder(out) as folder:
            draw = partial(_draw, folder, counts, (width, height), seed)
            drawn = list(run(draw, scenes, progress))
            for split, count in counts.items():
                _write_lists(folder, split, count)
            training = [
                moments
                for (split, _), (moments, _) in zip(scenes, drawn, strict=True)
                if split == "train"
            ]
            labels = (
                (split, _label_path(_stem(split, index, counts[split]), "trainIds"), pixels)
                for (split, index), (_, pixels) in zip(scenes, drawn, strict=True)
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
            raise DrnError(f"{count} {split} scenes cannot be drawn", f"ask for {least} or more")
    in_range = SMALLEST[0] <= width <= LARGEST[0] and SMALLEST[1] <= height <= LARGEST[1]
    if not in_range or width > WIDEST * height or height > TALLEST * width:
        limits = "{}x{} to {}x{}".format(*SMALLEST, *LARGEST)
        raise DrnError(
            f"scenes of {width}x{height} pixels cannot be drawn",
            f"choose {limits}, at most {WIDEST} times as wide as high "
            f"and {TALLEST} times as high as wide",
        )
    if seed < 0:
        raise DrnError(f"{seed} cannot be a seed", "choose a number from 0 up")


def _is_worth_sharing(count: int, pixels: int) -> bool:
    """Whether drawing on all cores is faster and needs at most half of the memory."""
    processes = min(count, len(os.sched_getaffinity(0)))
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    fits = processes * pixels * BYTES_PER_PIXEL <= memory / 2
    return processes > 1 and fits and count * (pixels + PIXELS_OF_A_SCENE) > PIXELS_TO_SHARE


def _draw(
    folder: Path, counts: Mapping[str, int], size: tuple[int, int], seed: int, scene: Scene
) -> Drawn:
    """Draw and save one scene; return the statistics of its image and its train id counts."""
    split, index = scene
    image, labels = draw_scene(_scene_seed(seed, split, index), *size)
    _save(folder, split, _stem(split, index, counts[split]), image, labels)
    train_ids = cityscapes_train_ids()[labels]
    return RunningStats.of(image), np.bincount(train_ids.ravel(), minlength=256)


def _is_made(out: Path, settings: dict[str, int]) -> bool:
    """Whether `out` contains exactly these scenes; DrnError if it contains anything else."""
    if not os.path.lexists(out) or is_untouched(out):
        return False
    info: Any = read_json(out / "info.json") if (out / "info.json").is_file() else {}
    found = info.get("scenes") if isinstance(info, dict) else None
    if found == settings:
        return True
    what = "holds scenes of other settings" if found else "exists and was not made by this command"
    raise DrnError(f"{out}: {what}", "choose another folder")


def _scene_seed(seed: int, split: str, index: int) -> int:
    """Seed of one scene: no two scenes of a folder share one, however many there are."""
    words = (seed, list(CITIES).index(split), index)
    return int(np.random.SeedSequence(words).generate_state(1, np.uint64)[0])


def _stem(split: str, index: int, count: int) -> str:
    """`SPLIT/CITY/CITY_SEQUENCE_FRAME`: images are divided among the cities of the split."""
    cities = CITIES[split]
    each = -(-count // len(cities))
    city, sequence = cities[index // each], index % each
    return f"{split}/{city}/{city}_{sequence:06d}_000019"


def _image_path(stem: str) -> str:
    return f"leftImg8bit/{stem}_leftImg8bit.png"


def _label_path(stem: str, kind: str) -> str:
    return f"gtFine/{stem}_gtFine_{kind}.png"


def _save(
    folder: Path, split: str, stem: str, image: NDArray[np.uint8], labels: NDArray[np.uint8]
) -> None:
    files = {_image_path(stem): image}
    if split != "test":
        files[_label_path(stem, "labelIds")] = labels
        files[_label_path(stem, "trainIds")] = cityscapes_train_ids()[labels]
    for name, pixels in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)


def _write_lists(folder: Path, split: str, count: int) -> None:
    stems = [_stem(split, index, count) for index in range(count)]
    lists = {"images": [_image_path(stem) for stem in stems]}
    if split != "test":
        lists["labels"] = [_label_path(stem, "trainIds") for stem in stems]
    for kind, names in lists.items():
        write_list(folder, f"{split}_{kind}.txt", names)

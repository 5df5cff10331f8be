"""Inputs on which an exported network is compared with the one that it was made of."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from drn_cli.data.class_folders import FolderDataset
from drn_cli.data.folders import ListDataset
from drn_cli.data.images import Pixels, read_image
from drn_cli.data.synthetic import draw_scene
from drn_cli.errors import DrnError
from drn_cli.export.form import ExportConfig
from drn_cli.inference.inputs import find_images
from drn_cli.inference.source import Source
from drn_cli.inference.views import resize_image

Split = Literal["train", "val"]

SIZES = ((193, 257), (264, 200))  # height and width; neither was traced, and one is odd
DRAWN = 2  # street scenes, where there are no images
LARGEST = 640  # the longer side of an image that calibrates, in pixels


@dataclass(frozen=True, slots=True)
class ParityInput:
    """Some images of one size.

    Attributes:
        kind: What they are, in words.
        real: Whether they are images of something.
        pixels: uint8 `(N, H, W, 3)`.
        names: What messages call each image.
    """

    kind: str
    real: bool
    pixels: Pixels
    names: list[str]


@dataclass(frozen=True, slots=True)
class Images:
    """Images, where they are from, in words, and what messages call each."""

    kind: str
    images: list[Pixels]
    names: list[str]


def example_images(named: Sequence[str], source: Source, split: Split, count: int) -> Images | None:
    """Find some images: those that were named, else some of the run's data.

    They are spread evenly over what there is. None if nothing was named and the run's data is not
    here.

    Raises:
        DrnError: What was named cannot be read.
    """
    if named:
        paths = [Path(image.path) for image in find_images(named)]
        kind = "photographs"
    else:
        try:
            paths = _of_run(source, split)
        except DrnError:  # its data need not be on this machine
            return None
        kind = f"{split} images of the run"
    step = max(1, len(paths) // count)
    paths = paths[::step][:count]
    images = [read_image(path) for path in paths]
    return Images(kind, images, [str(path) for path in paths]) if images else None


def _of_run(source: Source, split: Split) -> list[Path]:
    recipe = source.recipe
    if recipe is None:
        return []
    root = Path(recipe.data.root)
    if recipe.task == "classification":
        return [sample.image for sample in FolderDataset.open(root).samples(split)]
    return [sample.image for sample in ListDataset.open(root, recipe.data.lists).samples(split)]


def parity_inputs(examples: Images | None, form: ExportConfig, seed: int = 0) -> list[ParityInput]:
    """Make inputs at two sizes, or at the one that the form has: images, and random pixels.

    Args:
        examples: Images; without any, street scenes are drawn.
        form: What the network was exported as.
        seed: Of the random pixels.
    """
    if examples is None:
        drawn = [draw_scene(number, 320, 240)[0] for number in range(DRAWN)]
        names = [f"drawn street scene {number}" for number in range(DRAWN)]
        examples = Images("drawn street scenes", drawn, names)
    random = np.random.default_rng(seed)
    probes = []
    for count, size in enumerate((form.size,) if form.size else SIZES, start=1):
        pixels = np.stack([resize_image(image, *size) for image in examples.images])
        probes.append(ParityInput(examples.kind, True, pixels, examples.names))
        noise = random.integers(0, 256, (count, *size, 3), np.uint8)
        probes.append(ParityInput("random pixels", False, noise, ["random pixels"] * count))
    return probes


def downscale(image: Pixels) -> Pixels:
    """Bring an image down to the size that calibration needs at most."""
    height, width = image.shape[:2]
    scale = min(1.0, LARGEST / max(height, width))
    return resize_image(image, max(1, round(height * scale)), max(1, round(width * scale)))

"""Inputs of the parity check and of int8 calibration."""

from collections.abc import Mapping, Sequence
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

SIZES = ((193, 257), (264, 200))  # height and width; other than in tracing, and one is odd
SYNTHETIC = 2  # number of synthetic scenes if there are no images
LARGEST = 640  # pixels, longer side of a calibration image


@dataclass(frozen=True, slots=True)
class ParityInput:
    """A batch of images of one size.

    Attributes:
        kind: Description of the images.
        real: Whether they are images rather than random pixels.
        pixels: uint8 `(N, H, W, 3)`.
        names: Name of each image, for messages.
    """

    kind: str
    real: bool
    pixels: Pixels
    names: list[str]


def example_images(
    named: Sequence[str], source: Source, split: Split, count: int
) -> tuple[str, dict[str, Pixels]]:
    """Read up to `count` evenly spaced images: of `named`, or else of the run's data.

    Returns:
        Description of the images, and the images by path; none if nothing is named and the run's
        data are not available.

    Raises:
        DrnError: A named image cannot be read.
    """
    if named:
        paths = [Path(image.path) for image in find_images(named)]
        kind = "photographs"
    else:
        kind = f"{split} images of the run"
        if source.recipe is None:
            return kind, {}
        data = source.recipe.data
        dataset: FolderDataset | ListDataset
        try:
            if source.recipe.task == "classification":
                dataset = FolderDataset.open(Path(data.root))
            else:
                dataset = ListDataset.open(Path(data.root), data.lists)
            paths = [sample.image for sample in dataset.samples(split)]
        except DrnError:  # the data need not be on this machine
            return kind, {}
    step = max(1, len(paths) // count)
    return kind, {str(path): read_image(path) for path in paths[::step][:count]}


def parity_inputs(
    kind: str, images: Mapping[str, Pixels], config: ExportConfig, seed: int = 0
) -> list[ParityInput]:
    """Return images and random pixels at two sizes, or at the fixed size of the export.

    Args:
        kind: Description of the images.
        images: Images by name; if there are none, synthetic scenes are used.
        config: Configuration of the export.
        seed: Seed of the random pixels.
    """
    if not images:
        kind = "synthetic scenes"
        images = {f"synthetic scene {n}": draw_scene(n, 320, 240)[0] for n in range(SYNTHETIC)}
    random = np.random.default_rng(seed)
    inputs = []
    for count, size in enumerate((config.size,) if config.size else SIZES, start=1):
        pixels = np.stack([resize_image(image, *size) for image in images.values()])
        inputs.append(ParityInput(kind, True, pixels, list(images)))
        noise = random.integers(0, 256, (count, *size, 3), np.uint8)
        inputs.append(ParityInput("random pixels", False, noise, ["random pixels"] * count))
    return inputs


def downscale(image: Pixels) -> Pixels:
    """Downscale an image so that its longer side is at most `LARGEST`."""
    height, width = image.shape[:2]
    scale = min(1.0, LARGEST / max(height, width))
    return resize_image(image, max(1, round(height * scale)), max(1, round(width * scale)))

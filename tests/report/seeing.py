"""A classifier that sees colours, so that it is known what it says of a picture, and where."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from drn_cli.data.folders import Statistics
from drn_cli.data.images import Pixels
from drn_cli.inference.classifier import Classifier

GAIN = 8.0  # score of a class where its colour is full and the others are none
PAINT = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255)}
PALE = (140, 128, 128)  # scores below 1 for red, and less for the others


def maps(images: Tensor) -> Tensor:
    """Score red, green and blue from -8 to 8 in cells of 8 pixels: `(N, 3, H, W)`."""
    return GAIN * F.avg_pool2d(images, 8, ceil_mode=True)


def colour_classifier(
    names: tuple[str, ...] = ("red", "green", "blue"), **given: Any
) -> Classifier:
    settings: dict[str, Any] = {
        "network": lambda images: maps(images).mean((2, 3)),
        "maps": maps,
        "statistics": Statistics((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
        "names": names,
        "folders": None,
        "device": torch.device("cpu"),
        "crop": 64,
        "resize": 64,
    }
    return Classifier(**settings | given)


def painted(height: int, width: int, **rectangles: tuple[int, int, int, int]) -> Pixels:
    """Paint rectangles on what is pale: xmin, ymin, xmax, ymax by colour, corners included."""
    picture = np.full((height, width, 3), PALE, np.uint8)
    for colour, (xmin, ymin, xmax, ymax) in rectangles.items():
        picture[ymin : ymax + 1, xmin : xmax + 1] = PAINT[colour]
    return picture


def save(path: Path, picture: Pixels) -> Path:
    Image.fromarray(picture).save(path)
    return path

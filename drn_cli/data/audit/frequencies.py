"""How often each class occurs, and what weights could make up for it."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from drn_cli.data.classes import IGNORED

ENET_CONSTANT = 1.02


def _zeros() -> npt.NDArray[np.int64]:
    return np.zeros(IGNORED, np.int64)


@dataclass(slots=True)
class Frequencies:
    """Counts over label maps; each array is int64 `(255,)`, one number a label value.

    Attributes:
        pixels: Pixels of each value.
        images: Label maps in which it occurs.
        areas: Pixels of these label maps, void ones too.
    """

    pixels: npt.NDArray[np.int64] = field(default_factory=_zeros)
    images: npt.NDArray[np.int64] = field(default_factory=_zeros)
    areas: npt.NDArray[np.int64] = field(default_factory=_zeros)

    def add(self, pixels: Mapping[int, int]) -> None:
        """Count one label map in, by the pixels of each of its values; 255 is left out."""
        area = sum(pixels.values())
        for value in pixels:
            if 0 <= value < IGNORED:
                self.pixels[value] += pixels[value]
                self.images[value] += 1
                self.areas[value] += area

    def highest(self) -> int | None:
        """Give the highest value that occurs; None if none does."""
        found = np.flatnonzero(self.pixels)
        return int(found[-1]) if found.size else None

    def weights(self, classes: int) -> dict[str, list[float]]:
        """Give class weights by the name of the formula."""
        return {
            "median_frequency": self.median_frequency(classes),
            "enet": self.enet(classes),
        }

    def shares(self, classes: int) -> list[float]:
        """Give each class's share of the pixels that have a class."""
        pixels = self.pixels[:classes]
        return [float(share) for share in pixels / max(1, pixels.sum())]

    def median_frequency(self, classes: int) -> list[float]:
        """Give class weights by median frequency balancing.

        The weight of class c is median(f) / f_c, where f_c is the number of its pixels divided by
        the number of all pixels in the images in which it occurs, and the median is over the
        classes that occur (Eigen and Fergus, Predicting Depth, Surface Normals and Semantic Labels
        with a Common Multi-Scale Convolutional Architecture, ICCV 2015). A class that never occurs
        gets 0: there is nothing to weigh.
        """
        occurs = self.pixels[:classes] > 0
        frequencies = self.pixels[:classes] / np.maximum(1, self.areas[:classes])
        if not occurs.any():
            return [0.0] * classes
        median = float(np.median(frequencies[occurs]))
        return [
            median / float(frequency) if there else 0.0
            for frequency, there in zip(frequencies, occurs, strict=True)
        ]

    def enet(self, classes: int) -> list[float]:
        """Give class weights as ENet's authors do.

        The weight of class c is 1 / ln(1.02 + p_c), where p_c is its share of the pixels (Paszke,
        Chaurasia, Kim and Culurciello, ENet: A Deep Neural Network Architecture for Real-Time
        Semantic Segmentation, 2016). It lies between 1.42 and 50.5.
        """
        return [1 / math.log(ENET_CONSTANT + share) for share in self.shares(classes)]

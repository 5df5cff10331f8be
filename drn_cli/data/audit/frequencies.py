"""Class frequencies, and class weights to balance them."""

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
    """Counts over label maps, each int64 `(255,)`, by label value."""

    pixels: npt.NDArray[np.int64] = field(default_factory=_zeros)
    images: npt.NDArray[np.int64] = field(default_factory=_zeros)  # label maps that contain it
    areas: npt.NDArray[np.int64] = field(default_factory=_zeros)  # pixels of these, including void

    def add(self, pixels: Mapping[int, int]) -> None:
        """Add a label map, given by the number of pixels of each value; 255 is ignored."""
        area = sum(pixels.values())
        for value in pixels:
            if 0 <= value < IGNORED:
                self.pixels[value] += pixels[value]
                self.images[value] += 1
                self.areas[value] += area

    def highest(self) -> int | None:
        """Return the highest value that occurs; None if none does."""
        found = np.flatnonzero(self.pixels)
        return int(found[-1]) if found.size else None

    def weights(self, classes: int) -> dict[str, list[float]]:
        """Return class weights by name of the formula."""
        return {"median_frequency": self.median_frequency(classes), "enet": self.enet(classes)}

    def shares(self, classes: int) -> list[float]:
        """Return the share of each class in the pixels that have a class."""
        pixels = self.pixels[:classes]
        return [float(share) for share in pixels / max(1, pixels.sum())]

    def median_frequency(self, classes: int) -> list[float]:
        """Return class weights by median frequency balancing.

        The weight of class c is median(f) / f_c, where f_c is the number of its pixels divided by
        the number of all pixels in the images that contain it, and the median is over the classes
        that occur (Eigen and Fergus, Predicting Depth, Surface Normals and Semantic Labels with a
        Common Multi-Scale Convolutional Architecture, ICCV 2015). Classes that never occur get 0.
        """
        occurs = self.pixels[:classes] > 0
        frequencies = self.pixels[:classes] / np.maximum(1, self.areas[:classes])
        if not occurs.any():
            return [0.0] * classes
        median = float(np.median(frequencies[occurs]))
        return [
            median / float(frequency) if present else 0.0
            for frequency, present in zip(frequencies, occurs, strict=True)
        ]

    def enet(self, classes: int) -> list[float]:
        """Return class weights as in ENet.

        The weight of class c is 1 / ln(1.02 + p_c), where p_c is its share of the pixels (Paszke,
        Chaurasia, Kim and Culurciello, ENet: A Deep Neural Network Architecture for Real-Time
        Semantic Segmentation, 2016). It lies between 1.42 and 50.5.
        """
        return [1 / math.log(ENET_CONSTANT + share) for share in self.shares(classes)]

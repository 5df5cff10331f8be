"""A picture and its label map that are drawn together, through one pinhole camera.

The world is in metres: x to the right of the camera, y up from the ground, z ahead.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import TypeVar

import numpy as np
from PIL import Image, ImageDraw

Colour = tuple[float, float, float]
Point = tuple[float, float, float]
Pixel = tuple[float, float]
T = TypeVar("T")

NEAR = 0.7  # metres: what lies closer than this is put at this depth
# Twelve points are a circle at the sizes of a wheel or a head; the first is not repeated.
CIRCLE = tuple((math.cos(a * math.pi / 6), math.sin(a * math.pi / 6)) for a in range(12))


class Label(IntEnum):
    """The Cityscapes label ids that the scenes use (ids of the labels, not of training)."""

    UNLABELED = 0
    EGO = 1
    OUT_OF_ROI = 3
    STATIC = 4
    ROAD = 7
    SIDEWALK = 8
    BUILDING = 11
    WALL = 12
    FENCE = 13
    POLE = 17
    TRAFFIC_LIGHT = 19
    TRAFFIC_SIGN = 20
    VEGETATION = 21
    TERRAIN = 22
    SKY = 23
    PERSON = 24
    RIDER = 25
    CAR = 26
    TRUCK = 27
    BUS = 28
    TRAIN = 31
    MOTORCYCLE = 32
    BICYCLE = 33


def pick(rng: np.random.Generator, options: Sequence[T]) -> T:
    """One of the options, each as likely as the others (much quicker than `rng.choice`)."""
    return options[int(rng.integers(len(options)))]


def vary(rng: np.random.Generator, colour: Colour, amount: float = 12.0) -> Colour:
    """Return the colour with every channel moved by up to `amount` of 255."""
    red, green, blue = rng.uniform(-amount, amount, 3)
    return (colour[0] + float(red), colour[1] + float(green), colour[2] + float(blue))


def shaded(colour: Colour, factor: float) -> Colour:
    return (colour[0] * factor, colour[1] * factor, colour[2] * factor)


@dataclass(frozen=True, slots=True)
class Camera:
    """A level pinhole camera that looks along the road.

    Attributes:
        focal: Focal length in pixels.
        centre: Column of the vanishing point.
        horizon: Row of the vanishing point.
        height: Height above the road in metres.
    """

    focal: float
    centre: float
    horizon: float
    height: float

    def project(self, point: Point) -> Pixel:
        """Column and row of a point of the world."""
        x, y, z = point
        scale = self.focal / max(z, NEAR)
        return self.centre + scale * x, self.horizon + scale * (self.height - y)


@dataclass(frozen=True, slots=True)
class Light:
    """The daylight of one scene.

    Attributes:
        sky: Colour at the top of the sky.
        haze: Colour at the horizon, towards which distant things fade.
        visibility: Depth in metres at which about a third of a thing's own colour is left.
        left: Brightness of surfaces on the left of the street, which face right.
        right: Brightness of surfaces on the right of the street, which face left.
        front: Brightness of surfaces that face the camera.
        clouds: How much of the sky is covered, 0..1.
        shadow: Darkness of the shadows, 0..255.
    """

    sky: Colour
    haze: Colour
    visibility: float
    left: float
    right: float
    front: float
    clouds: float
    shadow: int

    def side(self, x: float) -> float:
        """Brightness of a surface along the street, at this x, that is seen from the road."""
        return self.left if x < 0 else self.right


class Canvas:
    """What a scene is drawn on: every shape goes to the picture and to the labels alike."""

    def __init__(self, size: tuple[int, int], camera: Camera, light: Light) -> None:
        self.camera = camera
        self.light = light
        self.picture = Image.new("RGB", size)
        self.labels = Image.new("L", size, int(Label.SKY))
        self._opaque = ImageDraw.Draw(self.picture)
        self._blended = ImageDraw.Draw(self.picture, "RGBA")
        self._marker = ImageDraw.Draw(self.labels)

    def paint(self, colour: Colour, depth: float) -> tuple[int, int, int]:
        """Return the colour as it is seen through `depth` metres of air."""
        clear = math.exp(-max(depth, 0.0) / self.light.visibility)
        red, green, blue = (
            min(max(int(own * clear + far * (1 - clear)), 0), 255)
            for own, far in zip(colour, self.light.haze, strict=True)
        )
        return red, green, blue

    def face(
        self, corners: Sequence[Point], colour: Colour, label: Label | None, alpha: int = 255
    ) -> None:
        """Fill a polygon of the world; without a label only the picture changes."""
        pixels = [self.camera.project(corner) for corner in corners]
        fill = self.paint(colour, sum(corner[2] for corner in corners) / len(corners))
        self.polygon(pixels, fill, label, alpha)

    def polygon(
        self,
        pixels: Sequence[Pixel],
        fill: tuple[int, int, int],
        label: Label | None,
        alpha: int = 255,
    ) -> None:
        """Fill a polygon given in pixels of the canvas, in exactly this colour."""
        if alpha < 255:
            self._blended.polygon(pixels, fill=(*fill, alpha))
        else:
            self._opaque.polygon(pixels, fill=fill)
        if label is not None:
            self._marker.polygon(pixels, fill=int(label))

    def disc(
        self,
        centre: Point,
        radius: float,
        colour: Colour,
        label: Label | None,
        *,
        tall: float = 1.0,
        alpha: int = 255,
    ) -> None:
        """Fill an ellipse that faces the camera; `tall` is its height over its width."""
        column, row = self.camera.project(centre)
        half = max(self.camera.focal * radius / max(centre[2], NEAR), 1.0)
        box = (column - half, row - half * tall, column + half, row + half * tall)
        fill = self.paint(colour, centre[2])
        if alpha < 255:
            self._blended.ellipse(box, fill=(*fill, alpha))
        else:
            self._opaque.ellipse(box, fill=fill)
        if label is not None:
            self._marker.ellipse(box, fill=int(label))

    def bar(
        self, start: Point, end: Point, thickness: float, colour: Colour, label: Label | None
    ) -> None:
        """Draw a bar `thickness` metres wide, never thinner than one pixel of the final picture."""
        depth = max((start[2] + end[2]) / 2, NEAR)
        width = max(2, round(self.camera.focal * thickness / depth))
        line = [self.camera.project(start), self.camera.project(end)]
        self._opaque.line(line, fill=self.paint(colour, depth), width=width)
        if label is not None:
            self._marker.line(line, fill=int(label), width=width)

    def pixels_per_metre(self, depth: float) -> float:
        return self.camera.focal / max(depth, NEAR)

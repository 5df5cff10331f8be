"""People on foot, and bicycles and motorcycles with and without riders.

All are flat figures that face the camera; `turn` squeezes them as if they were turned away.
"""

from itertools import pairwise

import numpy as np

from drn_cli.data.prepare.street.canvas import CIRCLE, Canvas, Colour, Label, pick, shaded, vary

SKIN: tuple[Colour, ...] = ((206, 160, 134), (150, 104, 78), (96, 66, 50), (222, 182, 158))
HAIR: tuple[Colour, ...] = ((40, 32, 28), (96, 68, 44), (170, 140, 90), (130, 128, 126))
TOPS: tuple[Colour, ...] = (
    (40, 44, 60),
    (150, 44, 46),
    (196, 190, 180),
    (60, 90, 140),
    (70, 70, 70),
    (196, 160, 60),
    (64, 104, 78),
    (128, 80, 120),
)
LEGS: tuple[Colour, ...] = ((44, 52, 78), (38, 38, 40), (110, 100, 84), (70, 76, 92))
TYRE: Colour = (34, 34, 36)


class Figure:
    """A flat figure at (x, z); its own points are (dx, y) in metres, drawn `turn` times as wide."""

    def __init__(self, canvas: Canvas, x: float, z: float, turn: float, scale: float = 1) -> None:
        self.canvas, self.x, self.z, self.turn, self.scale = canvas, x, z, turn, scale

    def at(self, dx: float, y: float) -> tuple[float, float, float]:
        return (self.x + dx * self.turn * self.scale, y * self.scale, self.z)

    def patch(
        self, corners: tuple[tuple[float, float], ...], fill: Colour, label: Label | None
    ) -> None:
        self.canvas.face([self.at(dx, y) for dx, y in corners], fill, label)

    def limb(
        self,
        joints: tuple[tuple[float, float], ...],
        thickness: float,
        fill: Colour,
        label: Label | None,
    ) -> None:
        for start, end in pairwise(joints):
            self.canvas.bar(self.at(*start), self.at(*end), thickness * self.scale, fill, label)

    def round(
        self,
        dx: float,
        y: float,
        radius: float,
        fill: Colour,
        label: Label | None,
        alpha: int = 255,
    ) -> None:
        """Fill a circle of the figure, which is an ellipse when it is turned."""
        points = [self.at(dx + radius * c, y + radius * s) for c, s in CIRCLE]
        self.canvas.face(points, fill, label, alpha)


def draw_shadow(canvas: Canvas, x: float, z: float, half: float) -> None:
    """Darken the ground below a figure."""
    points = [(x + half * c, 0.0, z + 0.25 * s) for c, s in CIRCLE]
    canvas.face(points, (20, 20, 24), None, canvas.light.shadow)


def draw_person(canvas: Canvas, rng: np.random.Generator, x: float, z: float) -> None:
    """Draw somebody who stands or walks; now and then a child."""
    height = float(rng.uniform(1.05, 1.4) if rng.random() < 0.15 else rng.uniform(1.6, 1.92))
    draw_shadow(canvas, x, z, 0.4)
    figure = Figure(canvas, x, z, float(rng.uniform(0.75, 1.1)), height / 1.8)
    stride, skin = float(rng.uniform(0.03, 0.3)), vary(rng, pick(rng, SKIN))
    legs, top = vary(rng, pick(rng, LEGS)), vary(rng, pick(rng, TOPS), 25)
    figure.limb(((-0.08, 0.9), (-0.08 - stride / 2, 0.45), (-stride, 0.03)), 0.17, legs, PERSON)
    front = shaded(legs, 0.85)
    figure.limb(((0.08, 0.9), (0.1 + stride / 2, 0.48), (stride, 0.03)), 0.17, front, PERSON)
    hem = float(rng.uniform(0.62, 0.9))
    torso = ((-0.2, hem), (-0.25, 1.4), (-0.12, 1.52), (0.12, 1.52), (0.25, 1.4), (0.2, hem))
    figure.patch(torso, top, PERSON)
    swing = stride * 0.6
    sleeve = shaded(top, 0.8)
    figure.limb(((-0.25, 1.4), (-0.3, 1.1), (-0.27 - swing, 0.85)), 0.12, sleeve, PERSON)
    figure.limb(((0.25, 1.4), (0.3, 1.1), (0.27 + swing, 0.85)), 0.12, sleeve, PERSON)
    if rng.random() < 0.3:
        bag = ((0.22, 0.7), (0.22, 1.05), (0.45, 1.05), (0.45, 0.7))
        figure.patch(bag, vary(rng, pick(rng, TOPS), 25), PERSON)
    _head(figure, rng, 1.66, skin, PERSON)


def _head(
    figure: Figure, rng: np.random.Generator, y: float, skin: Colour, label: Label, dx: float = 0
) -> None:
    cap = vary(rng, pick(rng, HAIR if label is PERSON else TOPS))
    figure.canvas.disc(figure.at(dx, y), 0.125 * figure.scale, skin, label, tall=1.2)
    figure.canvas.disc(figure.at(dx, y + 0.06), 0.13 * figure.scale, cap, label, tall=0.8)


PERSON = Label.PERSON
RIDER = Label.RIDER


def draw_bicycle(
    canvas: Canvas, rng: np.random.Generator, x: float, z: float, *, ridden: bool
) -> None:
    """Draw a bicycle; the label covers its wheels whole, as annotators draw them."""
    turn = float(rng.uniform(0.25, 1.0)) * pick(rng, (-1, 1))
    figure = Figure(canvas, x, z, turn)
    frame = vary(rng, pick(rng, TOPS), 30)
    draw_shadow(canvas, x, z, 0.8 * abs(turn) + 0.1)
    for hub in (-0.53, 0.53):
        figure.round(hub, 0.34, 0.36, (96, 96, 96), Label.BICYCLE, alpha=70)
        for c, s in CIRCLE[:6]:
            spoke = ((hub - 0.32 * c, 0.34 - 0.32 * s), (hub + 0.32 * c, 0.34 + 0.32 * s))
            if canvas.pixels_per_metre(z) > 40:
                figure.limb(spoke, 0.012, (150, 150, 150), None)
        ring = tuple((hub + 0.34 * c, 0.34 + 0.34 * s) for c, s in (*CIRCLE, CIRCLE[0]))
        figure.limb(ring, 0.05, TYRE, Label.BICYCLE)
    bars = ((-0.53, 0.34), (-0.2, 0.8), (0.38, 0.82), (0.0, 0.32), (-0.2, 0.8))
    figure.limb(bars, 0.06, frame, Label.BICYCLE)
    figure.limb(((-0.53, 0.34), (0.0, 0.32)), 0.05, frame, Label.BICYCLE)
    figure.limb(((0.53, 0.34), (0.36, 1.0), (0.5, 1.05)), 0.06, frame, Label.BICYCLE)
    figure.limb(((-0.34, 0.95), (-0.1, 0.95)), 0.09, TYRE, Label.BICYCLE)
    if ridden:
        _rider(figure, rng, seat=0.97, grip=1.05, pedal=0.25)


def draw_motorcycle(
    canvas: Canvas, rng: np.random.Generator, x: float, z: float, *, ridden: bool
) -> None:
    """Draw a motorcycle or a scooter."""
    turn = float(rng.uniform(0.35, 1.0)) * pick(rng, (-1, 1))
    figure = Figure(canvas, x, z, turn)
    paint = vary(rng, pick(rng, TOPS), 30)
    draw_shadow(canvas, x, z, 1.0 * abs(turn) + 0.2)
    for hub in (-0.68, 0.7):
        figure.round(hub, 0.32, 0.33, TYRE, Label.MOTORCYCLE)
        figure.round(hub, 0.32, 0.16, (140, 140, 142), None)
    engine = ((-0.7, 0.3), (-0.45, 0.62), (0.3, 0.7), (0.5, 0.35), (0.2, 0.2), (-0.4, 0.2))
    figure.patch(engine, (66, 66, 70), Label.MOTORCYCLE)
    tank = ((-0.05, 0.62), (0.0, 0.95), (0.35, 1.0), (0.52, 0.78), (0.3, 0.6))
    figure.patch(tank, paint, Label.MOTORCYCLE)
    seat = ((-0.9, 0.78), (-0.9, 0.9), (0.0, 0.84), (0.0, 0.68), (-0.5, 0.6))
    figure.patch(seat, shaded(paint, 0.6), Label.MOTORCYCLE)
    figure.limb(((0.7, 0.32), (0.42, 1.05), (0.28, 1.1)), 0.1, (110, 110, 112), Label.MOTORCYCLE)
    figure.limb(((-0.85, 0.3), (-0.1, 0.28)), 0.1, (160, 158, 154), Label.MOTORCYCLE)
    figure.round(0.58, 0.92, 0.1, (220, 216, 200), Label.MOTORCYCLE)
    if ridden:
        _rider(figure, rng, seat=0.88, grip=1.08, pedal=0.35)


def _rider(
    figure: Figure, rng: np.random.Generator, seat: float, grip: float, pedal: float
) -> None:
    """Draw somebody on the saddle, hands on the bar; a figure of their own label."""
    # However far the bicycle is turned, shoulders keep some of their width.
    legs, top = vary(rng, pick(rng, LEGS)), vary(rng, pick(rng, TOPS), 25)
    body = Figure(figure.canvas, figure.x, figure.z, figure.turn)
    body.limb(((-0.2, seat), (0.2, (seat + pedal) / 2 + 0.1), (0.02, pedal)), 0.17, legs, RIDER)
    torso = 0.34 + 0.1 * (1 - abs(figure.turn))
    body.limb(((-0.22, seat - 0.02), (0.08, seat + 0.56)), torso, top, RIDER)
    arms = ((0.06, seat + 0.5), (0.24, seat + 0.2), (0.44, grip))
    body.limb(arms, 0.11, shaded(top, 0.8), RIDER)
    _head(body, rng, seat + 0.76, vary(rng, pick(rng, SKIN)), RIDER, dx=0.14)

"""Lamp posts, traffic lights, traffic signs and bins."""

import numpy as np

from drn_cli.data.prepare.street.canvas import CIRCLE, Canvas, Colour, Label, Point, pick, vary

STEEL: tuple[Colour, ...] = ((116, 118, 118), (76, 80, 80), (150, 150, 146), (64, 76, 68))
RED: Colour = (186, 34, 36)
BLUE: Colour = (34, 78, 156)
WHITE: Colour = (226, 226, 222)
YELLOW: Colour = (226, 186, 44)


def draw_lamp(canvas: Canvas, rng: np.random.Generator, x: float, z: float) -> None:
    """Draw a lamp post whose arm reaches over the road."""
    steel, top = vary(rng, pick(rng, STEEL)), float(rng.uniform(5.5, 8.5))
    reach = x - (1.6 if x > 0 else -1.6)
    canvas.bar((x, 0, z), (x, top, z), 0.2, steel, Label.POLE)
    canvas.bar((x, top, z), (reach, top + 0.3, z), 0.12, steel, Label.POLE)
    canvas.bar((reach - 0.35, top + 0.25, z), (reach + 0.35, top + 0.25, z), 0.2, steel, Label.POLE)


def draw_traffic_light(canvas: Canvas, rng: np.random.Generator, x: float, z: float) -> None:
    """Draw a traffic light on its post, and sometimes a second one on an arm over the road."""
    steel = vary(rng, pick(rng, STEEL))
    lit = int(rng.integers(3))
    if rng.random() < 0.5:
        reach = x - (3.4 if x > 0 else -3.4)
        canvas.bar((x, 0, z), (x, 5.6, z), 0.22, steel, Label.POLE)
        canvas.bar((x, 5.5, z), (reach, 5.6, z), 0.14, steel, Label.POLE)
        _signal(canvas, (reach, 5.0, z), lit)
    else:
        canvas.bar((x, 0, z), (x, 3.5, z), 0.18, steel, Label.POLE)
    _signal(canvas, (x, 3.0, z), lit)


def _signal(canvas: Canvas, centre: Point, lit: int) -> None:
    x, y, z = centre
    canvas.bar((x, y - 0.6, z), (x, y + 0.6, z), 0.44, (34, 36, 36), Label.TRAFFIC_LIGHT)
    lamps: tuple[Colour, ...] = ((255, 60, 50), (255, 190, 60), (80, 240, 150))
    for index, lamp in enumerate(lamps):
        colour = lamp if index == lit else (62, 58, 54)
        if canvas.pixels_per_metre(z) > 12:
            canvas.disc((x, y + 0.38 - 0.38 * index, z), 0.14, colour, None)


def draw_sign(canvas: Canvas, rng: np.random.Generator, x: float, z: float) -> None:
    """Draw one or two traffic signs on a post."""
    steel = vary(rng, pick(rng, STEEL))
    height = float(rng.uniform(2.2, 2.9))
    canvas.bar((x, 0, z), (x, height + 0.5, z), 0.1, steel, Label.POLE)
    pick(rng, PANELS)(canvas, (x, height, z))
    if rng.random() < 0.35:
        pick(rng, PANELS)(canvas, (x, height - 0.9, z))


def _plate(
    canvas: Canvas, corners: tuple[tuple[float, float], ...], at: Point, fill: Colour
) -> None:
    """Fill a flat shape whose corners are given in metres from `at`."""
    x, y, z = at
    canvas.face([(x + dx, y + dy, z) for dx, dy in corners], fill, Label.TRAFFIC_SIGN)


def _scaled(corners: tuple[tuple[float, float], ...], by: float) -> tuple[tuple[float, float], ...]:
    return tuple((dx * by, dy * by) for dx, dy in corners)


TRIANGLE = ((-0.52, -0.4), (0.52, -0.4), (0.0, 0.5))
YIELD = ((-0.52, 0.4), (0.52, 0.4), (0.0, -0.5))
SQUARE = ((-0.4, -0.4), (-0.4, 0.4), (0.4, 0.4), (0.4, -0.4))
DIAMOND = ((-0.48, 0.0), (0.0, 0.48), (0.48, 0.0), (0.0, -0.48))
BOARD = ((-0.8, -0.45), (-0.8, 0.45), (0.8, 0.45), (0.8, -0.45))


def _warning(canvas: Canvas, at: Point) -> None:
    _plate(canvas, TRIANGLE, at, RED)
    _plate(canvas, _scaled(TRIANGLE, 0.6), at, WHITE)


def _yield(canvas: Canvas, at: Point) -> None:
    _plate(canvas, YIELD, at, RED)
    _plate(canvas, _scaled(YIELD, 0.6), at, WHITE)


def _limit(canvas: Canvas, at: Point) -> None:
    _plate(canvas, _scaled(CIRCLE, 0.42), at, RED)
    _plate(canvas, _scaled(CIRCLE, 0.29), at, WHITE)


def _command(canvas: Canvas, at: Point) -> None:
    _plate(canvas, _scaled(CIRCLE, 0.42), at, BLUE)
    canvas.bar((at[0], at[1] - 0.2, at[2]), (at[0], at[1] + 0.22, at[2]), 0.1, WHITE, None)


def _parking(canvas: Canvas, at: Point) -> None:
    _plate(canvas, SQUARE, at, BLUE)
    _plate(canvas, _scaled(SQUARE, 0.45), at, WHITE)


def _priority(canvas: Canvas, at: Point) -> None:
    _plate(canvas, DIAMOND, at, WHITE)
    _plate(canvas, _scaled(DIAMOND, 0.7), at, YELLOW)


def _direction(canvas: Canvas, at: Point) -> None:
    _plate(canvas, BOARD, at, YELLOW)
    canvas.bar((at[0] - 0.6, at[1], at[2]), (at[0] + 0.5, at[1], at[2]), 0.12, (30, 30, 30), None)


PANELS = (_warning, _yield, _limit, _command, _parking, _priority, _direction)


def draw_bin(canvas: Canvas, rng: np.random.Generator, x: float, z: float) -> None:
    """Draw a bin or an electrical box: static, which is not evaluated."""
    colour = vary(rng, pick(rng, ((92, 98, 92), (60, 72, 66), (120, 74, 52))))
    top, half = float(rng.uniform(0.8, 1.4)), float(rng.uniform(0.25, 0.45))
    corners = [(x - half, 0.0, z), (x - half, top, z), (x + half, top, z), (x + half, 0.0, z)]
    canvas.face(corners, colour, Label.STATIC)

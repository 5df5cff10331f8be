"""Cars, trucks, buses and trams, each with a few shapes and many colours."""

import numpy as np

from drn_cli.data.prepare.street.bodies import (
    Body,
    Outline,
    Pose,
    draw_body,
    draw_on_end,
    draw_on_side,
    draw_shadow,
    draw_wheels,
)
from drn_cli.data.prepare.street.canvas import Canvas, Colour, Label, pick, shaded, vary

PAINTS: tuple[Colour, ...] = (
    (34, 36, 40),
    (188, 190, 192),
    (224, 224, 220),
    (96, 100, 106),
    (150, 36, 36),
    (40, 62, 110),
    (66, 84, 74),
    (158, 136, 104),
    (70, 110, 150),
    (190, 120, 50),
)
LIVERIES: tuple[Colour, ...] = (
    (196, 168, 60),
    (176, 44, 44),
    (214, 212, 206),
    (52, 92, 150),
    (84, 140, 92),
    (150, 110, 150),
)
GLASS: Colour = (46, 54, 62)
REAR_LIGHT: Colour = (190, 30, 34)
HEAD_LIGHT: Colour = (238, 234, 214)

# Side views (along from the tail, up) of a saloon, a hatchback, an estate and a van, the edges that
# are glass over the whole width, and the side windows.
CARS: tuple[tuple[Outline, tuple[int, ...], tuple[Outline, ...]], ...] = (
    (
        ((0, 0.3), (0, 0.92), (0.7, 1), (1.2, 1.42), (2.5, 1.44), (3.2, 1), (4.4, 0.8), (4.5, 0.3)),
        (2, 4),
        (
            ((0.95, 1.0), (1.3, 1.36), (1.85, 1.37), (1.85, 0.98)),
            ((1.95, 0.98), (1.95, 1.37), (2.45, 1.37), (2.95, 0.97)),
        ),
    ),
    (
        ((0, 0.3), (0.05, 0.9), (0.35, 1.42), (2.1, 1.5), (2.9, 1.0), (3.8, 0.86), (3.9, 0.3)),
        (1, 3),
        (
            ((0.4, 1.0), (0.55, 1.36), (1.2, 1.4), (1.2, 0.98)),
            ((1.3, 0.98), (1.3, 1.4), (2.05, 1.42), (2.65, 1.0)),
        ),
    ),
    (
        ((0, 0.35), (0.05, 1.0), (0.3, 1.64), (2.6, 1.68), (3.3, 1.12), (4.3, 1.0), (4.4, 0.35)),
        (1, 3),
        (
            ((0.4, 1.12), (0.5, 1.54), (1.4, 1.57), (1.4, 1.12)),
            ((1.5, 1.12), (1.5, 1.57), (2.5, 1.58), (3.05, 1.13)),
        ),
    ),
    (
        ((0, 0.35), (0.02, 1.1), (0.1, 1.9), (3.6, 1.95), (4.3, 1.2), (4.9, 1.0), (5.0, 0.35)),
        (1, 3),
        (((2.9, 1.2), (2.9, 1.8), (3.55, 1.8), (4.05, 1.2)),),
    ),
)


def draw_car(
    canvas: Canvas,
    rng: np.random.Generator,
    x: float,
    z: float,
    *,
    across: bool = False,
    turned: bool = False,
) -> None:
    outline, glass, windows = pick(rng, CARS)
    paint = vary(rng, pick(rng, PAINTS), 22)
    pose = Pose(x, z, outline[-1][0], float(rng.uniform(1.7, 1.9)), across, turned)
    draw_shadow(canvas, pose)
    draw_wheels(canvas, pose, (), 0.32, Label.CAR)
    draw_body(canvas, pose, Body(outline, glass, paint, Label.CAR), GLASS)
    for window in windows:
        draw_on_side(canvas, pose, window, GLASS)
    sill = outline[0][1]
    draw_on_side(
        canvas,
        pose,
        ((0, sill), (0, sill + 0.12), (pose.length, sill + 0.12), (pose.length, sill)),
        shaded(paint, 0.6),
    )
    draw_wheels(canvas, pose, (0.75, pose.length - 0.8), 0.33, Label.CAR)
    _end_of_car(canvas, pose, 0.66 if not turned else 0.58)


def _end_of_car(canvas: Canvas, pose: Pose, low: float) -> None:
    """Lights, number plate, bumper and, at the front, a grille."""
    lamp = HEAD_LIGHT if pose.turned else REAR_LIGHT
    draw_on_end(canvas, pose, -0.95, 0.95, 0.3, 0.45, (48, 48, 50))
    if pose.turned:
        draw_on_end(canvas, pose, -0.5, 0.5, 0.5, 0.7, (40, 40, 42))
    draw_on_end(canvas, pose, -0.95, -0.62, low, low + 0.18, lamp)
    draw_on_end(canvas, pose, 0.62, 0.95, low, low + 0.18, lamp)
    draw_on_end(canvas, pose, -0.28, 0.28, 0.5, 0.62, (218, 216, 206))


def draw_truck(
    canvas: Canvas,
    rng: np.random.Generator,
    x: float,
    z: float,
    *,
    across: bool = False,
    turned: bool = False,
) -> None:
    """Draw a truck: a cab, and behind it a box, a tarpaulin or an open bed with a load."""
    bed = float(rng.uniform(4.0, 7.5))
    top = float(rng.uniform(2.9, 3.7)) if rng.random() < 0.75 else 1.9
    length, roof = bed + 2.2, min(top, 2.9)
    pose = Pose(x, z, length, 2.45, across, turned)
    cab_paint, box_paint = (vary(rng, pick(rng, PAINTS), 20) for _ in range(2))
    box = Body(((0, 0.9), (0, top), (bed, top), (bed, 0.9)), (), box_paint, Label.TRUCK)
    front = length - 0.15
    cab_outline = ((bed + 0.2, 0.5), (bed + 0.2, roof), (front - 0.4, roof), (front, 1.6))
    cab = Body((*cab_outline, (length, 1.4), (length, 0.5)), (2,), cab_paint, Label.TRUCK)
    chassis = Body(((0.1, 0.5), (0.1, 0.95), (bed, 0.95), (bed, 0.5)), (), TARMAC, Label.TRUCK)
    draw_shadow(canvas, pose)
    draw_wheels(canvas, pose, (), 0.48, Label.TRUCK)
    for body in (chassis, box, cab) if turned or across else (cab, chassis, box):
        draw_body(canvas, pose, body, GLASS)
    _bed_details(canvas, rng, pose, bed, top, box_paint)
    window = ((bed + 0.7, 1.6), (bed + 0.7, roof - 0.35), (front - 0.5, roof - 0.35), (front, 1.6))
    draw_on_side(canvas, pose, window, GLASS)
    draw_wheels(canvas, pose, (1.0, 2.1, length - 1.0), 0.5, Label.TRUCK)
    _end_of_truck(canvas, pose, top, box_paint)


TARMAC: Colour = (52, 52, 54)


def _bed_details(
    canvas: Canvas, rng: np.random.Generator, pose: Pose, bed: float, top: float, paint: Colour
) -> None:
    for along in np.arange(0.5, bed, float(rng.uniform(0.5, 1.4))).tolist():
        rib = ((along, 1.0), (along, top), (along + 0.07, top), (along + 0.07, 1.0))
        draw_on_side(canvas, pose, rib, shaded(paint, 0.82))
    if top > 2.5 and rng.random() < 0.6:
        stripe = ((0.4, 1.6), (0.4, 2.3), (bed - 0.4, 2.3), (bed - 0.4, 1.6))
        draw_on_side(canvas, pose, stripe, vary(rng, pick(rng, LIVERIES), 20))


def _end_of_truck(canvas: Canvas, pose: Pose, top: float, paint: Colour) -> None:
    if pose.turned:
        draw_on_end(canvas, pose, -0.6, 0.6, 0.7, 1.3, (44, 44, 46))
        draw_on_end(canvas, pose, -0.95, -0.65, 0.65, 0.9, HEAD_LIGHT)
        draw_on_end(canvas, pose, 0.65, 0.95, 0.65, 0.9, HEAD_LIGHT)
        return
    draw_on_end(canvas, pose, -0.02, 0.02, 1.0, top - 0.1, shaded(paint, 0.6))
    draw_on_end(canvas, pose, -0.95, 0.95, 0.95, 1.02, shaded(paint, 0.5))
    draw_on_end(canvas, pose, -0.95, -0.7, 0.66, 0.84, REAR_LIGHT)
    draw_on_end(canvas, pose, 0.7, 0.95, 0.66, 0.84, REAR_LIGHT)


def draw_bus(
    canvas: Canvas,
    rng: np.random.Generator,
    x: float,
    z: float,
    *,
    across: bool = False,
    turned: bool = False,
) -> None:
    """Draw a city bus; one in five has two decks."""
    length = float(rng.uniform(9, 12))
    decks = 2 if rng.random() < 0.2 else 1
    top = 3.0 if decks == 1 else 4.2
    paint, trim = (vary(rng, pick(rng, LIVERIES), 20) for _ in range(2))
    pose = Pose(x, z, length, 2.5, across, turned)
    outline = ((0, 0.3), (0, 1.2), (0.1, top), (length - 0.2, top), (length, 1.1), (length, 0.3))
    draw_shadow(canvas, pose)
    draw_wheels(canvas, pose, (), 0.45, Label.BUS)
    draw_body(canvas, pose, Body(outline, (1, 3), paint, Label.BUS), GLASS)
    band = ((0, 0.35), (0, 0.8), (length, 0.8), (length, 0.35))
    draw_on_side(canvas, pose, band, trim)
    for deck in range(decks):
        low = 1.25 + 1.55 * deck
        _window_row(canvas, pose, 0.3, length - 0.3, low, low + 1.05, 1.45)
    for door in (length * 0.5, length - 1.6):
        corners = ((door, 0.4), (door, 2.4), (door + 1.1, 2.4), (door + 1.1, 0.4))
        draw_on_side(canvas, pose, corners, (66, 74, 80))
    draw_wheels(canvas, pose, (2.3, length - 2.6), 0.48, Label.BUS)
    draw_on_end(canvas, pose, -0.7, 0.7, top - 0.42, top - 0.12, (28, 28, 28))
    draw_on_end(canvas, pose, -0.45, 0.45, top - 0.35, top - 0.2, (240, 176, 60))
    lamp = HEAD_LIGHT if turned else REAR_LIGHT
    for left in (-0.95, 0.7):
        draw_on_end(canvas, pose, left, left + 0.25, 0.6, 0.85, lamp)


def _window_row(
    canvas: Canvas, pose: Pose, start: float, end: float, low: float, high: float, spacing: float
) -> None:
    for along in np.arange(start, end - 0.5 * spacing, spacing).tolist():
        stop = min(along + spacing - 0.14, end)
        draw_on_side(canvas, pose, ((along, low), (along, high), (stop, high), (stop, low)), GLASS)


def draw_train(
    canvas: Canvas, rng: np.random.Generator, x: float, z: float, *, turned: bool = False
) -> None:
    """Draw a tram of two or three cars on the street's rails, which Cityscapes calls a train."""
    paint, trim = (vary(rng, pick(rng, LIVERIES), 20) for _ in range(2))
    cars, length = int(rng.integers(2, 4)), 8.5
    for car in reversed(range(cars)):
        pose = Pose(x, z + car * (length + 0.5), length, 2.4, False, turned)
        draw_shadow(canvas, pose)
        nose = 0.7 if (car == 0) else 0.05
        outline = (
            ((0, 0.2), (0, 1.1), (nose, 3.3), (length - 0.05, 3.4), (length, 1.1), (length, 0.2))
            if not turned
            else (
                (0, 0.2),
                (0, 1.1),
                (0.05, 3.4),
                (length - nose, 3.3),
                (length, 1.1),
                (length, 0.2),
            )
        )
        draw_body(canvas, pose, Body(outline, (1, 3), paint, Label.TRAIN), GLASS)
        for low, high, colour in ((0.2, 0.5, (58, 58, 60)), (0.95, 1.25, trim), (3.0, 3.2, trim)):
            stripe = ((0.1, low), (0.1, high), (length - 0.1, high), (length - 0.1, low))
            draw_on_side(canvas, pose, stripe, colour)
        _window_row(canvas, pose, 0.9, length - 0.6, 1.45, 2.7, 1.5)
        draw_on_end(canvas, pose, -1, 1, 0.95, 1.1, trim)
        draw_on_end(canvas, pose, -0.9, -0.6, 0.6, 0.8, HEAD_LIGHT)
        draw_on_end(canvas, pose, 0.6, 0.9, 0.6, 0.8, HEAD_LIGHT)
    middle = z + length * 0.6
    for off in (-0.7, 0.7):
        canvas.bar((x + off, 3.4, middle), (x, 4.6, middle), 0.08, TARMAC, Label.TRAIN)
    canvas.bar((x - 0.8, 4.6, middle), (x + 0.8, 4.6, middle), 0.1, TARMAC, Label.TRAIN)

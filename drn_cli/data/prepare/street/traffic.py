"""Who and what is in a street: a cast for one scene, drawn from far to near."""

from collections.abc import Callable
from functools import partial

import numpy as np

from drn_cli.data.prepare.street.canvas import Canvas, pick
from drn_cli.data.prepare.street.furniture import (
    draw_bin,
    draw_lamp,
    draw_sign,
    draw_traffic_light,
)
from drn_cli.data.prepare.street.ground import JUNCTION_WIDTH, Street
from drn_cli.data.prepare.street.people import draw_bicycle, draw_motorcycle, draw_person
from drn_cli.data.prepare.street.plants import draw_tree
from drn_cli.data.prepare.street.vehicles import draw_bus, draw_car, draw_train, draw_truck

Thing = tuple[float, Callable[[], None]]  # depth in metres, and what draws it


def draw_things(canvas: Canvas, rng: np.random.Generator, street: Street) -> None:
    """Draw all that stands or moves in the street, the nearest last."""
    things: list[Thing] = []
    for side in (-1, 1):
        things += _furniture(canvas, rng, street, side)
        things += _walkers(canvas, rng, street, side)
        things += _parked(canvas, rng, street, side)
    things += _lanes(canvas, rng, street)
    things += _cyclists(canvas, rng, street)
    if street.junction is not None and street.rails is None:
        things += _crossing(canvas, rng, street.junction)
    for _, draw in sorted(things, key=lambda thing: thing[0], reverse=True):
        draw()


def _furniture(canvas: Canvas, rng: np.random.Generator, street: Street, side: int) -> list[Thing]:
    """Posts near the kerb and trees at the back of the pavement or on the verge."""
    things: list[Thing] = []
    post = street.kerb(side) + side * 0.5
    back = street.frontage(side) - side * 0.6
    for z in np.arange(float(rng.uniform(5, 16)), 80, float(rng.uniform(14, 26))).tolist():
        things.append((z, partial(draw_lamp, canvas, rng, post, z)))
    for _ in range(int(rng.integers(1, 3))):
        z = float(rng.uniform(6, 30))
        things.append((z, partial(draw_sign, canvas, rng, post, z)))
    if rng.random() < 0.65 or street.junction is not None:
        z = float(rng.uniform(8, 20)) if street.junction is None else street.junction - 0.6
        things.append((z, partial(draw_traffic_light, canvas, rng, post, z)))
    if rng.random() < 0.5:
        spacing = float(rng.uniform(6, 14))
        for z in np.arange(float(rng.uniform(7, 14)), 75, spacing).tolist():
            top = float(rng.uniform(3, 7.5))
            things.append((z, partial(draw_tree, canvas, rng, back, z, top)))
    if rng.random() < 0.4:
        z = float(rng.uniform(6, 18))
        things.append((z, partial(draw_bin, canvas, rng, back, z)))
    return things


def _walkers(canvas: Canvas, rng: np.random.Generator, street: Street, side: int) -> list[Thing]:
    """People on the pavement in ones, twos and threes, and parked two-wheelers."""
    things: list[Thing] = []
    kerb, width = street.kerb(side), street.pavements[0 if side < 0 else 1]
    for _ in range(int(rng.integers(1, 5))):
        z = float(rng.uniform(6, 16) if rng.random() < 0.5 else rng.uniform(10, 40))
        x = kerb + side * float(rng.uniform(0.5, max(width - 0.4, 0.8)))
        for _ in range(int(rng.integers(1, 4))):
            things.append((z, partial(draw_person, canvas, rng, x, z)))
            x, z = x + float(rng.uniform(0.45, 0.8)), z + float(rng.uniform(-0.3, 0.5))
    for draw, chance in ((draw_bicycle, 0.35), (draw_motorcycle, 0.25)):
        if rng.random() < chance:
            z = float(rng.uniform(5.5, 14))
            for index in range(int(rng.integers(1, 4))):
                place = (kerb + side * 0.9, z + index * 0.9)
                things.append((place[1], partial(draw, canvas, rng, *place, ridden=False)))
    return things


def _parked(canvas: Canvas, rng: np.random.Generator, street: Street, side: int) -> list[Thing]:
    """Cars along the kerb, where there is room beside the lanes."""
    x = street.kerb(side) - side * 1.05
    busy = street.rails is not None and abs(street.rails - x) < 2.6
    if rng.random() < 0.3 or busy or abs(x) < 2.9:
        return []
    things: list[Thing] = []
    z = float(rng.uniform(3, 9))
    while z < 70:
        crossing = street.junction
        if crossing is None or not crossing - 8 < z < crossing + JUNCTION_WIDTH:
            turned = (side < 0) == (rng.random() < 0.9)
            things.append((z, partial(draw_car, canvas, rng, x, z, turned=turned)))
        z += float(rng.uniform(5.4, 6.5) if rng.random() < 0.7 else rng.uniform(8, 20))
    return things


def _lanes(canvas: Canvas, rng: np.random.Generator, street: Street) -> list[Thing]:
    """Vehicles ahead in our lane and in the lanes that come towards us; a tram on its rails."""
    things: list[Thing] = []
    if street.rails is not None:
        z = float(rng.uniform(7, 20))
        turned = rng.random() < 0.5
        things.append((z, partial(draw_train, canvas, rng, street.rails, z, turned=turned)))
    lanes = [0.0, -3.5]
    heavy = [draw for draw in (draw_bus, draw_truck) if rng.random() < 0.65]
    for x in lanes:
        if street.rails is not None and abs(street.rails - x) < 2:
            continue
        z = float(rng.uniform(8, 26))
        while z < 85:
            crossing = street.junction
            if crossing is not None and crossing - 11 < z < crossing + JUNCTION_WIDTH:
                z = crossing + JUNCTION_WIDTH + 1
                continue
            turned = x < -1.5
            place = (x + float(rng.uniform(-0.3, 0.3)), z)
            if heavy and (z > 9 or x) and rng.random() < 0.6:
                draw = heavy.pop()
                things.append((z, partial(draw, canvas, rng, *place, turned=turned)))
                z += 10
            else:
                things.append((z, partial(draw_car, canvas, rng, *place, turned=turned)))
            z += float(rng.uniform(9, 28))
    return things


def _cyclists(canvas: Canvas, rng: np.random.Generator, street: Street) -> list[Thing]:
    """Riders near the kerbs, and now and then one who crosses in front."""
    things: list[Thing] = []
    for draw, chance in ((draw_bicycle, 0.5), (draw_motorcycle, 0.45)):
        if rng.random() < chance:
            z = float(rng.uniform(5.5, 14))
            near_kerb = (street.right - 2.6, street.left + 2.9, 1.9, -1.7)
            x = pick(rng, near_kerb) + float(rng.uniform(-0.3, 0.3))
            things.append((z, partial(draw, canvas, rng, x, z, ridden=True)))
    if rng.random() < 0.25:
        z, x = float(rng.uniform(7, 18)), float(rng.uniform(-3, 3))
        things.append((z, partial(draw_person, canvas, rng, x, z)))
    return things


def _crossing(canvas: Canvas, rng: np.random.Generator, junction: float) -> list[Thing]:
    """Vehicles on the road that crosses ours, seen from the side."""
    things: list[Thing] = []
    for lane, turned in ((1.0, False), (4.8, True)):
        x = float(rng.uniform(-22, -4))
        for _ in range(int(rng.integers(0, 3))):
            z, draw = junction + lane, draw_car
            chance = float(rng.random())
            if chance < 0.2:
                draw = draw_bus
            elif chance < 0.4:
                draw = draw_truck
            things.append((z, partial(draw, canvas, rng, x, z, across=True, turned=turned)))
            x += float(rng.uniform(13, 24))
    return things

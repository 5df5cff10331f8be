"""What lines a street: houses with windows, walls, fences and hedges, from far to near."""

import numpy as np

from drn_cli.data.prepare.street.canvas import Canvas, Colour, Label, pick, shaded, vary
from drn_cli.data.prepare.street.ground import JUNCTION_WIDTH, NEAREST, Street
from drn_cli.data.prepare.street.plants import draw_tree

FACADES: tuple[Colour, ...] = (
    (158, 92, 74),
    (196, 178, 146),
    (142, 140, 138),
    (206, 196, 180),
    (112, 96, 86),
    (178, 134, 98),
    (104, 116, 128),
    (188, 152, 148),
    (84, 88, 92),
    (146, 158, 146),
)
ROOFS: tuple[Colour, ...] = ((122, 72, 58), (86, 84, 88), (66, 62, 62), (140, 90, 66))
GLASS: tuple[Colour, ...] = ((52, 60, 70), (84, 98, 112), (40, 42, 46), (130, 146, 160))
SHOPS: tuple[Colour, ...] = (
    (160, 40, 40),
    (40, 70, 140),
    (50, 110, 70),
    (190, 150, 50),
    (70, 70, 70),
)
BACKDROP = 105.0  # metres: the depth of what closes the view
STOREY = 3.1


def draw_roadside(canvas: Canvas, rng: np.random.Generator, street: Street) -> None:
    """Draw the end of the view and both sides of the street, the nearest last."""
    _backdrop(canvas, rng)
    for side in (-1, 1):
        built_up = float(rng.uniform(0.15, 0.9))
        for start, end in reversed(_plots(rng, street)):
            x = street.frontage(side) + side * float(rng.uniform(0, 0.8))
            draw = _house if rng.random() < built_up else pick(rng, OPEN_PLOTS)
            draw(canvas, rng, side, x, start, end)


def _plots(rng: np.random.Generator, street: Street) -> list[tuple[float, float]]:
    """Return depths (start, end) of the plots along the street; none where a road crosses."""
    plots = []
    start = NEAREST
    while start < BACKDROP:
        end = start + float(rng.uniform(6, 17))
        crossing = street.junction
        if crossing is not None and start < crossing + JUNCTION_WIDTH and end > crossing - 2:
            if crossing - 2 - start > 3:
                plots.append((start, crossing - 2))
            start = crossing + JUNCTION_WIDTH + 2
            continue
        plots.append((start, end))
        start = end
    return plots


def _backdrop(canvas: Canvas, rng: np.random.Generator) -> None:
    """Draw a row of houses and trees across the view, far away."""
    for x in np.arange(-90, 90, 9).tolist():
        x0, top = x + float(rng.uniform(-3, 3)), float(rng.uniform(5, 17))
        if rng.random() < 0.55:
            corners = [(x0, 0, BACKDROP), (x0, top, BACKDROP)]
            corners += [(x0 + 12, top, BACKDROP), (x0 + 12, 0, BACKDROP)]
            canvas.face(corners, vary(rng, pick(rng, FACADES)), Label.BUILDING)
        else:
            draw_tree(canvas, rng, x0 + 5, BACKDROP, top * 0.8, blobs=6)


def _house(
    canvas: Canvas, rng: np.random.Generator, side: int, x: float, start: float, end: float
) -> None:
    """Draw one house: the wall towards the camera, the facade on the street, windows, roof."""
    colour = vary(rng, pick(rng, FACADES), 20)
    storeys = int(rng.integers(2, 7))
    top = storeys * STOREY + 0.8
    deep = x + side * 11
    gable = [(x, 0.0, start), (x, top, start), (deep, top, start), (deep, 0.0, start)]
    pitched = rng.random() < 0.55
    if pitched:
        gable.insert(2, ((x + deep) / 2, top + 3.4, start))
        roof = [(x, top, start), (x, top, end)]
        roof += [((x + deep) / 2, top + 3.4, end), ((x + deep) / 2, top + 3.4, start)]
        canvas.face(roof, vary(rng, pick(rng, ROOFS)), Label.BUILDING)
    canvas.face(gable, shaded(colour, canvas.light.front), Label.BUILDING)
    lit = shaded(colour, canvas.light.side(x))
    wall = [(x, 0.0, start), (x, top, start), (x, top, end), (x, 0.0, end)]
    canvas.face(wall, lit, Label.BUILDING)
    _windows(canvas, rng, x, start, end, storeys, lit)
    _ground_floor(canvas, rng, x, start, end)
    for height in (top - 0.35, STOREY + 0.3):
        band = [(x, height, start), (x, height + 0.35, start)]
        band += [(x, height + 0.35, end), (x, height, end)]
        canvas.face(band, shaded(lit, 1.15 if pitched else 0.8), Label.BUILDING)
    if rng.random() < 0.12:
        _gap(canvas, x, start)


def _windows(
    canvas: Canvas,
    rng: np.random.Generator,
    x: float,
    start: float,
    end: float,
    storeys: int,
    wall: Colour,
) -> None:
    """Draw rows of windows with frames and sills above the ground floor."""
    spacing, wide = float(rng.uniform(2.2, 3.4)), float(rng.uniform(1.0, 1.7))
    tall = float(rng.uniform(1.3, 2.0))
    glass, frame = vary(rng, pick(rng, GLASS)), shaded(wall, pick(rng, (0.7, 1.3)))
    columns = max(int((end - start - 0.6) / spacing), 1)
    offset = (end - start - columns * spacing + spacing - wide) / 2
    levels = rng.uniform(0.7, 1.35, (columns, storeys)).tolist()
    for column in range(columns):
        near = start + offset + column * spacing
        far = near + wide
        # Seen at a glancing angle: width on the picture, in pixels.
        seen = abs(x) * canvas.camera.focal * (1 / near - 1 / far)
        if seen < 1.2 or abs(x) * canvas.camera.focal / far > canvas.picture.width:
            continue
        for storey in range(1, storeys):
            low = storey * STOREY + 0.9
            high = low + tall
            if seen > 4:
                outer = _upright(x, near - 0.12, far + 0.12, low - 0.2, high + 0.12)
                canvas.face(outer, frame, None)
            pane = _upright(x, near, far, low, high)
            canvas.face(pane, shaded(glass, levels[column][storey]), None)
            if seen > 7:
                middle = (near + far) / 2
                canvas.bar((x, low, middle), (x, high, middle), 0.06, frame, None)


def _upright(
    x: float, near: float, far: float, low: float, high: float
) -> list[tuple[float, float, float]]:
    """Corners of an upright rectangle along the street."""
    return [(x, low, near), (x, high, near), (x, high, far), (x, low, far)]


def _ground_floor(
    canvas: Canvas, rng: np.random.Generator, x: float, start: float, end: float
) -> None:
    """Draw doors, and a row of shop windows below a sign or awning in every other house."""
    shop = rng.random() < 0.5
    glass = vary(rng, pick(rng, GLASS))
    for near in np.arange(start + 0.6, end - 1.2, 2.9).tolist():
        if shop:
            canvas.face(_upright(x, near, near + 2.2, 0.5, 2.6), glass, None)
        elif rng.random() < 0.6:
            canvas.face(_upright(x, near, near + 1.1, 0.9, 2.4), glass, None)
        else:
            door = vary(rng, (92, 68, 50), 35)
            canvas.face(_upright(x, near, near + 1.1, 0, 2.3), door, None)
    if shop:
        sign = vary(rng, pick(rng, SHOPS), 20)
        out = x - (0.9 if x > 0 else -0.9) * float(rng.random() < 0.5)
        awning = [(x, 3.2, start + 0.5), (out, 2.7, start + 0.5)]
        awning += [(out, 2.7, end - 0.5), (x, 3.2, end - 0.5)]
        canvas.face(awning, sign, Label.BUILDING)
        canvas.face(_upright(x, start + 0.5, end - 0.5, 2.75, 3.2), shaded(sign, 0.9), None)


def _gap(canvas: Canvas, x: float, start: float) -> None:
    """Draw a dark passage between two houses, which nobody has labelled."""
    canvas.face(_upright(x, start, start + 0.9, 0, 5), (38, 36, 36), Label.UNLABELED)


def _wall(
    canvas: Canvas, rng: np.random.Generator, side: int, x: float, start: float, end: float
) -> None:
    """Draw a free-standing wall of brick, stone or concrete, with trees behind it."""
    _grove(canvas, rng, side, x + side * 4, start, end)
    top = float(rng.uniform(1.3, 2.9))
    colour = vary(rng, pick(rng, FACADES), 20)
    lit = shaded(colour, canvas.light.side(x))
    front = [(x, 0.0, start), (x, top, start), (x + side * 9, top, start), (x + side * 9, 0, start)]
    canvas.face(front, shaded(colour, canvas.light.front), Label.WALL)
    canvas.face(_upright(x, start, end, 0, top), lit, Label.WALL)
    for height in np.arange(0.4, top - 0.2, 0.4).tolist():
        canvas.face(_upright(x, start, end, height, height + 0.05), shaded(lit, 0.82), None)
    for z in np.arange(start, end, 2.5).tolist():
        canvas.face(_upright(x, z, z + 0.12, 0, top), shaded(lit, 0.78), None)
    canvas.face(_upright(x, start, end, top - 0.12, top + 0.06), shaded(lit, 1.2), Label.WALL)


def _fence(
    canvas: Canvas, rng: np.random.Generator, side: int, x: float, start: float, end: float
) -> None:
    """Draw a fence of bars, boards or mesh; what stands behind is seen between the bars."""
    _grove(canvas, rng, side, x + side * 5, start, end)
    top = float(rng.uniform(1.1, 2.0))
    colour = vary(rng, pick(rng, ((60, 64, 62), (128, 96, 68), (190, 188, 182), (52, 84, 66))))
    spacing = pick(rng, (0.25, 0.45))
    panel = _upright(x, start, end, 0.0, top)
    canvas.face(panel, shaded(colour, 0.9), Label.FENCE, pick(rng, (60, 110, 150)))
    for z in np.arange(start, min(end, 34.0), spacing).tolist():
        canvas.bar((x, 0, z), (x, top, z), 0.05, colour, Label.FENCE)
    for height in (0.2, top - 0.15):
        canvas.face(_upright(x, start, end, height, height + 0.1), shaded(colour, 0.8), None)


def _grove(
    canvas: Canvas, rng: np.random.Generator, side: int, x: float, start: float, end: float
) -> None:
    """Draw trees and bushes on open ground, or leave it open."""
    trees = int(rng.integers(0, 4))
    for z in sorted(rng.uniform(max(start, 5), max(end, 6), trees).tolist(), reverse=True):
        draw_tree(canvas, rng, x + side * float(rng.uniform(0, 7)), z, float(rng.uniform(3, 9)))


def _hedge(
    canvas: Canvas, rng: np.random.Generator, side: int, x: float, start: float, end: float
) -> None:
    """Draw a clipped hedge with trees behind it."""
    _grove(canvas, rng, side, x + side * 3, start, end)
    top = float(rng.uniform(1.0, 2.4))
    colour = vary(rng, (72, 96, 52), 18)
    front = [(x, 0.0, start), (x, top, start), (x + side * 8, top, start), (x + side * 8, 0, start)]
    canvas.face(front, shaded(colour, canvas.light.front), Label.VEGETATION)
    lit = shaded(colour, canvas.light.side(x))
    canvas.face(_upright(x, start, end, 0, top), lit, Label.VEGETATION)
    for z in np.arange(max(start, 3), min(end, 30), 0.8).tolist():
        canvas.disc((x, top, z), 0.3, vary(rng, lit, 14), Label.VEGETATION)


OPEN_PLOTS = (_wall, _wall, _fence, _fence, _fence, _hedge, _grove)

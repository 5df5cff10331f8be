"""Sky, road, pavements and grass: what a scene starts from."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from drn_cli.data.prepare.street.canvas import Canvas, Colour, Label, pick, shaded, vary

FAR = 220.0  # metres: where the road ends
GRASS: tuple[Colour, ...] = ((96, 122, 62), (120, 130, 78), (80, 112, 66), (142, 138, 92))
ASPHALT: tuple[Colour, ...] = ((92, 92, 96), (108, 104, 102), (78, 80, 84), (122, 120, 118))
PAVING: tuple[Colour, ...] = ((150, 144, 136), (128, 126, 128), (164, 148, 134), (136, 128, 116))


@dataclass(frozen=True, slots=True)
class Street:
    """The cross-section of a street; the camera drives at x = 0.

    Attributes:
        left: x of the left kerb in metres, below zero.
        right: x of the right kerb in metres.
        pavements: Width of the left and of the right pavement.
        verges: Width of the grass beyond the left and the right pavement; 0 for none.
        junction: Depth at which a road crosses, or None.
        rails: x of the middle of a tram track, or None.
    """

    left: float
    right: float
    pavements: tuple[float, float]
    verges: tuple[float, float]
    junction: float | None
    rails: float | None

    def kerb(self, side: int) -> float:
        """The x of the kerb on the left (-1) or right (1)."""
        return self.left if side < 0 else self.right

    def frontage(self, side: int) -> float:
        """The x where the houses stand on the left (-1) or right (1)."""
        index = 0 if side < 0 else 1
        return self.kerb(side) + side * (self.pavements[index] + self.verges[index])


JUNCTION_WIDTH = 8.0


def smooth_noise(
    rng: np.random.Generator, size: tuple[int, int], cells: tuple[int, int]
) -> NDArray[np.float32]:
    """Normal noise on a grid of `cells` (columns, rows), smoothly enlarged to `size`, (H, W)."""
    grid = rng.standard_normal((max(cells[1], 2), max(cells[0], 2)), dtype=np.float32)
    image = Image.fromarray(grid).resize(size, Image.Resampling.BICUBIC)
    return np.asarray(image, dtype=np.float32)


def draw_sky(canvas: Canvas, rng: np.random.Generator) -> None:
    """Fill the whole canvas with a gradient from the light's sky to its haze, and clouds."""
    width, height = canvas.picture.size
    light = canvas.light
    rows = np.clip(np.arange(height, dtype=np.float32) / max(canvas.camera.horizon, 1), 0, 1)
    down = rows[:, None, None] ** 0.8
    sky = np.asarray(light.sky, np.float32) * (1 - down) + np.asarray(light.haze, np.float32) * down
    # Clouds are soft and need no detail: an eighth of the size is enough.
    small = (max(width // 8, 2), max(height // 8, 2))
    noise = smooth_noise(rng, small, (7, 6)) + 0.5 * smooth_noise(rng, small, (17, 15))
    cover = np.clip((noise - 1.2 + 2.4 * light.clouds) * 0.8, 0, 0.85)
    mask = Image.fromarray((cover * 255).astype(np.uint8)).resize(
        (width, height), Image.Resampling.BICUBIC
    )
    canvas.picture.paste(Image.fromarray(np.broadcast_to(sky, (height, width, 3)).astype(np.uint8)))
    white = canvas.paint(vary(rng, (236, 236, 238), 14), 10)
    canvas.picture.paste(white, (0, 0, width, height), mask)


def draw_ground(canvas: Canvas, rng: np.random.Generator, street: Street) -> None:
    """Draw everything flat: grass, pavements, the road and its marks, a crossing road, rails."""
    grass, paving, asphalt = (
        vary(rng, pick(rng, choice), 8) for choice in (GRASS, PAVING, ASPHALT)
    )
    _strip(canvas, -90, 90, NEAREST, FAR, grass, Label.TERRAIN)
    for side in (-1, 1):
        kerb = street.kerb(side)
        edge = kerb + side * street.pavements[0 if side < 0 else 1]
        _strip(canvas, kerb, edge, NEAREST, FAR, paving, Label.SIDEWALK)
        _slabs(canvas, kerb, edge, shaded(paving, 0.82))
        _strip(canvas, kerb, kerb + side * 0.18, NEAREST, FAR, shaded(paving, 1.18), None)
    _strip(canvas, street.left, street.right, NEAREST, FAR, asphalt, Label.ROAD)
    if street.junction is not None:
        end = street.junction + JUNCTION_WIDTH
        _strip(canvas, -70, 70, street.junction, end, asphalt, Label.ROAD)
    _wear(canvas, rng, street, asphalt)
    _marks(canvas, rng, street)
    if street.rails is not None:
        for x in (street.rails - 0.72, street.rails + 0.72):
            _strip(canvas, x - 0.06, x + 0.06, NEAREST, FAR, (70, 66, 64), None)
            _strip(canvas, x - 0.02, x + 0.02, NEAREST, FAR, (176, 174, 170), None)
    _fade(canvas)


NEAREST = 1.2


def _strip(
    canvas: Canvas,
    x0: float,
    x1: float,
    z0: float,
    z1: float,
    colour: Colour,
    label: Label | None,
    alpha: int = 255,
) -> None:
    """Fill a rectangle of the ground; the haze is added to all of the ground at the end."""
    corners = ((x0, z0), (x0, z1), (x1, z1), (x1, z0))
    pixels = [canvas.camera.project((x, 0.0, z)) for x, z in corners]
    red, green, blue = (min(max(int(value), 0), 255) for value in colour)
    canvas.polygon(pixels, (red, green, blue), label, alpha)


def _slabs(canvas: Canvas, x0: float, x1: float, colour: Colour) -> None:
    for z in np.arange(3.0, 24.0, 1.5).tolist():
        _strip(canvas, x0, x1, z, z + 0.06, colour, None)
    middle = (x0 + x1) / 2
    _strip(canvas, middle - 0.03, middle + 0.03, NEAREST, 30, colour, None)


def _wear(canvas: Canvas, rng: np.random.Generator, street: Street, asphalt: Colour) -> None:
    """Wheel tracks, patches of other asphalt and manholes."""
    for x in (-0.9, 0.9):
        _strip(canvas, x - 0.3, x + 0.3, NEAREST, FAR, shaded(asphalt, 0.86), None, 90)
    for _ in range(int(rng.integers(1, 5))):
        x, z = float(rng.uniform(street.left, street.right - 1.5)), float(rng.uniform(4, 30))
        factor, length = float(rng.uniform(0.7, 1.25)), float(rng.uniform(0.8, 6))
        end = min(x + 1.5, street.right)
        _strip(canvas, x, end, z, z + length, shaded(asphalt, factor), None, 130)


def _marks(canvas: Canvas, rng: np.random.Generator, street: Street) -> None:
    """Edge lines, dashed lines between lanes, and sometimes a zebra crossing."""
    paint = vary(rng, (206, 204, 196), 16)
    if rng.random() < 0.5:
        for x in (street.left + 0.3, street.right - 0.42):
            _strip(canvas, x, x + 0.12, NEAREST, FAR, paint, None, 200)
    phase = float(rng.uniform(0, 6))
    lane = -1.75
    while lane > street.left + 1.5:
        for z in np.arange(2.0 + phase - 6, 80, 6).tolist():
            _strip(canvas, lane - 0.07, lane + 0.07, max(z, NEAREST), z + 3, paint, None, 215)
        lane -= 3.5
    if rng.random() < 0.35 or street.junction is not None:
        z = float(rng.uniform(7, 20)) if street.junction is None else street.junction - 4
        if z > 4:
            for x in np.arange(street.left + 0.4, street.right - 0.6, 1.0).tolist():
                _strip(canvas, x, x + 0.5, z, z + 3, paint, None, 215)


def _fade(canvas: Canvas) -> None:
    """Add the haze to the ground, row by row: a row below the horizon has one depth."""
    camera = canvas.camera
    height = canvas.picture.height
    top = min(max(int(camera.horizon), 0), height - 1)
    rows = np.arange(top, height, dtype=np.float32) + 0.5 - camera.horizon
    depth = camera.focal * camera.height / np.maximum(rows, 0.5)
    clear = np.exp(-depth / canvas.light.visibility)[:, None]
    mask = Image.fromarray(((1 - clear) * 255).astype(np.uint8))
    red, green, blue = (int(value) for value in canvas.light.haze)
    size = (canvas.picture.width, height - top)
    canvas.picture.paste((red, green, blue), (0, top), mask.resize(size, Image.Resampling.NEAREST))

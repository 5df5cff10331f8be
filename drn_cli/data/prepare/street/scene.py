"""One street scene: a camera, a street and a day are drawn by lot, then the picture is taken."""

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from drn_cli.data.prepare.street.canvas import Camera, Canvas, Colour, Label, Light, pick, vary
from drn_cli.data.prepare.street.ground import Street, draw_ground, draw_sky, smooth_noise
from drn_cli.data.prepare.street.roadside import draw_roadside
from drn_cli.data.prepare.street.traffic import draw_things
from drn_cli.data.prepare.street.vehicles import PAINTS

OVERSAMPLING = 2

# Colours of the sky at the top and at the horizon: clear, pale, overcast, grey, evening.
SKIES: tuple[tuple[Colour, Colour], ...] = (
    ((84, 132, 196), (190, 208, 226)),
    ((128, 164, 208), (212, 220, 226)),
    ((186, 190, 196), (214, 214, 214)),
    ((138, 144, 152), (178, 180, 182)),
    ((120, 140, 178), (228, 206, 180)),
)


def draw_scene(
    seed: int, width: int = 256, height: int = 128
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Draw a street as it is seen from a car, and what every pixel is.

    The same seed and size give the same scene. Both are drawn at twice the size; the picture is
    averaged down and the labels are sampled, so edges are soft in one and hard in the other.

    Args:
        seed: Which scene, 0 or more.
        width: Width in pixels.
        height: Height in pixels.

    Returns:
        The picture, (H, W, 3) RGB, and the Cityscapes label ids, (H, W).
    """
    rng = np.random.default_rng(seed)
    size = (width * OVERSAMPLING, height * OVERSAMPLING)
    canvas = Canvas(size, _camera(rng, size), _light(rng))
    street = _street(rng)
    draw_sky(canvas, rng)
    draw_ground(canvas, rng, street)
    draw_roadside(canvas, rng, street)
    draw_things(canvas, rng, street)
    _draw_bonnet(canvas, rng)
    labels = np.asarray(canvas.labels)[::OVERSAMPLING, ::OVERSAMPLING].copy()
    picture = _expose(canvas.picture.reduce(OVERSAMPLING), labels, rng)
    _blank_margin(labels, rng)
    return picture, labels


def _camera(rng: np.random.Generator, size: tuple[int, int]) -> Camera:
    width, height = size
    return Camera(
        focal=height * float(rng.uniform(1.25, 1.65)),
        centre=width * float(rng.uniform(0.4, 0.6)),
        horizon=height * float(rng.uniform(0.4, 0.5)),
        height=float(rng.uniform(1.3, 1.65)),
    )


def _light(rng: np.random.Generator) -> Light:
    sky, haze = pick(rng, SKIES)
    sunny = float(rng.uniform(0, 1))
    sides = [1 + 0.18 * sunny, 1 - 0.32 * sunny]
    if rng.random() < 0.5:
        sides.reverse()
    return Light(
        sky=vary(rng, sky, 14),
        haze=vary(rng, haze, 10),
        visibility=float(rng.uniform(70, 320)),
        left=sides[0],
        right=sides[1],
        front=float(rng.uniform(0.72, 1.0)),
        clouds=float(rng.uniform(0.1, 0.75)),
        shadow=int(rng.integers(90, 190)),
    )


def _street(rng: np.random.Generator) -> Street:
    """Draw a street by lot: our lane, one or two lanes towards us, room to park or not."""
    rails = None
    left = -float(pick(rng, (5.3, 7.6, 8.2)))
    if rng.random() < 0.45:
        rails = pick(rng, (-3.5, -7.0))
        left = min(left, rails - 1.9)
    pavements = (float(rng.uniform(2.2, 5.5)), float(rng.uniform(2.2, 5.5)))
    verges = tuple(float(rng.uniform(1, 5)) if rng.random() < 0.5 else 0.0 for _ in range(2))
    return Street(
        left=left,
        right=float(pick(rng, (1.9, 2.2, 2.6, 4.2, 4.5))),
        pavements=pavements,
        verges=(verges[0], verges[1]),
        junction=float(rng.uniform(11, 26)) if rng.random() < 0.4 else None,
        rails=rails,
    )


def _draw_bonnet(canvas: Canvas, rng: np.random.Generator) -> None:
    """Draw the bonnet of our own car at the lower edge of two pictures in three."""
    if rng.random() > 0.65:
        return
    width, height = canvas.picture.size
    rise, colour = float(rng.uniform(0.03, 0.09)) * height, vary(rng, pick(rng, PAINTS), 8)
    left, right = -0.1 * width, 1.1 * width
    across = np.linspace(0, 1, 24)
    arc = height - rise * np.sin(np.pi * across) ** 0.6
    columns = left + (right - left) * across
    outline = [*zip(columns.tolist(), arc.tolist(), strict=True), (right, height), (left, height)]
    canvas.polygon([(x, y) for x, y in outline], canvas.paint(colour, 1), Label.EGO)
    gleam = [(x, y + rise * 0.25) for x, y in outline]
    canvas.polygon(gleam, canvas.paint(vary(rng, (120, 124, 130), 30), 1), None, 70)


def _blank_margin(labels: NDArray[np.uint8], rng: np.random.Generator) -> None:
    """Take a thin border off the labels of some scenes, as rectified pictures have one."""
    if rng.random() < 0.4:
        edge = max(labels.shape[0] // 64, 1)
        labels[:, :edge] = Label.OUT_OF_ROI
        labels[:, -edge:] = Label.OUT_OF_ROI


def _texture() -> NDArray[np.float32]:
    """Strength of the fine texture for every label id, in grey levels."""
    table = np.full(256, 4.0, np.float32)
    for label, strength in (
        (Label.VEGETATION, 17),
        (Label.TERRAIN, 12),
        (Label.WALL, 9),
        (Label.BUILDING, 8),
        (Label.ROAD, 5),
        (Label.SIDEWALK, 7),
        (Label.SKY, 1),
    ):
        table[label] = strength
    return table


TEXTURE = _texture()


def _expose(
    picture: Image.Image, labels: NDArray[np.uint8], rng: np.random.Generator
) -> NDArray[np.uint8]:
    """Take the picture: texture, a slight blur, exposure, white balance, vignette and noise."""
    height, width = labels.shape
    size = (width, height)
    blur = float(rng.uniform(0.25, 0.6)) * max((height / 128) ** 0.5, 0.6)
    grain = smooth_noise(rng, size, (min(width, 256) // 2, min(height, 128) // 2))
    patches = smooth_noise(rng, size, (14, 8))
    strength = TEXTURE[labels]
    uneven = 1 + patches * (0.012 + 0.0025 * strength)
    pixels = np.asarray(picture, np.float32) * uneven[..., None] + (grain * strength)[..., None]
    rounded = Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))
    pixels = np.asarray(rounded.filter(ImageFilter.GaussianBlur(blur)), np.float32)
    balance = rng.uniform(0.94, 1.06, 3).astype(np.float32) * np.float32(rng.uniform(0.66, 1.08))
    contrast, corner = float(rng.uniform(0.85, 1.12)), float(rng.uniform(0, 0.25))
    y, x = np.ogrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
    vignette = (1 - corner * 0.5 * (x * x + y * y)).astype(np.float32)
    pixels = ((pixels - 110) * contrast + 110) * balance * vignette[..., None]
    pixels += rng.standard_normal(pixels.shape, dtype=np.float32) * float(rng.uniform(1, 4))
    exposed: NDArray[np.uint8] = np.clip(pixels, 0, 255).astype(np.uint8)
    return exposed

"""Trees and bushes."""

import numpy as np

from drn_cli.data.prepare.street.canvas import Canvas, Colour, Label, pick, shaded, vary

LEAVES: tuple[Colour, ...] = ((70, 100, 48), (92, 116, 54), (58, 82, 52), (118, 118, 56))
AUTUMN: tuple[Colour, ...] = ((150, 104, 48), (134, 76, 44))
BARK: Colour = (84, 70, 58)


def draw_tree(
    canvas: Canvas, rng: np.random.Generator, x: float, z: float, top: float, blobs: int = 18
) -> None:
    """Draw a trunk and a crown of overlapping blobs, dark below and light above.

    Args:
        canvas: Where to draw.
        rng: The scene's source of chance.
        x: Place in metres.
        z: Depth in metres.
        top: Height in metres; below 2.5 it is a bush without a trunk.
        blobs: How many ellipses the crown is made of.
    """
    leaves = vary(rng, pick(rng, AUTUMN if rng.random() < 0.1 else LEAVES), 12)
    bush = top < 2.5
    low = 0.0 if bush else top * float(rng.uniform(0.25, 0.42))
    wide = (top - low) * float(rng.uniform(0.36, 0.6))
    if not bush:
        canvas.bar((x, 0, z), (x, low + 1, z), 0.06 + 0.035 * top, BARK, Label.VEGETATION)
    middle, half = (low + top) / 2, (top - low) / 2
    radius = wide * 0.5
    canvas.disc(
        (x, middle, z), wide * 0.8, shaded(leaves, 0.62), Label.VEGETATION, tall=half / wide
    )
    heights = np.sort(rng.uniform(-0.75, 0.75, blobs)).tolist()
    for height, along, size in zip(
        heights,
        rng.uniform(-1, 1, blobs).tolist(),
        rng.uniform(0.6, 1, blobs).tolist(),
        strict=True,
    ):
        reach = (1 - height * height) ** 0.5 * (wide - radius * 0.6)
        centre = (x + along * reach, middle + height * half * 0.9, z)
        lit = shaded(leaves, 0.78 + 0.3 * height + 0.12 * along + 0.25 * (size - 0.8))
        canvas.disc(centre, radius * size, lit, Label.VEGETATION, tall=0.85)

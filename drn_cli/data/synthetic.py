"""Synthetic street scenes with Cityscapes label ids, painted from a table of shapes.

A level pinhole camera looks along a straight street. The world is in meters: x to the right of the
camera, y up from the ground, z ahead. `tables/street.yaml` describes the objects as polygons in a
unit box, their colors and classes, and where they stand; this file paints what it says.
"""

import math
from collections.abc import Iterator, Sequence
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

from drn_cli.data.classes import cityscapes_label_ids
from drn_cli.data.street_table import NEAR, Array, Color, Frame, Object, Part, Shapes, load_table

Rng = np.random.Generator
Colors = dict[str, Color]  # of an object, by the name of the palette
T = TypeVar("T")

OVERSAMPLING = 2  # edges are soft in the image, which is averaged down, and hard in the labels
NEAREST, FAR = 1.2, 220.0  # depth of both ends of the ground
BACKDROP, JUNCTION = 105.0, 8.0  # depth of what closes the view; width of a crossing road


def _pick(rng: Rng, options: Sequence[T]) -> T:
    return options[int(rng.random() * len(options))]  # much faster than rng.choice


def _draw(rng: Rng, value: Any) -> float:
    """Return the number, or one from the range."""
    if isinstance(value, int | float):
        return float(value)
    return float(value[0] + (value[1] - value[0]) * rng.random())


class Painter:
    """Paints one scene: draws camera, light and street at random, then all that stands there."""

    def __init__(self, rng: Rng, size: tuple[int, int]) -> None:
        self.rng, self.table, (self.width, self.height) = rng, load_table(), size
        self.focal = self.height * rng.uniform(1.25, 1.65)
        self.center = self.width * rng.uniform(0.4, 0.6)
        self.horizon = self.height * rng.uniform(0.4, 0.5)
        self.eye = rng.uniform(1.3, 1.65)
        weather = int(rng.integers(len(self.table.palettes["sky"])))
        self.sky = np.array(self.table.palettes["sky"][weather]) + rng.uniform(-14, 14, 3)
        self.haze = np.array(self.table.palettes["horizon"][weather]) + rng.uniform(-10, 10, 3)
        self.visibility = rng.uniform(70, 320)
        self.sun = rng.uniform(0, 1) * _pick(rng, (-1, 1))  # its strength; above 0: from the right
        self.front = rng.uniform(0.72, 1.0)  # brightness of what faces the camera
        self.image, self.labels = Image.new("RGB", size), Image.new("L", size)
        self.shadows = Image.new("L", (self.width // 2, self.height // 2))
        self.opaque, self.marker = ImageDraw.Draw(self.image), ImageDraw.Draw(self.labels)
        self.blended = ImageDraw.Draw(self.image, "RGBA")
        self.rails = _pick(rng, (-3.5, -7.0)) if rng.random() < 0.45 else None
        left = min(-_pick(rng, (5.3, 7.6, 8.2)), (self.rails or 0) - 1.9)
        self.kerbs = left, _pick(rng, (1.9, 2.2, 2.6, 4.2, 4.5))
        sidewalks, verges = rng.uniform(2.2, 5.5, 2), rng.uniform(1, 5, 2) * (rng.random(2) < 0.5)
        self.edges = self.kerbs[0] - float(sidewalks[0]), self.kerbs[1] + float(sidewalks[1])
        self.fronts = self.edges[0] - float(verges[0]), self.edges[1] + float(verges[1])
        self.junction = rng.uniform(11, 26) if rng.random() < 0.4 else None

    def project(self, points: Array) -> Array:
        """Columns and rows of points of the world, (N, 3) to (N, 2)."""
        scale = self.focal / np.maximum(points[:, 2], NEAR)
        pixels = np.empty((len(points), 2))
        pixels[:, 0] = self.center + scale * points[:, 0]
        pixels[:, 1] = self.horizon + scale * (self.eye - points[:, 1])
        return pixels

    def color(self, palette: str) -> Color:
        """Draw a color of the palette, and vary it a little."""
        colors = self.table.palettes[palette]
        index, *vary = self.rng.random(4).tolist()
        reach = 28 if len(colors) > 4 else 12
        red, green, blue = colors[int(index * len(colors))]
        r, g, b = (reach * value - reach / 2 for value in vary)
        return red + r, green + g, blue + b

    def expand(
        self, thing: Object, frame: Frame, shapes: Shapes, colors: Colors, label: int | None = None
    ) -> None:
        """Append the shapes of an object and of its details to `shapes`."""
        label = label if thing.label is None else thing.label
        for part in thing.parts:
            if part.cell is None and part.chance < 1 and self.rng.random() >= part.chance:
                continue
            if part.use:
                used = self.table.objects[_pick(self.rng, part.use)]
                if not used.size:
                    self.expand(used, frame, shapes, colors, label)
                else:
                    base = frame.origin + np.array((*part.at, 0.5)[:3]) @ frame.axes
                    size = (_draw(self.rng, used.size[0]), _draw(self.rng, used.size[1]), 0.0)
                    inner = Frame.on(base.tolist(), size, frame.turned, frame.turn or 1)
                    self.expand(used, inner, shapes, {}, label)
                continue
            if self.unseen(part, frame):
                continue
            points, shades = part.polygons(frame, self.rng, self.focal / frame.z, self.sun)
            if part.color not in colors:
                colors[part.color] = self.color(part.color)
            tints = [colors[part.color]] * len(points)
            if frame.size[2]:  # not flat
                shades = self.light(part, frame, points, shades)
            if part.solid:  # faces from far to near, each followed by its window
                tints[len(part.solid) - 1 :] = [self.table.palettes["glass"][0]] * len(part.glass)
                middles = points.mean(1) @ frame.axes + frame.origin
                order = np.argsort(-np.hypot(middles[:, 0], middles[:, 2]).round(2), kind="stable")
                points = points[order]
                tints, shades = [tints[i] for i in order], [shades[i] for i in order]
            casts = not (part.cell or part.crown)
            style = (None if part.cell else label, part.alpha, part.thick, casts)
            shapes.frames.append(frame)
            shapes.points.append(points)
            shapes.tints += tints
            shapes.shades += shades
            shapes.styles += [style] * len(points)

    def unseen(self, part: Part, frame: Frame) -> bool:
        """Whether the part is turned away from the camera or too small to be seen."""
        along, pixels = frame.turn is None, self.focal / frame.z
        seen = part.extent * max(frame.size) * pixels
        if part.plane == "side":
            if along and not (part.solid or part.face):
                if abs(frame.x) < 1e-9 or (frame.x > 0) != (frame.axes[2, 0] > 0):
                    return True
                if part.cell:  # foreshortened
                    wide = min(part.cell[0], frame.size[0])
                    seen = 0.6 * wide * pixels * abs(frame.x) / (frame.z + wide)
        elif part.plane != "ground":
            hidden = "tail" if frame.turned else "nose"
            if not along or part.plane == hidden:
                return True
        return seen < 3 or 0 < part.thick * pixels < 0.4

    def light(self, part: Part, frame: Frame, points: Array, shades: list[float]) -> list[float]:
        """Shade roofs, what faces the camera, and both sides of the street."""
        if part.plane != "side":
            return shades
        side = 1 + abs(self.sun) * (0.18 if self.sun * frame.x < 0 else -0.32)
        if part.solid or part.face:
            span = (np.ptp(points, 1) * frame.size).tolist()
            front = self.front if frame.turn is None else side * 0.9
            lit = [front if along < up else 1.12 for along, up, _ in span]
            return [shade * one for shade, one in zip(shades, lit, strict=True)]
        one = side if frame.turn is None else self.front
        return [shade * one for shade in shades]

    def paint(self, shapes: Shapes, hazy: bool = True) -> None:
        """Draw the shapes into image and labels."""
        points, starts = shapes.world()
        pixels, first = self.project(points), np.array(starts[:-1])
        low, high = (np.asarray(f.reduceat(pixels, first)) for f in (np.minimum, np.maximum))
        seen = np.all((high >= 0) & (low < (self.width, self.height)), axis=1)
        fine = np.any(high - low < 1, axis=1).tolist()
        depth = np.add.reduceat(points[:, 2], first) / np.diff(starts)
        fills = np.array(shapes.tints) * np.array(shapes.shades)[:, None]
        if hazy:
            clear = np.exp(-np.maximum(depth, 0) / self.visibility)[:, None]
            fills = fills * clear + self.haze * (1 - clear)
        colors = [(r, g, b) for r, g, b in np.clip(fills, 0, 255).astype(int).tolist()]
        flat, scales = pixels.ravel().tolist(), (self.focal / np.maximum(depth, NEAR)).tolist()
        for index in np.flatnonzero(seen).tolist():
            label, alpha, thick, _ = shapes.styles[index]
            if label is None and fine[index]:
                continue
            outline = flat[2 * starts[index] : 2 * starts[index + 1]]
            if thick:  # never thinner than a pixel of the final image
                width = max(OVERSAMPLING, round(scales[index] * thick))
                self.opaque.line(outline, colors[index], width)
                if label is not None:
                    self.marker.line(outline, label, width)
                continue
            if alpha < 255:
                self.blended.polygon(outline, (*colors[index], alpha))
            else:
                self.opaque.polygon(outline, colors[index])
            if label is not None:
                self.marker.polygon(outline, label)

    def cast(self, shapes: Shapes) -> None:
        """Draw the shadows of the shapes on the ground."""
        points, starts = shapes.world()
        fall = -self.sun * 0.5 - math.copysign(0.15, self.sun)
        points = points * (1, 0, 1) + points[:, 1:2] * (fall, 0, 0.12)
        flat, depths = (self.project(points) / 2).ravel().tolist(), points[:, 2].tolist()
        pen = ImageDraw.Draw(self.shadows)
        for index, (_, alpha, thick, casts) in enumerate(shapes.styles):
            outline = flat[2 * starts[index] : 2 * starts[index + 1]]
            if thick and casts:
                width = self.focal * thick / max(depths[starts[index]], NEAR) / 2
                pen.line(outline, 255, max(1, round(width)))
            elif casts and alpha == 255:
                pen.polygon(outline, 255)

    def paint_sky(self) -> None:
        rng, rows = self.rng, max(math.ceil(self.horizon), 1)
        down = (np.arange(rows) / rows)[:, None, None] ** 0.8
        ramp = np.broadcast_to(self.sky * (1 - down) + self.haze * down, (rows, self.width, 3))
        self.image.paste(tuple(self.haze.astype(int).tolist()), (0, rows, self.width, self.height))
        self.image.paste(Image.fromarray(ramp.astype(np.uint8)))
        self.labels.paste(cityscapes_label_ids()["sky"], (0, 0, self.width, self.height))
        small = (max(self.width // 8, 2), max(rows // 8, 2))  # clouds are soft
        noise = smooth_noise(rng, small, (7, 3)) + 0.5 * smooth_noise(rng, small, (17, 7))
        cover = np.clip((noise - 1.2 + 2.4 * rng.uniform(0.1, 0.75)) * 0.8, 0, 0.85) * 255
        mask = Image.fromarray(cover.astype(np.uint8))
        mask = mask.resize((self.width, rows), Image.Resampling.BICUBIC)
        self.image.paste((236, 236, 238), (0, 0, self.width, rows), mask)

    def paint_ground(self) -> None:
        """Draw grass, sidewalks, the road and its markings, a crossing road and rails."""
        rng, (left, right), far = self.rng, self.kerbs, FAR - NEAREST
        ground, colors = Shapes(), Colors()

        def lay(name: str, x0: float, x1: float, z: float = NEAREST, length: float = far) -> None:
            thing = self.table.objects[name]
            size = [length if thing.size[0] is None else _draw(rng, thing.size[0]), 0, x1 - x0]
            frame = Frame.on(((x0 + x1) / 2, 0, z), size, False, None)
            self.expand(thing, frame, ground, colors)

        lay("grass", -90, 90)
        lay("sidewalk", self.edges[0], left)
        lay("sidewalk", right, self.edges[1])
        lay("road", left, right)
        if self.junction:
            lay("road", -70, 70, self.junction, JUNCTION)
        for x in (-0.9, 0.9):
            lay("wheel track", x - 0.3, x + 0.3)
        for x in rng.uniform(left, right - 1.5, rng.integers(1, 5)).tolist():
            lay("patch", x, x + 1.5, rng.uniform(4, 30))
        for x in (left + 0.3, right - 0.42) if rng.random() < 0.5 else ():
            lay("edge line", x, x + 0.12)
        for x in np.arange(-1.75, left + 1.5, -3.5).tolist():
            lay("lane line", x - 0.07, x + 0.07, NEAREST + rng.uniform(0, 3))
        if self.junction or rng.random() < 0.35:
            z = self.junction - 4 if self.junction else rng.uniform(7, 20)
            lay("zebra crossing", left + 0.3, right - 0.3, z)
        if self.rails:
            lay("rails", self.rails - 0.78, self.rails + 0.78)
        self.paint(ground, hazy=False)

    def shade_ground(self) -> None:
        """Lay the shadows on the ground, and the haze, of which each row has one depth."""
        top = min(max(int(self.horizon), 0), self.height - 2) // 2 * 2
        size = (self.width, self.height - top)
        darkness = 0.25 + 0.3 * abs(self.sun)
        soft = self.shadows.crop((0, top // 2, self.width // 2, self.height // 2))
        soft = soft.point([int(value * darkness) for value in range(256)])
        soft = soft.filter(ImageFilter.GaussianBlur(self.height / 200))
        self.image.paste((16, 18, 26), (0, top), soft.resize(size, Image.Resampling.BILINEAR))
        rows = np.arange(top, self.height) + 0.5 - self.horizon
        veil = 1 - np.exp(-self.focal * self.eye / np.maximum(rows, 0.5) / self.visibility)
        mask = Image.fromarray((veil[:, None] * 255).astype(np.uint8))
        haze = tuple(np.clip(self.haze, 0, 255).astype(int).tolist())
        self.image.paste(haze, (0, top), mask.resize(size, Image.Resampling.NEAREST))

    def paint_hood(self) -> None:
        """Draw the hood of our own car at the lower edge of two images in three."""
        if self.rng.random() > 0.65:
            return
        rise, color = self.rng.uniform(0.03, 0.09) * self.height, np.array(self.color("paint"))
        for down, tint in ((0, color), (rise / 4, color * 0.85 + 20)):
            top, bottom = self.height - rise + down, self.height + rise
            box = (-0.1 * self.width, top, 1.1 * self.width, bottom)
            self.opaque.ellipse(box, tuple(np.clip(tint, 0, 255).astype(int).tolist()))
            self.marker.ellipse(box, cityscapes_label_ids()["ego vehicle"])

    def place(
        self, name: str, x: float, z: float, length: float = 0, across: bool = False
    ) -> tuple[float, Shapes]:
        """Return depth and shapes of an object that stands at (x, z)."""
        rng, thing = self.rng, self.table.objects[name]
        size = [length if side is None else _draw(rng, side) for side in thing.size]
        if thing.flat:
            turned = rng.random() < 0.5 if thing.turn else x > 0
            frame = Frame.on((x, 0, z), (*size, 0.0), turned, _draw(rng, thing.turn or 1))
        else:
            turned = (x < -1.5) == (rng.random() < 0.95) and not length
            frame = Frame.on((x, 0, z), size, turned, 1 if across else None)
        wide, shapes = size[0] if frame.turn else size[2], Shapes()
        ahead = z if frame.turn else z + size[0]  # where it comes nearest to the middle of the view
        left, right = (self.center + self.focal * (x + s) / ahead for s in (-wide / 2, wide / 2))
        if left < self.width and right > 0:
            self.expand(thing, frame, shapes, {})
        return z, shapes

    def roadside(self) -> Iterator[tuple[float, Shapes]]:
        """Depth and shapes of the end of the view and of the plots on both sides."""
        rng, plots, gap = self.rng, self.table.plots, self.junction or 1e3
        for x in np.arange(-84, 84, 12).tolist():
            yield self.place(_pick(rng, plots["distant"]), x + rng.uniform(-3, 3), BACKDROP)
        for side, front in zip((-1, 1), self.fronts, strict=True):
            built_up, z = rng.uniform(0.15, 0.9), NEAREST
            while z < BACKDROP:
                end = z + rng.uniform(6, 17)
                at_gap = z < gap + JUNCTION and end > gap - 2
                end = gap - 2 if at_gap else end
                if end - z > 3:
                    name = _pick(rng, plots["houses" if rng.random() < built_up else "open"])
                    setback = rng.uniform(0, 0.8) + self.table.objects[name].size[2] / 2
                    yield self.place(name, front + side * setback, z, end - z)
                z = gap + JUNCTION + 2 if at_gap else end

    def things(self) -> Iterator[tuple[float, Shapes]]:
        """Depth and shapes of all that the rules of the table place in the street."""
        rng, gap, rails = self.rng, self.junction or -99.0, self.rails or -99.0
        lines: dict[str, Sequence[float]] = {
            "kerbs": self.kerbs,
            "fronts": self.fronts,
            "lanes": (0.0, -3.5),
            "road": (rng.uniform(*self.kerbs),),
            "rails": (rails,) if self.rails else (),
            "junction": self.kerbs if self.junction else (),
            "crossing lanes": (1.0, 4.8) if self.junction and not self.rails else (),
        }
        for rule in self.table.places:
            for line in lines[rule.at]:
                if rng.random() >= rule.chance:
                    continue
                if rule.at == "crossing lanes":
                    name = _pick(rng, rule.what)
                    yield self.place(name, rng.uniform(-16, 10), gap + line, 0, True)
                    continue
                z = _draw(rng, rule.z) + (gap if rule.at == "junction" else 0)
                while z < rule.to:
                    name = _pick(rng, rule.what)
                    vehicle = not self.table.objects[name].flat
                    x = line + math.copysign(1, line) * _draw(rng, rule.beside)
                    if rule.clear is not None and (abs(x) < rule.clear or abs(x - rails) < 2.6):
                        break
                    if vehicle and gap - 12 < z < gap + JUNCTION + 1:
                        z = gap + JUNCTION + 1
                    for _ in range(int(rng.integers(rule.group[0], rule.group[1] + 1))):
                        yield self.place(name, x, z)
                        x, z = x + rng.uniform(0.45, 0.8), z + rng.uniform(-0.3, 0.5)
                    if rule.gap is None:
                        break
                    z += _draw(rng, rule.gap)
                    z += _draw(rng, self.table.objects[name].size[0]) if vehicle else 0


def smooth_noise(rng: Rng, size: tuple[int, int], cells: tuple[int, int]) -> NDArray[np.float32]:
    """Normal noise on a grid of `cells` (columns, rows), smoothly enlarged to `size`, (H, W)."""
    grid = rng.standard_normal((max(cells[1], 2), max(cells[0], 2)), dtype=np.float32)
    return np.asarray(Image.fromarray(grid).resize(size, Image.Resampling.BICUBIC), np.float32)


def draw_scene(
    seed: int, width: int = 256, height: int = 128
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Draw a street as seen from a car, with the label of every pixel.

    The same seed and size give the same scene.

    Args:
        seed: Which scene, 0 or more.
        width: Width in pixels.
        height: Height in pixels.

    Returns:
        RGB image (H, W, 3) and Cityscapes label ids (H, W).
    """
    rng = np.random.default_rng(seed)
    painter = Painter(rng, (width * OVERSAMPLING, height * OVERSAMPLING))
    painter.paint_sky()
    painter.paint_ground()
    near, everything = Shapes(), Shapes()
    for layer in (painter.roadside(), painter.things()):
        for depth, shapes in sorted(layer, key=lambda item: -item[0]):
            everything.extend(shapes)
            if depth < 30:
                near.extend(shapes)
    painter.cast(near)
    painter.shade_ground()
    painter.paint(everything)
    painter.paint_hood()
    labels = np.asarray(painter.labels)[::OVERSAMPLING, ::OVERSAMPLING].copy()
    image = _expose(painter.image.reduce(OVERSAMPLING), painter.table.texture[labels], rng)
    if rng.random() < 0.4:  # rectified images have no labels at the border
        edge = max(height // 64, 1)
        labels[:, :edge] = labels[:, -edge:] = cityscapes_label_ids()["out of roi"]
    return image, labels


def _expose(image: Image.Image, texture: NDArray[np.float32], rng: Rng) -> NDArray[np.uint8]:
    """Take the photograph: texture, slight blur, exposure, white balance, vignette and noise."""
    height, width = texture.shape
    blur = rng.uniform(0.25, 0.6) * max((height / 128) ** 0.5, 0.6)
    grain = smooth_noise(rng, (width, height), (min(width, 256) // 2, min(height, 128) // 2))
    uneven = 1 + smooth_noise(rng, (width, height), (14, 8)) * (0.012 + 0.0025 * texture)
    pixels = np.asarray(image, np.float32) * uneven[..., None] + (grain * texture)[..., None]
    rounded = Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))
    pixels = np.asarray(rounded.filter(ImageFilter.GaussianBlur(blur)), np.float32)
    balance = (rng.uniform(0.94, 1.06, 3) * rng.uniform(0.66, 1.08)).astype(np.float32)
    contrast, corner = rng.uniform(0.85, 1.12), rng.uniform(0, 0.25)
    y, x = np.ogrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
    vignette = (1 - corner * 0.5 * (x * x + y * y)).astype(np.float32)
    pixels = ((pixels - 110) * np.float32(contrast) + 110) * balance * vignette[..., None]
    pixels += rng.standard_normal(pixels.shape, dtype=np.float32) * np.float32(rng.uniform(1, 4))
    exposed: NDArray[np.uint8] = np.clip(pixels, 0, 255).astype(np.uint8)
    return exposed

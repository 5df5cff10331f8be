"""The table of shapes that synthetic street scenes are painted from.

`tables/street.yaml` holds the colors, the objects as polygons in a unit box with their classes, and
the places where they stand. A new object is an entry there. `Frame` puts a unit box into the world.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property
from importlib.resources import files
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray

from drn_cli.data.classes import cityscapes_label_ids

Array = NDArray[np.float64]
Color = tuple[float, float, float]
Style = tuple[int | None, int, float, bool]  # label, opacity, thickness in meters, casts a shadow

NEAR = 0.7  # depth of the nearest points that are painted

SQUARE = np.array([(0, 0), (0, 1), (1, 1), (1, 0)])
CIRCLE = np.array([(math.cos(a * math.pi / 7), math.sin(a * math.pi / 7)) for a in range(14)])


@dataclass(frozen=True)
class Part:
    """A shape of an object, or another object that belongs to it.

    Points are (along, up) in the unit box of the object: along runs from the tail to the nose of a
    vehicle, away from the camera for what stands on a plot, and from left to right in a flat
    object. `box`, `oval` (left, bottom, right, top), `poly`, `line` and `ring` (the outline of an
    oval) also take a list of shapes; the points of a `face` are (along, up, across).
    """

    box: Any = None
    oval: Any = None
    poly: Any = None
    line: Any = None
    ring: Any = None
    face: Any = None
    solid: Any = None  # side view that is extruded over the width of the object
    crown: Any = None  # box that `count` blobs of leaves fill
    count: int = 0
    use: Sequence[str] = ()  # one of these objects; if it has a size, it stands at the point `at`
    at: Sequence[float] = ()
    plane: str = "side"  # end, nose, tail: points are (across, up); ground: (along, across)
    color: str = ""  # name of a palette
    shade: float = 1.0  # factor on the color
    vary: float = 0.0  # range of a random factor on the color of each shape
    alpha: int = 255  # opacity
    thick: float = 0.0  # of lines, in meters
    glass: Sequence[int] = ()  # edges of a solid that are windows
    cell: Sequence[float] | None = None  # repeat in cells of this size in meters, without labels
    area: Sequence[float] = (0, 0, 1, 1)  # box that the cells fill
    rows: Sequence[int] = (0, 99)  # rows of cells that are filled
    chance: float = 1.0  # probability, of each cell where there are cells

    @cached_property
    def shapes(self) -> Array:
        """All polygons or polylines in the unit box, (N, K, 3); windows of a solid come last."""
        if self.solid:
            edges = zip(self.solid[:-1], self.solid[1:], strict=True)
            faces = np.array([[(*a, 0), (*b, 0), (*b, 1), (*a, 1)] for a, b in edges], float)
            middle = faces.mean(1, keepdims=True)
            return np.concatenate([faces, (middle + 0.86 * (faces - middle))[list(self.glass)]])
        points = np.array(self.box or self.oval or self.ring or self.poly or self.line or self.face)
        if self.box or self.oval or self.ring:
            low, high = np.split(points.reshape(-1, 1, 4), 2, axis=2)
            outline = SQUARE if self.box else CIRCLE / 2 + 0.5
            outline = np.vstack([outline, outline[:1]]) if self.ring else outline
            points = low + outline * (high - low)
        points = points.reshape(-1, *points.shape[-2:]).astype(float)
        if points.shape[-1] == 2:
            points = np.dstack([points, np.zeros(points.shape[:2])])
        axes = {"side": [0, 1, 2], "ground": [0, 2, 1]}.get(self.plane, [2, 1, 0])
        return points[..., axes]

    @cached_property
    def extent(self) -> float:
        """Largest side of the shapes in the unit box; details need not be drawn far away."""
        return 1.0 if self.cell or self.crown else float(np.ptp(self.shapes, axis=1).max())

    def polygons(
        self, frame: "Frame", rng: np.random.Generator, pixels: float, sun: float
    ) -> tuple[Array, list[float]]:
        """Return the polygons in the unit box, (N, K, 3), and a factor on the color of each.

        Args:
            frame: Where the unit box lies in the world.
            rng: Source of what varies.
            pixels: Pixels per meter where the object stands.
            sun: Strength of the sun; above 0 if it shines from the right.
        """
        length, height, width = frame.size
        if self.crown:
            left, bottom, right, top = self.crown
            count = int(min(self.count, 5 + height * pixels / 12))
            rise = np.sort(rng.uniform(-0.75, 0.75, count))
            along, big = rng.uniform(-1, 1, (2, count))
            reach = (right - left) * length * 0.22 * (0.8 + 0.2 * big)
            middle = (left + right + along * np.sqrt(1 - rise**2) * (right - left) * 0.65) / 2
            centers = np.stack([middle, (bottom + top + rise * (top - bottom) * 0.9) / 2], 1)
            radii = np.stack([reach / length, reach * 0.85 / height], 1)
            blobs = np.zeros((count, len(CIRCLE), 3))
            blobs[..., :2] = centers[:, None] + CIRCLE * radii[:, None]
            sunny = np.sign(frame.axes[0, 0]) * sun * along
            return blobs, (self.shade * (0.82 + 0.26 * rise + 0.16 * sunny + 0.06 * big)).tolist()
        points = self.shapes
        if self.plane in ("end", "nose", "tail"):
            points = points + np.array((float(frame.turned), 0.0, 0.0))
        if self.cell:
            up = 2 if self.plane == "ground" else 1
            (a, b, c, d), (wide, tall) = self.area, self.cell
            columns = max(round((c - a) * length / wide), 1)
            rows = max(round((d - b) * (height, width)[up - 1] / tall), 1)
            grid = np.indices((columns, rows))[:, :, self.rows[0] : self.rows[1]].reshape(2, -1).T
            grid = grid[rng.random(len(grid)) < self.chance] if self.chance < 1 else grid
            points = np.tile(points, (len(grid), 1, 1))
            shift = grid.repeat(len(self.shapes), 0)
            points[..., 0] = a + (points[..., 0] + shift[:, :1]) * (c - a) / columns
            points[..., up] = b + (points[..., up] + shift[:, 1:]) * (d - b) / rows
        if not self.vary:
            return points, [self.shade] * len(points)
        return points, (self.shade * (1 + self.vary * rng.uniform(-1, 1, len(points)))).tolist()


@dataclass(frozen=True)
class Object:
    """An instance of a class; without a size, details that take the box of what uses them.

    Attributes:
        parts: What it is painted of, from back to front.
        label: Cityscapes label id; None takes that of the object that uses this one.
        size: Length, height and width in meters, each a number or a range, or None where the
            place decides. A flat object has a length and a height only.
        flat: It faces the camera.
        turn: Range of the factor on the length of a flat object that is turned away at random;
            without it, it points to the left on the right of the street.
    """

    parts: Sequence[Part]
    label: int | None = None
    size: Sequence[Any] = ()
    flat: bool = False
    turn: Sequence[float] | None = None


@dataclass(frozen=True)
class Rule:
    """Where objects stand: along a line of the street, from the first depth on."""

    what: Sequence[str]
    at: str
    beside: Any = 0.0  # meters from the line, away from the road; a number or a range
    z: Any = 0.0  # depth of the first
    gap: Any = None  # meters to the next; None: there is only one
    to: float = 80.0
    group: Sequence[int] = (1, 1)  # how many stand together
    chance: float = 1.0
    clear: float | None = None  # meters to our lane and to rails


@dataclass(frozen=True)
class Table:
    """The contents of `tables/street.yaml`."""

    palettes: dict[str, Sequence[tuple[float, float, float]]]
    texture: NDArray[np.float32]  # of each label id, in gray levels
    objects: dict[str, Object]
    places: Sequence[Rule]
    plots: dict[str, Sequence[str]]


@cache
def load_table() -> Table:
    text = (files("drn_cli.data") / "tables" / "street.yaml").read_text(encoding="utf-8")
    # libyaml's loader is ten times as fast, where PyYAML was built with it.
    raw = yaml.load(text, getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    ids = cityscapes_label_ids()
    objects = {}
    for name, entry in raw["objects"].items():
        parts = []
        for part in entry["parts"]:
            parts.append(Part(**part))
            if "solid" in part:  # its side is a polygon of its own
                side = {key: part[key] for key in ("color", "shade") if key in part}
                parts.append(Part(poly=part["solid"], **side))
        label = ids[entry["label"]] if "label" in entry else None
        objects[name] = Object(**{**entry, "parts": parts, "label": label})
    texture = np.full(256, 4, np.float32)
    texture[[ids[name] for name in raw["texture"]]] = list(raw["texture"].values())
    places = [Rule(**rule) for rule in raw["places"]]
    return Table(raw["palettes"], texture, objects, places, raw["plots"])


@dataclass
class Frame:
    """Where the unit box of an object lies: world = origin + point @ axes."""

    origin: Array
    axes: Array
    size: Sequence[float]
    turned: bool  # towards the camera, or to the left
    x: float  # of the side towards the middle of the street
    z: float  # depth of the nearest point
    turn: float | None  # factor on the length of what lies across the view; None: along the street

    @classmethod
    def on(
        cls, base: Sequence[float], size: Sequence[float], turned: bool, turn: float | None
    ) -> "Frame":
        """Frame on a base point, the middle of its near edge."""
        (x, y, z), (length, height, width) = base, size
        if turn is None:  # across 0 is the side towards the middle of the street
            along, across = -length if turned else length, -width if x < 0 else width
            axes = np.array(((0, 0, along), (0, height, 0), (across, 0, 0)), float)
            origin = (x - across / 2, y, z + (length if turned else 0))
        else:
            along = length * (-turn if turned else turn)
            axes = np.array(((along, 0, 0), (0, height, 0), (0, 0, width)), float)
            origin = (x - along / 2, y, z)
        return cls(np.array(origin), axes, size, turned, origin[0], max(z, NEAR), turn)


@dataclass
class Shapes:
    """Polygons and polylines from back to front, those of one object in its unit box."""

    frames: list[Frame] = field(default_factory=list)  # of each part
    points: list[Array] = field(default_factory=list)  # of each part, (N, K, 3)
    tints: list[Color] = field(default_factory=list)  # of each shape
    shades: list[float] = field(default_factory=list)
    styles: list[Style] = field(default_factory=list)

    def world(self) -> tuple[Array, list[int]]:
        """All points in the world, (M, 3), and the first point of each shape and the end."""
        counts = np.repeat([p.shape[1] for p in self.points], [len(p) for p in self.points])
        sizes = [p.shape[0] * p.shape[1] for p in self.points]
        points = np.concatenate([p.reshape(-1, 3) for p in self.points])
        axes = np.repeat(np.array([frame.axes for frame in self.frames]), sizes, 0)
        origins = np.repeat(np.array([frame.origin for frame in self.frames]), sizes, 0)
        return np.einsum("mi,mij->mj", points, axes) + origins, [0, *np.cumsum(counts).tolist()]

    def extend(self, other: "Shapes") -> None:
        for name in ("frames", "points", "tints", "shades", "styles"):
            getattr(self, name).extend(getattr(other, name))

"""Vehicle bodies: a side view that is extruded over the width, along or across the street."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from drn_cli.data.prepare.street.canvas import CIRCLE, Canvas, Colour, Label, Point, shaded

Outline = Sequence[tuple[float, float]]
TYRE: Colour = (30, 30, 32)
HUB: Colour = (150, 150, 152)


@dataclass(frozen=True, slots=True)
class Pose:
    """Where a vehicle stands.

    Attributes:
        x: Middle of the vehicle in metres (its left end when it stands across).
        z: Depth of its nearest point in metres.
        length: Its own length in metres.
        width: Its own width in metres.
        across: It crosses the street, so that its whole side is seen.
        turned: It comes towards the camera (across: it drives to the left).
    """

    x: float
    z: float
    length: float
    width: float
    across: bool
    turned: bool

    def at(self, along: float, up: float, off: float) -> Point:
        """Point of the world: `along` from the tail, `up` from the ground, `off` the middle."""
        if self.turned:
            along = self.length - along
        if self.across:
            return (self.x + along, up, self.z + self.width / 2 + off)
        return (self.x + off, up, self.z + along)

    def side(self) -> float | None:
        """Return the `off` of the side that the camera sees, or None if it sees none."""
        if self.across:
            return -self.width / 2
        if abs(self.x) <= self.width / 2:
            return None
        return -self.width / 2 if self.x > 0 else self.width / 2

    def end(self) -> float:
        """Return the `along` of the end that the camera sees best."""
        if self.across:
            # The end nearer to the middle of the picture.
            return 0.0 if (self.x + self.length / 2 > 0) != self.turned else self.length
        return self.length if self.turned else 0.0


@dataclass(frozen=True, slots=True)
class Body:
    """One extruded part of a vehicle.

    Attributes:
        outline: The side view from the tail over the roof to the nose, (along, up) in metres;
            the first and the last point are joined by the underside.
        glass: Indices of the edges of the outline that are windows over the whole width.
        paint: Colour.
        label: What it is.
    """

    outline: Outline
    glass: tuple[int, ...]
    paint: Colour
    label: Label


def draw_shadow(canvas: Canvas, pose: Pose) -> None:
    """Darken the ground below and beside the vehicle."""
    wide = pose.width / 2
    for grow, share in ((0.3, 0.5), (0.0, 1.0)):
        ends = (-grow, pose.length + grow)
        corners = [
            pose.at(a, 0.0, o * (wide + grow))
            for a, o in zip((ends[0], ends[0], ends[1], ends[1]), (-1, 1, 1, -1), strict=True)
        ]
        canvas.face(corners, (16, 16, 20), None, int(min(canvas.light.shadow * share, 254)))


def draw_body(canvas: Canvas, pose: Pose, body: Body, glass: Colour) -> None:
    """Draw the faces of a body from far to near, and then its side."""
    half = pose.width / 2
    faces = []
    for index, (start, end) in enumerate(pairwise(body.outline)):
        corners = [
            pose.at(*start, -half),
            pose.at(*end, -half),
            pose.at(*end, half),
            pose.at(*start, half),
        ]
        upright = abs(start[0] - end[0]) < abs(start[1] - end[1])
        depth = sum(corner[2] for corner in corners)
        sideways = abs(corners[0][0] + corners[1][0])
        faces.append((depth, sideways, corners, upright, index in body.glass))
    for _, _, corners, upright, window in sorted(faces, key=lambda face: face[:2], reverse=True):
        factor = 1.12
        if upright:
            x = corners[0][0]
            factor = canvas.light.side(x) * 0.9 if pose.across else canvas.light.front
        canvas.face(corners, shaded(body.paint, factor), body.label)
        if window:
            canvas.face(_shrunk(corners), shaded(glass, factor), body.label)
    off = pose.side()
    if off is not None:
        side = [pose.at(along, up, off) for along, up in body.outline]
        canvas.face(side, shaded(body.paint, _side_light(canvas, pose)), body.label)


def _shrunk(corners: Sequence[Point]) -> list[Point]:
    middle = [sum(corner[axis] for corner in corners) / len(corners) for axis in range(3)]
    return [
        (
            middle[0] + 0.86 * (x - middle[0]),
            middle[1] + 0.86 * (y - middle[1]),
            middle[2] + 0.86 * (z - middle[2]),
        )
        for x, y, z in corners
    ]


def _side_light(canvas: Canvas, pose: Pose) -> float:
    return canvas.light.front if pose.across else canvas.light.side(pose.x)


def draw_on_side(canvas: Canvas, pose: Pose, outline: Outline, fill: Colour) -> None:
    """Draw a window, door or stripe on the side that is seen; the label stays."""
    off = pose.side()
    if off is not None:
        corners = [pose.at(along, up, off) for along, up in outline]
        canvas.face(corners, shaded(fill, _side_light(canvas, pose)), None)


def draw_on_end(
    canvas: Canvas, pose: Pose, left: float, right: float, low: float, high: float, fill: Colour
) -> None:
    """Draw a rectangle (in half widths and metres) on the end of a vehicle along the street."""
    if pose.across:
        return
    half, end = pose.width / 2, pose.end()
    corners = [
        pose.at(end, up, off * half)
        for up, off in ((low, left), (high, left), (high, right), (low, right))
    ]
    canvas.face(corners, fill, None)


def draw_wheels(
    canvas: Canvas, pose: Pose, axles: Sequence[float], radius: float, label: Label
) -> None:
    """Draw the wheels on the side that is seen, and the tyres below the end that is seen."""
    if not pose.across:
        half, end = pose.width / 2, pose.end()
        for inner in (-0.95, 0.62):
            corners = [
                pose.at(end, up, off * half)
                for up, off in (
                    (0.0, inner),
                    (radius, inner),
                    (radius, inner + 0.33),
                    (0.0, inner + 0.33),
                )
            ]
            canvas.face(corners, TYRE, label)
    off = pose.side()
    if off is None:
        return
    for axle in axles:
        tyre = [pose.at(axle + radius * c, radius + radius * s, off) for c, s in CIRCLE]
        canvas.face(tyre, TYRE, label)
        hub = [pose.at(axle + 0.55 * radius * c, radius * (1 + 0.55 * s), off) for c, s in CIRCLE]
        canvas.face(hub, HUB, None)

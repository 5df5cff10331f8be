"""A line chart as inline SVG, which can be read without colour and without scripts."""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from itertools import groupby, pairwise

from drn_cli.report.ticks import tick_label, ticks
from drn_cli.report.words import short

# In units of the drawing, which is as wide as the page lets it: on a phone about 0.8 pixels.
WIDTH, HEIGHT = 420, 230
LEFT, TOP, BOTTOM = 52, 12, 34
RIGHT, RIGHT_OF_NAMES = 14, 122
APART = 15  # of the names of two lines

MOST_POINTS = 300
MARKED = 40  # a line of so many points shows each of them
HIGH = 10  # a peak is cut off when it is so many times as high as nearly all other values


@dataclass(frozen=True, slots=True)
class Line:
    """A curve; a value is None where nothing was measured."""

    name: str
    values: Sequence[float | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Chart:
    """Up to three curves over the epochs.

    Attributes:
        title: What is measured, and its unit.
        epochs: Where the values were measured, growing.
        last_epoch: Where the axis ends.
        lines: At least one value among them.
        unit: What follows a number, such as ` %`.
        note: What else is to be said, below.
    """

    title: str
    epochs: Sequence[float]
    last_epoch: float
    lines: tuple[Line, ...]
    unit: str = ""
    note: str = ""


@dataclass(frozen=True, slots=True)
class _Mean:
    """One or several values of a curve that share a place in the drawing."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class _Point:
    epoch: float
    values: tuple[_Mean | None, ...]


@dataclass(frozen=True, slots=True)
class _Scale:
    """Where epochs and values are in the drawing."""

    last_epoch: float
    low: float
    high: float
    right: float

    def x(self, epoch: float) -> float:
        return LEFT + (WIDTH - LEFT - self.right) * epoch / self.last_epoch

    def y(self, value: float) -> float:
        inside = min(max(value, self.low), self.high)
        return TOP + (HEIGHT - TOP - BOTTOM) * (self.high - inside) / (self.high - self.low)


def draw(chart: Chart) -> str:
    """Draw a chart as an HTML figure.

    Its `data-points` hold, for a script, each point's x, its readout and the y of each line.
    """
    points = _thinned(chart)
    values = [mean.high for point in points for mean in point.values if mean]
    low = min(0.0, *(mean.low for point in points for mean in point.values if mean))
    top = _without_peaks(values)
    steps = ticks(low, top if top > low else low + 1, 5)
    named = len(chart.lines) > 1
    right = RIGHT_OF_NAMES if named else RIGHT
    scale = _Scale(max(chart.last_epoch, chart.epochs[-1]) or 1, steps[0], steps[-1], right)
    note = chart.note
    if max(values) > scale.high:
        note = f"{note} Peaks up to {short(max(values))}{chart.unit} are cut off.".strip()
    said = [_said(chart, point) for point in points]
    readouts = [
        [round(scale.x(point.epoch), 1), text, [_height(scale, mean) for mean in point.values]]
        for point, text in zip(points, said, strict=True)
    ]
    drawn = [
        _axes(scale, steps),
        *(_curve(points, number, scale) for number in range(len(chart.lines))),
        _names(chart, points, scale) if named else "",
    ]
    return (
        f'<figure class="chart" data-points="{escape(json.dumps(readouts))}">'
        f"<h3>{escape(chart.title)}</h3>"
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
        f'aria-label="{escape(_in_words(chart))}">{"".join(drawn)}</svg>'
        f'<output class="readout">{escape(said[-1])}</output>'
        + (f'<p class="note">{escape(note)}</p>' if note else "")
        + "</figure>"
    )


def _thinned(chart: Chart) -> list[_Point]:
    """Bring a long run down to what a drawing can show: means, with lowest and highest value."""
    size = max(1, math.ceil(len(chart.epochs) / MOST_POINTS))
    points = []
    for start in range(0, len(chart.epochs), size):
        part = slice(start, start + size)
        values = tuple(_mean(line.values[part]) for line in chart.lines)
        points.append(_Point(chart.epochs[part][-1], values))
    return points


def _mean(values: Sequence[float | None]) -> _Mean | None:
    measured = [value for value in values if value is not None]
    if not measured:
        return None
    return _Mean(sum(measured) / len(measured), min(measured), max(measured))


def _without_peaks(values: Sequence[float]) -> float:
    """Give the height of the chart: a single peak must not press the rest flat."""
    ordered = sorted(values)
    usual = ordered[int(0.95 * (len(ordered) - 1))]
    return 1.5 * usual if 0 < HIGH * usual < ordered[-1] else ordered[-1]


def _axes(scale: _Scale, steps: Sequence[float]) -> str:
    parts, right = [], WIDTH - scale.right
    for value in steps:
        y = scale.y(value)
        parts.append(f'<path class="grid" d="M{LEFT} {y:.1f}H{right}"/>')
        parts.append(
            f'<text class="tick" x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">'
            f"{tick_label(value, steps[1] - steps[0])}</text>"
        )
    epochs = ticks(0, scale.last_epoch, 5)
    bottom = HEIGHT - BOTTOM
    for epoch in epochs:
        if epoch <= scale.last_epoch * 1.001:
            x = scale.x(epoch)
            parts.append(f'<path class="axis" d="M{x:.1f} {bottom}v4"/>')
            parts.append(
                f'<text class="tick" x="{x:.1f}" y="{bottom + 16}" text-anchor="middle">'
                f"{tick_label(epoch, epochs[1] - epochs[0])}</text>"
            )
    parts.append(f'<path class="axis" d="M{LEFT} {bottom}H{right}"/>')
    parts.append(
        f'<text class="tick" x="{(LEFT + right) / 2:.1f}" y="{HEIGHT - 3}" text-anchor="middle">'
        "epoch</text>"
    )
    return "".join(parts)


def _curve(points: Sequence[_Point], number: int, scale: _Scale) -> str:
    """Draw a line, with the range of what its means stand for; it breaks where nothing is known."""
    parts = []
    for measured, group in groupby(points, key=lambda point: point.values[number] is not None):
        if not measured:
            continue
        run = [(scale.x(point.epoch), mean) for point in group if (mean := point.values[number])]
        if any(mean.low < mean.high for _, mean in run):
            around = [(x, mean.high) for x, mean in run] + [(x, mean.low) for x, mean in run[::-1]]
            parts.append(f'<path class="range line{number}" d="{_path(around, scale)}Z"/>')
        mean_path = _path([(x, mean.mean) for x, mean in run], scale)
        parts.append(f'<path class="line line{number}" d="{mean_path}"/>')
        if len(points) <= MARKED or len(run) == 1:
            parts += [_mark(number, x, scale.y(mean.mean)) for x, mean in run]
    return "".join(parts)


def _path(places: Sequence[tuple[float, float]], scale: _Scale) -> str:
    return "M" + "L".join(f"{x:.1f} {scale.y(value):.1f}" for x, value in places)


def _mark(number: int, x: float, y: float) -> str:
    """Mark a point: a disc, a square or a triangle, as the line is the first, second or third."""
    outline = ("m-3 0a3 3 0 1 0 6 0a3 3 0 1 0-6 0z", "m-3-3h6v6h-6z", "m0-4l4 7h-8z")[number]
    return f'<path class="mark line{number}" d="M{x:.1f} {y:.1f}{outline}"/>'


def _names(chart: Chart, points: Sequence[_Point], scale: _Scale) -> str:
    """Write each line's name where it ends, and push apart those that would overlap."""
    ends = []
    for number, line in enumerate(chart.lines):
        known = [(point.epoch, mean) for point in points if (mean := point.values[number])]
        if known:
            epoch, mean = known[-1]
            ends.append((scale.y(mean.mean), scale.x(epoch), number, line.name))
    ends.sort()
    heights = [end[0] for end in ends]
    for one, other in pairwise(range(len(ends))):
        heights[other] = max(heights[other], heights[one] + APART)
    spill = max(0.0, heights[-1] - (HEIGHT - BOTTOM)) if heights else 0.0
    parts = []
    for height, (y, x, number, name) in zip(heights, ends, strict=True):
        at = height - spill
        parts.append(f'<path class="leader" d="M{x + 5:.1f} {y:.1f}L{x + 10:.1f} {at:.1f}"/>')
        parts.append(_mark(number, x + 15, at))
        parts.append(f'<text class="name" x="{x + 22:.1f}" y="{at + 4:.1f}">{escape(name)}</text>')
    return "".join(parts)


def _height(scale: _Scale, mean: _Mean | None) -> float | None:
    return round(scale.y(mean.mean), 1) if mean else None


def _said(chart: Chart, point: _Point) -> str:
    parts = []
    for line, mean in zip(chart.lines, point.values, strict=True):
        if mean is None:
            parts.append(f"{line.name} not known")
            continue
        spread = f" ({short(mean.low)} to {short(mean.high)})" if mean.low < mean.high else ""
        parts.append(f"{line.name} {short(mean.mean)}{chart.unit}{spread}")
    return f"epoch {short(point.epoch)}: {', '.join(parts)}"


def _in_words(chart: Chart) -> str:
    """Say what the drawing shows, for those who do not see it."""
    parts = []
    for line in chart.lines:
        known = [value for value in line.values if value is not None]
        if known:
            first, last, low, high = map(short, (known[0], known[-1], min(known), max(known)))
            parts.append(
                f"{line.name} from {first}{chart.unit} to {last}{chart.unit}, "
                f"between {low} and {high}"
            )
    return f"{chart.title}, over {short(chart.epochs[-1])} epochs: {'; '.join(parts)}."

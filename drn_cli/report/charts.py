"""Curves and per-class figures by matplotlib: inline SVG for pages, PDF and SVG for papers."""

import io
import json
import logging
import math
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib as mpl
import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from drn_cli.files import atomic
from drn_cli.formatting import four_digits
from drn_cli.report.run_history import RunSummary, number

POINTS = 300  # of a curve; longer ones are drawn as means
PEAK = 10  # a curve is cut off above the rest if it reaches this multiple of its 95th percentile
PAGE, COLUMN = (420, 236), (234, 150)  # sizes in points; a column of a paper is 3.25 inches wide
MANY_CLASSES = 40  # of more, a figure shows no numbers and no names
# The page replaces each of these colors by the variable of its style sheet that has its name, so
# that a drawing fits the light and the dark theme. The lines are those of Okabe and Ito, darkened
# where they had too little contrast with white.
INK = {"ink": "#1b1f26", "soft": "#535b68", "rule": "#d4d8df"}
LINES = ("#0072b2", "#b84a00", "#00704f", "#a3487f", "#8a6100", "#3f6fd1", "#6b6b6b", "#b0203a")
DASHES = ("-", (0, (5, 2)), (0, (1.5, 1.5)))
STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "drn",
    "pdf.fonttype": 42,
    "text.parse_math": False,  # names of runs and classes are not formulas
    "axes.edgecolor": INK["soft"],
    "axes.labelcolor": INK["ink"],
    "xtick.color": INK["soft"],
    "ytick.color": INK["soft"],
    "grid.color": INK["rule"],
    "text.color": INK["ink"],
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
}

# Name of a chart, title, unit in text, factor; and the curves: name, kind of line, its key.
SCORES = {
    "segmentation": (("mIoU", "val", "miou"), ("pixel accuracy", "val", "pixel_accuracy")),
    "classification": (("top-1", "val", "top1"), ("top-5", "val", "top5")),
}
MEASURED = (
    ("loss", "Loss", "", 1, (("training", "train", "loss"), ("validation", "val", "loss"))),
    ("score", "Validation scores, %", " %", 100, ()),  # those of the task
    ("learning_rate", "Learning rate", "", 1, (("learning rate", "train", "lr"),)),
    ("throughput", "Images per second", "", 1, (("images", "train", "images_per_second"),)),
    ("gradient_norm", "Gradient norm", "", 1, (("norm", "train", "grad_norm"),)),
    ("waiting", "Time waiting for data, %", " %", 100, (("waiting", "train", "waiting"),)),
)


class Curve(NamedTuple):
    """A measured quantity of one run over its epochs; `color` and `dash` are positions."""

    name: str
    epochs: Sequence[float]
    values: Sequence[float]
    color: int
    dash: int


class Chart(NamedTuple):
    """One pair of axes; `name` is that of its file, none of the curves is empty."""

    name: str
    title: str
    unit: str
    curves: Sequence[Curve]


def charts(runs: Mapping[str, RunSummary]) -> list[Chart]:
    """Collect all that was measured at least once, by the names of the runs, which share a task.

    The curves of one run differ in color and dash; of several runs, each run has a color.
    """
    made = []
    for name, title, unit, factor, series in MEASURED:
        curves = []
        for position, (run_name, run) in enumerate(runs.items()):
            wanted = series or SCORES[run.task]
            for dash, (label, kind, key) in enumerate(wanted):
                points = [
                    (epoch, factor * value)
                    for record in (run.history.train if kind == "train" else run.history.val)
                    if (epoch := number(record, "epoch")) is not None
                    and (value := number(record, key)) is not None
                ]
                if not points:
                    continue
                # A long curve is replaced by means over equal numbers of points.
                size = math.ceil(len(points) / POINTS)
                parts = [points[start : start + size] for start in range(0, len(points), size)]
                epochs = [part[-1][0] for part in parts]
                means = [sum(value for _, value in part) / len(part) for part in parts]
                if len(runs) == 1:
                    curves.append(Curve(label, epochs, means, dash, dash))
                else:
                    of_run = f"{run_name}, {label}" if len(wanted) > 1 else run_name
                    curves.append(Curve(of_run, epochs, means, position % len(LINES), dash))
        if curves:
            made.append(Chart(name, title, unit, curves))
    return made


def page_charts(runs: Mapping[str, RunSummary]) -> list[dict[str, Any]]:
    """Draw the curves for a page: each an SVG, and in `points` what its script shows, as JSON.

    For each curve these are its name, color and points: x and y in the drawing, and in text.
    """
    made = []
    for chart in charts(runs):
        with _figure(PAGE, 11) as (figure, axes):
            peak = _draw(chart, axes)
            svg = _inline(figure, chart)
            points = []
            for curve in chart.curves:
                measured = list(zip(curve.epochs, curve.values, strict=True))
                places = axes.transData.transform(measured).round(1)
                texts = [(four_digits(epoch), four_digits(value)) for epoch, value in measured]
                rows = [
                    (x, round(PAGE[1] - y, 1), *text)
                    for (x, y), text in zip(places.tolist(), texts, strict=True)
                ]
                points.append((curve.name, curve.color, rows))
        note = f"Peaks up to {four_digits(peak)}{chart.unit} are cut off." if peak else ""
        made.append(chart._asdict() | {"svg": svg, "points": json.dumps(points), "note": note})
    return made


def write_figures(
    folder: Path, runs: Mapping[str, RunSummary], scores: Mapping[str, Mapping[str, Any]]
) -> list[Path]:
    """Write each figure as PDF and SVG with vector text, as wide as a column of a paper.

    Args:
        folder: Where to write.
        runs: By the names that legends show.
        scores: Of the best validation of each run that has one; only of segmentation by class.

    Raises:
        DrnError: A file cannot be written.
    """
    written = []
    for chart in charts(runs):
        with _figure(COLUMN, 8) as (figure, axes):
            _draw(chart, axes)
            axes.set_ylabel(chart.title)
            if len(chart.curves) > 1:
                axes.legend(frameon=False, fontsize=7)
            written += _save(figure, folder / chart.name)
    by_class = {name: found["iou"] for name, found in scores.items() if found.get("iou")}
    if by_class:
        classes = list(dict.fromkeys(kind for iou in by_class.values() for kind in iou))
        height = 54 + 8 * min(len(classes), 60) * (1 + 0.4 * (len(by_class) - 1))
        with _figure((COLUMN[0], height), 7) as (figure, axes):
            _draw_bars(axes, by_class, classes)
            written += _save(figure, folder / "class_iou")
    for name, found in scores.items():
        matrix = np.asarray(found.get("confusion_matrix", []))
        if matrix.ndim == 2 and len(matrix) == len(found.get("iou", ())):
            with _figure((COLUMN[0], COLUMN[0]), 6) as (figure, axes):
                shares = matrix / np.maximum(1, matrix.sum(1, keepdims=True))
                _draw_confusion(axes, shares, list(found["iou"]))
                end = "" if len(runs) == 1 else f"_{re.sub(r'[^A-Za-z0-9.-]+', '_', name)}"
                written += _save(figure, folder / f"confusion{end}")
    return written


@contextmanager
def _figure(size: tuple[float, float], font: float) -> Iterator[tuple[Figure, Axes]]:
    """Make a figure in our own style, whatever a user's matplotlibrc says."""
    logging.getLogger("matplotlib").setLevel(logging.ERROR)  # it reports its font cache
    with mpl.rc_context(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of glyphs that its font lacks: the reader's may have them
        mpl.rcdefaults()
        mpl.rcParams.update({**STYLE, "font.size": font, "lines.linewidth": font / 6})
        figure = Figure((size[0] / 72, size[1] / 72), dpi=72, layout="constrained")
        yield figure, figure.add_subplot()


def _draw(chart: Chart, axes: Axes) -> float | None:
    """Draw the curves; return the highest value if the axis is cut off below it."""
    for curve in chart.curves:
        axes.plot(
            curve.epochs,
            curve.values,
            label=curve.name,
            color=LINES[curve.color],
            linestyle=DASHES[curve.dash],
            marker="o" if len(curve.values) <= 40 else None,
            markersize=3,
        )
    every = [value for curve in chart.curves for value in curve.values]
    top, usual = max(every), float(np.percentile(every, 95))
    peak = top if 0 < PEAK * usual < top else None
    last = max(epoch for curve in chart.curves for epoch in curve.epochs)
    axes.set_xlim(0, last * 1.02 or 1)
    axes.set_ylim(min(0.0, *every), 1.05 * (1.5 * usual if peak else top) or 1)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(lambda value, _: four_digits(value))
    axes.locator_params(axis="y", nbins=5)
    axes.grid(axis="y")
    axes.set_xlabel("epoch")
    return peak


def _draw_bars(
    axes: Axes, by_class: Mapping[str, Mapping[str, Any]], classes: Sequence[str]
) -> None:
    """Draw the IoU of each class as a bar for each run, the first class on top."""
    thick = 0.8 / len(by_class)
    places = np.arange(len(classes))
    for position, (name, iou) in enumerate(by_class.items()):
        lengths = [100 * (number(dict(iou), kind) or 0.0) for kind in classes]
        color = LINES[position % len(LINES)]
        axes.barh(places + position * thick, lengths, thick, color=color, label=name)
    axes.set_yticks(places + 0.4 - thick / 2, classes)
    axes.invert_yaxis()
    axes.set_xlim(0, 100)
    axes.set_xlabel("IoU, %")
    axes.grid(axis="x")
    if len(by_class) > 1:
        axes.legend(frameon=False, loc="lower left", bbox_to_anchor=(0, 1.0))


def _draw_confusion(axes: Axes, shares: Any, names: Sequence[str]) -> None:
    """Draw a confusion matrix whose rows, the labels, add up to 1."""
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    if len(names) > MANY_CLASSES:
        names = []
    axes.set_xticks(range(len(names)), names, rotation=90)
    axes.set_yticks(range(len(names)), names)
    axes.set_xlabel("Prediction")
    axes.set_ylabel("Label")
    if len(shares) <= MANY_CLASSES // 2:
        for row, column in zip(*np.nonzero(shares >= 0.005), strict=True):
            color = "white" if shares[row, column] > 0.6 else INK["ink"]
            text = f"{100 * shares[row, column]:.0f}"
            axes.text(column, row, text, color=color, ha="center", va="center", fontsize=5)


def _save(figure: Figure, path: Path) -> list[Path]:
    written = []
    for kind, dated in (("pdf", "CreationDate"), ("svg", "Date")):
        file = path.with_name(f"{path.name}.{kind}")
        with atomic(file) as temporary:
            figure.savefig(temporary, format=kind, metadata={dated: None})
        written.append(file)
    return written


def _inline(figure: Figure, chart: Chart) -> Markup:
    """Return a figure as an SVG element without ids, fonts or colors of its own."""
    file = io.StringIO()
    none = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    figure.savefig(file, format="svg", transparent=True, metadata=none)
    text = file.getvalue()
    text = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>|<!--.*?-->", "", text, flags=re.S)
    text = re.sub(r'(id="|href="#|url\(#)', rf"\g<1>{chart.name}-", text).replace("xlink:", "")
    for name, color in (*INK.items(), *((f"line{n}", color) for n, color in enumerate(LINES))):
        text = text.replace(color, f"var(--{name})")
    words = []  # for readers who cannot see the curves
    for curve in chart.curves:
        ends = curve.values[0], curve.values[-1], min(curve.values), max(curve.values)
        first, last, low, high = map(four_digits, ends)
        words.append(f"{curve.name} from {first} to {last}, between {low} and {high}")
    alt = Markup.escape(f"{chart.title}: {'; '.join(words)}")
    head = f'<svg viewBox="0 0 {PAGE[0]} {PAGE[1]}" role="img" aria-label="{alt}">'
    return Markup(head + text[text.index(">", text.index("<svg")) + 1 :])

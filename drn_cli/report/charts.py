"""Curves and per-class figures by matplotlib: inline SVG for pages, PDF and SVG for papers."""

import io
import logging
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from markupsafe import Markup
from matplotlib import style
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from drn_cli.files import atomic
from drn_cli.formatting import four_digits
from drn_cli.report.run_history import Record, RunSummary, number
from drn_cli.report.sections import ClassScores, class_scores, confusion_matrix

POINTS = 300  # per curve; longer curves are averaged
PEAK = 10  # values above this multiple of the 95th percentile are cut off
PAGE, COLUMN = (420, 236), (234, 150)  # sizes in points; a column of a paper is 3.25 inches wide
MANY_CLASSES = 40  # above which a confusion matrix has no names, and half of it no numbers
# Those of Okabe and Ito, darkened for contrast with white. In the SVG of a page each is a CSS
# variable, `--line0` and so on, so that a chart fits the light and the dark theme.
LINES = ("#0072b2", "#b84a00", "#00704f", "#a3487f", "#8a6100", "#3f6fd1", "#6b6b6b", "#b0203a")
DASHES = ("-", (0, (5, 2)))
STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "drn",
    "pdf.fonttype": 42,
    "text.parse_math": False,  # names of runs and classes are not formulas
    "axes.axisbelow": True,
    "lines.markersize": 3,
    **dict.fromkeys(("axes.spines.top", "axes.spines.right", "legend.frameon"), False),
}

# Name, title, unit and factor of each chart, then its curves: name, kind of record, key.
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
    """A measured quantity of one run; `points` are rows of epoch and value `(N, 2)`, N >= 1."""

    name: str
    points: npt.NDArray[np.float64]
    color: int
    dash: int


class Chart(NamedTuple):
    """One pair of axes; `name` is the file name of the figure."""

    name: str
    title: str
    unit: str
    curves: Sequence[Curve]


def charts(runs: Mapping[str, RunSummary]) -> list[Chart]:
    """Collect all measured curves of runs of one task, by the names of the runs.

    The curves of a single run differ in color and dash; of several runs, each run has a color.
    """
    made = []
    for name, title, unit, factor, series in MEASURED:
        curves = []
        for position, (run_name, run) in enumerate(runs.items()):
            wanted = series or SCORES[run.task]
            for dash, (label, kind, key) in enumerate(wanted):
                records = run.train if kind == "train" else run.val
                pairs = [(number(record, "epoch"), number(record, key)) for record in records]
                measured = np.array([pair for pair in pairs if None not in pair], np.float64)
                if not len(measured):
                    continue
                parts = np.array_split(measured * (1, factor), min(POINTS, len(measured)))
                points = np.array([(part[-1, 0], part[:, 1].mean()) for part in parts])
                if len(runs) == 1:
                    curves.append(Curve(label, points, dash, dash))
                else:
                    of_run = f"{run_name}, {label}" if len(wanted) > 1 else run_name
                    curves.append(Curve(of_run, points, position % len(LINES), dash))
        if curves:
            made.append(Chart(name, title, unit, curves))
    return made


def page_charts(runs: Mapping[str, RunSummary]) -> list[Record]:
    """Draw the charts of a page: content of an SVG element of size PAGE, and tooltips.

    The tooltips of a curve are its name, color and points: x and y in the drawing, epoch and value
    as text.
    """
    made = []
    for chart in charts(runs):
        with _figure(PAGE, 11) as (figure, axes):
            _draw(chart, axes)
            svg = _inline(figure, chart.name)
            tooltips = []
            for curve in chart.curves:
                places = axes.transData.transform(curve.points) * (1, -1) + (0, PAGE[1])
                rows = zip(places.round(1).tolist(), curve.points.tolist(), strict=True)
                points = [(*place, *map(four_digits, texts)) for place, texts in rows]
                tooltips.append((curve.name, curve.color, points))
        made.append(chart._asdict() | {"svg": svg, "size": PAGE, "tooltips": tooltips})
    return made


def write_figures(
    folder: Path, runs: Mapping[str, RunSummary], scores: Mapping[str, Record]
) -> list[Path]:
    """Write each figure as PDF and SVG with vector text, as wide as a column of a paper.

    `scores`, those of the best validation of each run, become bars and a confusion matrix.

    Raises:
        DrnError: A file cannot be written.
    """
    written: list[Path] = []

    @contextmanager
    def saved(name: str, height: float, font: float) -> Iterator[Axes]:
        with _figure((COLUMN[0], height), font) as (figure, axes):
            yield axes
            # Without a date, equal figures are equal files.
            for kind, date in (("pdf", "CreationDate"), ("svg", "Date")):
                written.append(folder / f"{name}.{kind}")
                with atomic(written[-1]) as temporary:
                    figure.savefig(temporary, format=kind, metadata={date: None})

    for chart in charts(runs):
        with saved(chart.name, COLUMN[1], 8) as axes:
            _draw(chart, axes)
            axes.set_ylabel(chart.title)
            if len(chart.curves) > 1:
                axes.legend(fontsize=7)
    by_class = {name: iou for name, found in scores.items() if (iou := class_scores(found))}
    if by_class:
        classes = list(dict.fromkeys(kind for iou in by_class.values() for kind in iou))
        height = 54 + 8 * min(len(classes), 60) * (1 + 0.4 * (len(by_class) - 1))
        with saved("class_iou", height, 7) as axes:
            _draw_bars(axes, by_class, classes)
    for name, iou in by_class.items():
        if (matrix := confusion_matrix(scores[name])) is not None:
            end = "" if len(runs) == 1 else f"_{re.sub(r'[^A-Za-z0-9.-]+', '_', name)}"
            with saved(f"confusion{end}", COLUMN[0], 6) as axes:
                shares = matrix[:, :-1] / np.maximum(1, matrix.sum(1, keepdims=True))
                _draw_confusion(axes, shares, list(iou))
    return written


@contextmanager
def _figure(size: tuple[float, float], font: float) -> Iterator[tuple[Figure, Axes]]:
    """Make a figure in the style of the report, independent of the user's matplotlibrc."""
    logging.getLogger("matplotlib").setLevel(logging.ERROR)  # it reports its font cache
    fonts = {"font.size": font, "lines.linewidth": font / 6}
    with style.context({**STYLE, **fonts}, after_reset=True), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of glyphs that its font lacks: the reader's may have them
        figure = Figure((size[0] / 72, size[1] / 72), dpi=72, layout="constrained")
        yield figure, figure.add_subplot()


def _draw(chart: Chart, axes: Axes) -> None:
    for curve in chart.curves:
        line, marker = DASHES[curve.dash], "o" if len(curve.points) <= 40 else None
        color = LINES[curve.color]
        axes.plot(*curve.points.T, label=curve.name, color=color, linestyle=line, marker=marker)
    epochs, measured = np.concatenate([curve.points for curve in chart.curves]).T
    top, usual = measured.max(), np.percentile(measured, 95)
    highest = 1.5 * usual if 0 < PEAK * usual < top else top
    bottom = min(0.0, *measured)
    axes.set(xlabel="epoch", xlim=(0, 1.02 * epochs.max() or 1), ylim=(bottom, 1.05 * highest or 1))
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(lambda value, _: four_digits(value))
    axes.locator_params(axis="y", nbins=5)
    axes.grid(axis="y")


def _draw_bars(axes: Axes, by_class: Mapping[str, ClassScores], classes: Sequence[str]) -> None:
    """Draw the IoU of each class as a bar for each run, the first class on top."""
    thick = 0.8 / len(by_class)
    places = np.arange(len(classes))
    for position, (name, iou) in enumerate(by_class.items()):
        lengths = [100 * (iou.get(kind) or 0.0) for kind in classes]
        color = LINES[position % len(LINES)]
        axes.barh(places + position * thick, lengths, thick, color=color, label=name)
    axes.set_yticks(places + 0.4 - thick / 2, classes)
    axes.invert_yaxis()
    axes.set(xlabel="IoU, %", xlim=(0, 100))
    axes.grid(axis="x")
    if len(by_class) > 1:
        axes.legend(loc="lower left", bbox_to_anchor=(0, 1.0))


def _draw_confusion(axes: Axes, shares: Any, names: Sequence[str]) -> None:
    """Draw a confusion matrix as shares of the labels, `(classes, classes)`."""
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    if len(names) > MANY_CLASSES:
        names = []
    axes.set_xticks(range(len(names)), names, rotation=90)
    axes.set_yticks(range(len(names)), names)
    axes.set(xlabel="Prediction", ylabel="Label")
    if len(shares) <= MANY_CLASSES // 2:
        for row, column in zip(*np.nonzero(shares >= 0.005), strict=True):
            color = "white" if shares[row, column] > 0.6 else "black"
            text = f"{100 * shares[row, column]:.0f}"
            axes.text(column, row, text, color=color, ha="center", va="center", fontsize=5)


def _inline(figure: Figure, name: str) -> Markup:
    """Return the content of a figure's SVG element, with unique ids, and font and colors by CSS."""
    file = io.StringIO()
    figure.savefig(file, format="svg", transparent=True)
    text = file.getvalue()
    text = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>|<!--.*?-->", "", text, flags=re.S)
    text = re.sub(r'(id="|href="#|url\(#)', rf"\g<1>{name}-", text).replace("xlink:", "")
    lines = ((color, f"line{n}") for n, color in enumerate(LINES))
    for color, variable in (("#000000", "ink"), ("#b0b0b0", "rule"), *lines):
        text = text.replace(color, f"var(--{variable})")
    return Markup(text[text.index(">", text.index("<svg")) + 1 : text.rindex("</svg>")])

"""How well each class is told apart: bars of IoU, and the confusion matrix as a heat map."""

from collections.abc import Mapping, Sequence
from html import escape

import numpy as np
import numpy.typing as npt

from drn_cli.report.history import Record, number
from drn_cli.report.words import percent

Matrix = npt.NDArray[np.int64]  # rows are labels, columns predictions, pixels
Pixels = npt.NDArray[np.int64]  # of each class
Colours = Mapping[str, tuple[int, int, int]]  # of classes, where they are known

MOST_BARS = 60  # more classes are shown by their best and their worst
ENDS = 30
MOST_ROWS = 40  # of the heat map; of more classes, those that score lowest are shown
WITH_NUMBERS = 20  # up to so many classes there is room for numbers in the cells
MISTAKES = 10
DEEP = 0.64  # share where white and black letters stand out alike, in page.css: 4.5 to 1


def class_scores(scores: Record, colours: Colours, when: str | None = None) -> str:
    """Show a segmentation's scores by class; nothing for scores that have no IoU of classes.

    Args:
        scores: As JSON has them.
        colours: Of the classes.
        when: What was scored, in words; by default the best validation of a run.
    """
    iou = scores.get("iou")
    if not isinstance(iou, dict) or not iou:
        return ""
    by_class = {name: number(iou, name) for name in iou}
    matrix = confusion_matrix(scores, len(by_class))
    labelled = None if matrix is None else labelled_pixels(scores, matrix)
    confusion = _no_matrix()
    if matrix is not None and labelled is not None:
        confusion = _confusion(by_class, matrix, labelled)
    return (
        '<section id="classes"><h2>Classes</h2>'
        f"<p>Intersection over union {when or f'in the best validation, {_when(scores)}'}.</p>"
        f"{_bars(by_class, labelled, colours)}{_categories(scores)}</section>"
        f'<section id="confusion"><h2>Confusion</h2>{confusion}</section>'
    )


def confusion_matrix(scores: Record, classes: int) -> Matrix | None:
    """Give the confusion matrix, if there is one and it is of so many classes."""
    try:
        matrix = np.asarray(scores.get("confusion_matrix"), np.int64)
    except (TypeError, ValueError, OverflowError):
        return None
    return matrix if matrix.shape == (classes, classes) else None


def labelled_pixels(scores: Record, matrix: Matrix) -> Pixels:
    """Count the pixels of each label, those that were predicted as void too."""
    pixels: Pixels = matrix.sum(axis=1)
    try:
        void = np.asarray(scores.get("predicted_void", 0), np.int64)
    except (TypeError, ValueError, OverflowError):
        return pixels
    return np.add(pixels, void) if void.shape in ((), pixels.shape) else pixels


def swatch(colour: tuple[int, int, int]) -> str:
    """Show a class's colour."""
    return f'<span class="swatch" style="background:rgb{tuple(map(int, colour))}"></span>'


def _when(scores: Record) -> str:
    said = [f"{key} {scores[key]:g}" for key in ("epoch", "step") if number(scores, key)]
    images = number(scores, "images")
    return ", ".join(said + ([f"{images:g} pictures"] if images else []))


def _no_matrix() -> str:
    return "<p>This run kept no confusion matrix. <code>drn eval RUN --json</code> computes it.</p>"


def _bars(iou: Mapping[str, float | None], labelled: Pixels | None, colours: Colours) -> str:
    shares = None if labelled is None else labelled / max(1, labelled.sum())
    rows = {
        name: _bar(name, value, None if shares is None else float(shares[place]), colours)
        for place, (name, value) in enumerate(iou.items())
    }
    if len(rows) <= MOST_BARS:
        return _bar_table("IoU of each class", list(rows.values()), labelled is not None)
    known = {name: value for name, value in iou.items() if value is not None}
    ordered = sorted(known, key=lambda name: -known[name])
    parts = (("best", ordered[:ENDS]), ("worst", ordered[-ENDS:]))
    return "".join(
        _bar_table(
            f"The {len(names)} {kind} of {len(iou)} classes",
            [rows[name] for name in names],
            labelled is not None,
        )
        for kind, names in parts
    )


def _categories(scores: Record) -> str:
    """Show the IoU of categories, of scores that have them."""
    iou = scores.get("category_iou")
    if not isinstance(iou, dict) or not iou:
        return ""
    rows = [_bar(name, number(iou, name), None, {}) for name in iou]
    return _bar_table("IoU of each category", rows, False)


def _bar_table(caption: str, rows: Sequence[str], shares: bool) -> str:
    share = '<th scope="col" class="number share">of labels</th>' if shares else ""
    return (
        f'<table class="bars"><caption>{escape(caption)}</caption><thead><tr>'
        f'<th scope="col">class</th><td></td><th scope="col" class="number">IoU</th>{share}'
        f"</tr></thead><tbody>{''.join(rows)}</tbody></table>"
    )


def _bar(name: str, value: float | None, share: float | None, colours: Colours) -> str:
    mark = swatch(colours[name]) if name in colours else ""
    length = 0 if value is None else 100 * value
    said = "absent" if value is None else percent(value)
    labelled = "" if share is None else f'<td class="number share">{percent(share)}</td>'
    return (
        f'<tr><th scope="row">{mark}{escape(name)}</th>'
        f'<td class="bar"><div><span style="width:{length:.1f}%"></span></div></td>'
        f'<td class="number">{said}</td>{labelled}</tr>'
    )


def _confusion(iou: Mapping[str, float | None], matrix: Matrix, labelled: Pixels) -> str:
    names = list(iou)
    shown = list(range(len(names)))
    selection = ""
    if len(names) > MOST_ROWS:
        present = [place for place in shown if iou[names[place]] is not None]
        worst = sorted(present, key=lambda place: iou[names[place]] or 0.0)[:MOST_ROWS]
        shown = sorted(worst)
        selection = f" Of {len(names)} classes, the {len(shown)} with the lowest IoU are shown."
    return (
        "<p>Each row is what the pixels of one label were taken for, in per cent of them."
        f"{selection}</p>{_heat_map(names, matrix, labelled, shown)}"
        f"{_mistakes(names, matrix, labelled)}"
    )


def _heat_map(names: Sequence[str], matrix: Matrix, labelled: Pixels, shown: Sequence[int]) -> str:
    shares = matrix / np.maximum(1, labelled)[:, None]
    numbers = len(shown) <= WITH_NUMBERS
    head = "".join(f'<th scope="col"><span>{escape(names[column])}</span></th>' for column in shown)
    rows = []
    for row in shown:
        cells = []
        for column in shown:
            share = float(shares[row, column])
            title = (
                f"{names[row]} taken for {names[column]}: {percent(share, 2)}, "
                f"{matrix[row, column]:,} pixels"
            )
            kind = ("deep " if share >= DEEP else "") + ("right" if row == column else "")
            cells.append(
                f'<td class="{kind.strip()}" style="--share:{share:.3f}" '
                f'title="{escape(title)}">{_in_a_cell(share) if numbers else ""}</td>'
            )
        rows.append(f'<tr><th scope="row">{escape(names[row])}</th>{"".join(cells)}</tr>')
    return (
        '<div class="scroll" tabindex="0" role="region" aria-label="Confusion matrix">'
        f'<table class="heat{"" if numbers else " small"}"><thead><tr>'
        f'<td class="corner">label ↓ prediction →</td>{head}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )


def _in_a_cell(share: float) -> str:
    """Write whole per cents; a dot for nearly none, which keeps the eye on the others."""
    return f"{100 * share:.0f}" if share >= 0.005 else "·"


def _mistakes(names: Sequence[str], matrix: Matrix, labelled: Pixels) -> str:
    """List the pairs of classes that cost most pixels."""
    wrong = matrix.copy()
    np.fill_diagonal(wrong, 0)
    order = np.argsort(wrong, axis=None, kind="stable")[::-1][:MISTAKES]
    pairs = [divmod(int(cell), len(names)) for cell in order]
    rows = [
        f'<tr><th scope="row">{escape(names[row])}</th><td>{escape(names[column])}</td>'
        f'<td class="number">{percent(float(wrong[row, column] / labelled[row]))}</td>'
        f'<td class="number">{wrong[row, column]:,}</td></tr>'
        for row, column in pairs
        if wrong[row, column]
    ]
    if not rows:
        return "<p>No pixel was taken for another class.</p>"
    return (
        '<div class="scroll" tabindex="0" role="region" aria-label="The most frequent mistakes">'
        '<table class="list"><caption>The most frequent mistakes</caption><thead><tr>'
        '<th scope="col">label</th><th scope="col">taken for</th>'
        '<th scope="col" class="number">of the label</th>'
        '<th scope="col" class="number">pixels</th></tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )

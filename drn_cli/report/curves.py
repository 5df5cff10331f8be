"""Which curves a run's page shows."""

from collections.abc import Sequence
from functools import partial

from drn_cli.report.chart import Chart, Line
from drn_cli.report.history import History, Record, number
from drn_cli.report.words import percent, short

VALIDATED = {
    "segmentation": (("mIoU", "miou"), ("pixel accuracy", "pixel_accuracy")),
    "classification": (("top-1", "top1"), ("top-5", "top5")),
}
PER_CENT = 100


def charts(history: History, task: str) -> list[Chart]:
    """Make a chart of everything that was measured at least once, all over the same epochs."""
    of = partial(_of, last_epoch=history.epoch)
    made = [
        of(history.train, "Loss", (("loss", "loss"),), note=_skipped(history)),
        of(
            history.val,
            "Validation, %",
            VALIDATED[task],
            PER_CENT,
            " %",
            _best(history, *VALIDATED[task][0]),
        ),
        of(history.train, "Learning rate", (("learning rate", "lr"),)),
        of(history.train, "Norm of the gradient", (("norm", "grad_norm"),)),
        of(history.train, "Pictures a second", (("pictures a second", "images_per_second"),)),
        of(
            history.train,
            "Share of time spent waiting for data, %",
            (("waiting", "waiting"),),
            PER_CENT,
            " %",
        ),
    ]
    return [chart for chart in made if chart is not None]


def _of(
    records: Sequence[Record],
    title: str,
    names: Sequence[tuple[str, str]],
    factor: float = 1,
    unit: str = "",
    note: str = "",
    *,
    last_epoch: float,
) -> Chart | None:
    """Gather what the records say under each of some names; None if it is nothing."""
    placed = [record for record in records if number(record, "epoch") is not None]
    lines = []
    for name, key in names:
        values = [number(record, key) for record in placed]
        if any(value is not None for value in values):
            lines.append(Line(name, [None if v is None else factor * v for v in values]))
    if not lines:
        return None
    epochs = [float(record["epoch"]) for record in placed]
    return Chart(
        title=title,
        epochs=epochs,
        last_epoch=last_epoch,
        lines=tuple(lines),
        unit=unit,
        note=note,
    )


def _skipped(history: History) -> str:
    counts = [number(record, "skipped") or 0 for record in history.train]
    skipped = int(max(counts, default=0))
    if not skipped:
        return ""
    steps = "step was" if skipped == 1 else "steps were"
    return f"{skipped} {steps} skipped: loss or gradient not finite."


def _best(history: History, name: str, key: str) -> str:
    best = history.best(key)
    if best is None:
        return ""
    epoch = short(number(best, "epoch") or 0)
    return f"Best {name} {percent(float(best[key]), 2)} at epoch {epoch}."

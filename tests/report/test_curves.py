from drn_cli.report.curves import charts
from drn_cli.report.history import History

from .folders import segmentation_val, train_line, val_line


def titles(history: History, task: str = "segmentation") -> list[str]:
    return [chart.title for chart in charts(history, task)]


def test_everything_that_was_measured_has_a_chart() -> None:
    history = History((train_line(1), train_line(2)), (segmentation_val(1, 0.5),))
    assert titles(history) == [
        "Loss",
        "Validation, %",
        "Learning rate",
        "Norm of the gradient",
        "Pictures a second",
        "Share of time spent waiting for data, %",
    ]


def test_what_an_older_version_did_not_measure_has_none() -> None:
    line = {k: v for k, v in train_line(1).items() if k not in ("waiting", "grad_norm")}
    assert titles(History((line,))) == ["Loss", "Learning rate", "Pictures a second"]
    assert titles(History()) == []


def test_losses_that_are_not_known_leave_gaps_or_no_chart() -> None:
    history = History((train_line(1, loss=None, skipped=1), train_line(2, loss=0.5, skipped=1)))
    loss = charts(history, "segmentation")[0]
    assert (loss.lines[0].values, loss.epochs) == ([None, 0.5], [0.1, 0.2])
    assert loss.note == "1 step was skipped: loss or gradient not finite."
    assert "Loss" not in titles(History((train_line(1, loss=None),)))


def test_scores_are_per_cents_with_the_best_named() -> None:
    history = History((), (segmentation_val(1, 0.5), segmentation_val(2, 0.25)))
    [scores] = charts(history, "segmentation")
    assert [line.name for line in scores.lines] == ["mIoU", "pixel accuracy"]
    assert scores.lines[0].values == [50, 25]
    assert scores.note == "Best mIoU 50.00 % at epoch 1."


def test_classification_shows_its_accuracies() -> None:
    history = History((train_line(1),), (val_line(1, top1=0.25, top5=0.5),))
    scores = charts(history, "classification")[1]
    assert [(line.name, line.values) for line in scores.lines] == [("top-1", [25]), ("top-5", [50])]


def test_all_charts_share_their_epochs() -> None:
    history = History((train_line(1), train_line(25)), (segmentation_val(2, 0.5),))
    assert {chart.last_epoch for chart in charts(history, "segmentation")} == {2.5}

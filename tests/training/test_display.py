"""Progress lines and the epoch table without a terminal."""

from dataclasses import replace
from pathlib import Path

import pytest
from training_runs import ALONE, prepare_in

from drn_cli.training.checkpoint import TrainProgress
from drn_cli.training.display import ProgressDisplay, Throughput
from drn_cli.training.tasks import ValidationResult

SCORES = {"loss": 1.25, "miou": 0.5, "pixel_accuracy": 0.75, "iou": {"road": 0.5, "sky": None}}


@pytest.fixture
def printed(thin_recipe_file: Path, capsys: pytest.CaptureFixture[str]):
    """Run epochs of 100 steps that last some seconds each; return the lines on stderr."""

    def run(seconds: float, epochs: int = 1, resumed: int = 0) -> list[str]:
        now, progress = 0.0, TrainProgress()
        training = prepare_in(ALONE, thin_recipe_file, ("train.epochs=40",))
        training = replace(training, order=replace(training.order, samples=400))
        progress.step_in_epoch = progress.steps = resumed
        with ProgressDisplay(training, progress, lambda: now) as display:
            for epoch in range(epochs):
                display.epoch(epoch)
                progress.epoch = epoch
                while progress.step_in_epoch < 100:
                    now += seconds
                    progress.step_in_epoch += 1
                    progress.steps += 1
                    display.step()
                    display.measured(Throughput(2.0, 4.0, 30, 1.0, 10.0, 3), 0.01)
                with display.validating(10) as count:
                    for _ in range(10):
                        now += 20
                        count()
                whole = Throughput(2.0, 4.0, 3000, 1.0, 10.0, 3)
                validation = ValidationResult(0.5, SCORES) if epoch != 1 else None
                display.epoch_done(epoch + 1, whole, 0.01, validation, best=epoch == 0)
                progress.step_in_epoch = 0
        return capsys.readouterr().err.splitlines()

    return run


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        (0.1, []),  # an epoch of 10 seconds
        (1, [60]),
        (6, [10, 20, 30, 40, 50, 60, 70, 80, 90]),  # once a minute
        (60, range(5, 100, 5)),  # every 5 %
        (300, range(2, 100, 2)),  # every ten minutes
    ],
)
def test_lines_within_an_epoch(printed, seconds, expected):
    lines = [line for line in printed(seconds) if line.startswith("epoch 1/40")]
    assert [int(line.split()[2].rstrip("%")) for line in lines] == list(expected)
    assert all(len(line) <= 80 for line in lines)


def test_a_line(printed):
    line = printed(6)[0]
    assert line == (
        "epoch 1/40   10%  loss 0.5  lr 0.01  3.0 images/s  waiting 10%  6 h 39 min left"
    )
    assert "validating   40%" in printed(6)


def test_the_table_has_one_header_and_fits_80_columns(printed):
    lines = printed(0.1, epochs=3)
    assert [line for line in lines if not line.startswith("validating")] == [
        "    epoch     loss val loss  mIoU % pixel %       lr images/s waiting",
        "     1/40      0.5     1.25   50.00   75.00     0.01    300.0     10%  best",
        "IoU %  road 50.0  sky -",
        "     2/40      0.5        -       -       -     0.01    300.0     10%",
        "     3/40      0.5     1.25   50.00   75.00     0.01    300.0     10%",
        "IoU %  road 50.0  sky -",
    ]


def test_a_resumed_run_counts_from_its_step(printed):
    lines = [line for line in printed(60, resumed=92) if line.startswith("epoch 1/40")]
    assert [line.split()[2] for line in lines] == ["97%"]

import sys

import numpy as np
import pytest
from training_runs import ALONE, go, prepare_in

from drn_cli.errors import DrnError
from drn_cli.runs import Run
from drn_cli.training.tensorboard import examples

event_accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")


@pytest.fixture(scope="module")
def watched(recipe_file, tmp_path_factory):
    """A run of one epoch with TensorBoard."""
    run = Run(tmp_path_factory.mktemp("watched") / "run")
    training = prepare_in(ALONE, recipe_file, ("train.epochs=1", "train.tensorboard=true"))
    go(training, run)
    return training, run


def test_tensorboard_reads_the_metrics(watched, read_metrics):
    run = watched[1]
    events = event_accumulator.EventAccumulator(str(run.folder / "tensorboard"))
    events.Reload()
    train, val = read_metrics(run.folder)[:2]
    for tag, value in (
        ("train/loss", train["loss"]),
        ("train/lr", train["lr"]),
        ("val/miou", val["miou"]),
        ("val iou/red", val["iou"]["red"]),
    ):
        [point] = events.Scalars(tag)
        assert (point.step, point.value) == (3, pytest.approx(value, rel=1e-6))
    assert events.Tags()["images"] == [f"validation/{number}" for number in range(4)]
    [image] = events.Images("validation/0")
    assert (image.width, image.height) == (3 * 64, 48)  # image, label and prediction


def test_an_example_contains_the_label(watched):
    training = watched[0]
    (shown,) = examples(training, training.data.val[:1])
    colours = {tuple(colour) for colour in shown[:, 64:128].reshape(-1, 3).tolist()}
    assert colours <= {*training.data.class_set.colours, (0, 0, 0)}
    assert len(colours) > 2
    assert shown.dtype == np.uint8


def test_fails_without_the_tensorboard_package(monkeypatch, prepare, tmp_path):
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    with pytest.raises(DrnError, match=r"not installed \(pip install 'drn-cli\[tensorboard\]'"):
        go(prepare("train.tensorboard=true"), Run(tmp_path / "run"))

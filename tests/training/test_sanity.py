"""Pre-flight checks before the first step."""

import shutil
from collections import namedtuple
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from training_runs import go

from drn_cli.errors import DrnError
from drn_cli.runs import Run
from drn_cli.training.sanity import checkpoint_size, preflight

KB = 10**3
Usage = namedtuple("Usage", ["total", "used", "free"])


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run(tmp_path / "run")


def assert_not_started(run: Run) -> None:
    assert [path.name for path in run.folder.iterdir()] == [".lock"]


def last_of(folder: Path, kind: str) -> Path:
    """Return the last image or label of the validation split, which is checked."""
    return folder / (folder / f"val_{kind}.txt").read_text().split()[-1]


def test_fails_before_the_first_step_on_a_broken_validation_image(prepare, own_data_folder, run):
    image = last_of(own_data_folder, "images")
    image.write_bytes(image.read_bytes()[:300])
    with pytest.raises(DrnError, match="broken image") as caught:
        go(prepare(f"data.root={own_data_folder}"), run)
    assert caught.value.message.startswith(f"{image}: ")
    assert_not_started(run)


@pytest.mark.parametrize(
    ("spoilt", "message"),
    [(np.zeros((20, 64), np.uint8), "64x20"), (np.full((48, 64), 7, np.uint8), "the label 7")],
    ids=["size", "value"],
)
def test_fails_before_the_first_step_on_an_invalid_label(
    prepare, own_data_folder, run, spoilt, message
):
    label = last_of(own_data_folder, "labels")
    Image.fromarray(spoilt).save(label)
    with pytest.raises(DrnError, match=message) as caught:
        go(prepare(f"data.root={own_data_folder}"), run)
    assert str(label) in caught.value.message
    assert_not_started(run)


def test_accepts_labels_of_void_only(prepare, own_data_folder, run):
    """The two checked images are void; the others are not."""
    void = Image.fromarray(np.full((48, 64), 255, np.uint8))
    for name in [(own_data_folder / "val_labels.txt").read_text().split()[end] for end in (0, -1)]:
        void.save(own_data_folder / name)
    training = prepare(f"data.root={own_data_folder}")
    run.folder.mkdir()
    before = {key: value.clone() for key, value in training.model.state_dict().items()}
    preflight(training, run)
    assert all(value.equal(before[key]) for key, value in training.model.state_dict().items())


def with_free(monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    def usage(_: Any) -> Usage:
        return Usage(10 * size, 9 * size, size)

    monkeypatch.setattr(shutil, "disk_usage", usage)


def test_fails_without_disk_space_for_the_checkpoints(prepare, run, monkeypatch):
    # A checkpoint of 380 kB, the next one while it is written, and the best network of 190 kB.
    with_free(monkeypatch, 940 * KB)
    with pytest.raises(DrnError, match=r"940\.0 kB free, .* need 950\.9 kB \(free some") as few:
        go(prepare(), run)
    assert str(few.value).startswith(f"{run.folder}: ")
    assert_not_started(run)
    with_free(monkeypatch, 960 * KB)
    preflight(prepare(), run)
    with pytest.raises(DrnError, match=r"train\.keep_last"):
        preflight(prepare("train.keep_last=2"), run)
    with pytest.raises(DrnError):
        preflight(prepare("train.ema=0.9"), run)


def test_existing_checkpoints_count_as_free_disk_space(prepare, trained, run, monkeypatch):
    shutil.copytree(trained.folder, run.folder)
    with_free(monkeypatch, 400 * KB)
    preflight(prepare(), run)
    with_free(monkeypatch, 200 * KB)
    with pytest.raises(DrnError, match=r"200\.0 kB free, checkpoints need [23]\d\d\.\d kB"):
        preflight(prepare(), run)


@pytest.mark.parametrize("kind", ["sgd", "adamw"])
def test_estimated_checkpoint_size(prepare, tmp_path, kind):
    one_step = ("model.width=1", "train.epochs=1", "train.batch_size=12")
    training = prepare(*one_step, f"train.optimiser.kind={kind}", "train.ema=0.9")
    run = Run(tmp_path / kind)
    go(training, run)
    assert run.last.stat().st_size == pytest.approx(checkpoint_size(training), rel=0.02)


def test_fails_if_the_run_directory_cannot_be_created(prepare, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(DrnError, match=r"cannot be written: .*another --run-dir") as caught:
        go(prepare(), Run(tmp_path / "file" / "run"))
    assert caught.value.message.startswith(str(tmp_path / "file" / "run"))

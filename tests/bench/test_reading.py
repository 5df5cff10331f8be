"""The input pipeline: whose pictures are read, how, and what is missing."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from drn_cli.bench import reading as module
from drn_cli.bench.cases import Case, Size, Workers
from drn_cli.bench.measuring import measure
from drn_cli.bench.reading import check_pictures, reading
from drn_cli.bench.subject import Subject, resolve
from drn_cli.bench.timing import Effort, Times
from drn_cli.data.batches import Batch
from drn_cli.errors import DrnError
from drn_cli.recipe.loading import load_recipe

CPU = torch.device("cpu")


def a_case(batch: int = 4, crop: int = 32, workers: Workers = 0) -> Case:
    return Case(
        what="input",
        runtime=None,
        precision=None,
        compiled=False,
        batch=batch,
        size=Size(crop, crop),
        workers=workers,
    )


@pytest.fixture(scope="module")
def of_run(recipe_file: Path) -> Subject:
    recipe = load_recipe(str(recipe_file)).recipe
    return replace(resolve("drn_a_18", "segmentation", 3), recipe=recipe)


def read(subject: Subject, case: Case, data: Path | None = None) -> tuple[list[Batch], int]:
    with reading(subject, case, CPU, data) as (call, batches):
        return call(), batches


@pytest.mark.parametrize("workers", [0, 1])
def test_reads_the_pictures_of_a_run(of_run: Subject, workers: int) -> None:
    batches, count = read(of_run, a_case(workers=workers))
    assert len(batches) == count == 3  # an epoch of 12 pictures
    assert all(batch.images.shape == (4, 32, 32, 3) for batch in batches)
    assert all(batch.labels.shape == (4, 32, 32) for batch in batches)
    assert {int(value) for batch in batches for value in batch.labels.unique()} == {0, 1, 2, 255}


def test_goes_on_after_an_epoch(of_run: Subject) -> None:
    with reading(of_run, a_case(batch=6, crop=24), CPU, None) as (call, batches):
        first, second = call(), call()
    assert batches == 2
    assert not torch.equal(first[0].images, second[0].images)  # of another epoch, drawn anew


def test_another_folder_than_the_run(own_data_folder: Path, of_run: Subject) -> None:
    lists = own_data_folder / "train_images.txt", own_data_folder / "train_labels.txt"
    for file in lists:
        file.write_text("".join(file.read_text().splitlines(keepends=True)[:4]))
    assert read(of_run, a_case(batch=2), own_data_folder)[1] == 2
    assert read(of_run, a_case(batch=2))[1] == 6


def test_draws_pictures_where_there_are_none() -> None:
    batches, count = read(resolve("drn_a_18", "segmentation", 5), a_case(batch=2, crop=24))
    assert len(batches) == count == 16
    assert batches[0].images.shape == (2, 24, 24, 3)
    batches, count = read(resolve("drn_a_18", "classification", 5), a_case(batch=2, crop=24))
    assert len(batches) == count == 16
    assert batches[0].images.shape == (2, 24, 24, 3)
    assert {int(value) for batch in batches for value in batch.labels} == {0, 1}


def test_leaves_nothing_behind(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with reading(resolve("drn_a_18", "classification"), a_case(), CPU, None):
        assert list(tmp_path.iterdir())
    assert not list(tmp_path.iterdir())


def test_times_are_those_of_a_batch(of_run: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    made = Times(rounds=5, least=3, p50=6, p90=9, p99=12)
    monkeypatch.setattr("drn_cli.bench.measuring.time_calls", lambda *_: made)
    row = measure(of_run, a_case(), CPU, Effort())
    assert row.times == Times(rounds=5, least=1, p50=2, p90=3, p99=4)  # three were read each time
    assert row.pictures_per_second == 2
    assert (row.flops, row.activation_bytes) == (None, None)


def test_says_before_what_is_missing(of_run: Subject, tmp_path: Path, data_folder: Path) -> None:
    with pytest.raises(DrnError, match=r"elsewhere: no such data folder \(.*--data"):
        check_pictures(of_run, [a_case()], tmp_path / "elsewhere")
    with pytest.raises(DrnError, match=r"--batch 13: .* has 12 training pictures"):
        check_pictures(of_run, [a_case(batch=12), a_case(batch=13)], None)
    check_pictures(of_run, [a_case(batch=12)], data_folder)
    other = replace(a_case(), what="forward", workers=None)
    check_pictures(of_run, [other], tmp_path / "elsewhere")  # nothing is to be read


def test_nothing_is_drawn_to_check(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "make_scenes", None)
    check_pictures(resolve("drn_a_18"), [a_case()], None)

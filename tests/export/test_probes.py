"""Inputs of the parity check and of calibration."""

from pathlib import Path

import numpy as np
import pytest
from exported_networks import noise
from PIL import Image

from drn_cli.errors import DrnError
from drn_cli.export.form import ExportConfig
from drn_cli.export.probes import LARGEST, SIZES, downscale, example_images, parity_inputs
from drn_cli.export.program import TRACED
from drn_cli.inference.source import Source
from drn_cli.recipe.loading import load_recipe

NO_RUN = Source(Path("weights.pth"), None)


@pytest.fixture
def run_source(recipe_file: Path) -> Source:
    return Source(Path("best.safetensors"), load_recipe(str(recipe_file)).recipe)


def test_images_and_noise_at_two_sizes_that_were_not_traced() -> None:
    found = parity_inputs(
        "photographs",
        {"a.png": noise(30, 50), "b.png": noise(90, 60)},
        ExportConfig(format="pt2"),
    )
    assert [(probe.kind, probe.real) for probe in found] == [
        ("photographs", True),
        ("random pixels", False),
    ] * 2
    assert [probe.pixels.shape[1:3] for probe in found] == [SIZES[0]] * 2 + [SIZES[1]] * 2
    assert len(set(SIZES)) == 2
    assert TRACED[2:] not in SIZES
    assert any(side % 8 for side in SIZES[0])
    assert all(probe.pixels.dtype == np.uint8 for probe in found)
    assert found[0].pixels.shape[0] == 2
    # The batch sizes differ, too.
    assert {len(probe.pixels) for probe in found if not probe.real} == {1, 2}
    assert all(probe.pixels.std() > 50 for probe in found if not probe.real)


def test_a_fixed_size_is_the_only_one() -> None:
    found = parity_inputs("", {}, ExportConfig(format="pt2", size=(40, 56)))
    assert [probe.pixels.shape[1:3] for probe in found] == [(40, 56)] * 2
    assert found[0].kind == "synthetic scenes"
    assert not np.array_equal(found[0].pixels[0], found[0].pixels[1])


def test_noise_depends_only_on_the_seed() -> None:
    config = ExportConfig(format="pt2", size=(8, 8))
    one, same, other = (parity_inputs("", {}, config, seed)[1].pixels for seed in (0, 0, 1))
    assert np.array_equal(one, same)
    assert not np.array_equal(one, other)


def test_named_images_are_evenly_spaced(tmp_path: Path, run_source: Source) -> None:
    for number in range(10):
        Image.new("RGB", (4, 4), (number, 0, 0)).save(tmp_path / f"{number}.png")
    kind, found = example_images([str(tmp_path)], run_source, "val", 5)
    assert kind == "photographs"
    assert [image[0, 0, 0] for image in found.values()] == [0, 2, 4, 6, 8]


def test_images_of_a_split_of_the_run(run_source: Source, data_folder: Path) -> None:
    for split, first in (("val", "100.png"), ("train", "0.png")):
        kind, found = example_images([], run_source, split, 2)
        assert kind == f"{split} images of the run"
        assert len(found) == 2
        with Image.open(data_folder / "images" / first) as expected:
            assert np.array_equal(next(iter(found.values())), np.asarray(expected))


def test_without_run_or_data_there_are_no_images(run_source: Source) -> None:
    assert example_images([], NO_RUN, "val", 2)[1] == {}
    assert run_source.recipe is not None
    moved = run_source.recipe.data.model_copy(update={"root": Path("/nowhere/at/all")})
    recipe = run_source.recipe.model_copy(update={"data": moved})
    assert example_images([], Source(NO_RUN.checkpoint, recipe), "val", 2)[1] == {}


def test_missing_named_images_are_an_error(tmp_path: Path) -> None:
    with pytest.raises(DrnError, match="no such file or folder"):
        example_images([str(tmp_path / "none.png")], NO_RUN, "val", 2)


@pytest.mark.parametrize(
    ("size", "expected"),
    [((30, 50), (30, 50)), ((1280, 640), (640, 320)), ((3, 6400), (1, 640))],
)
def test_downscale(size: tuple[int, int], expected: tuple[int, int]) -> None:
    assert LARGEST == 640
    assert downscale(np.zeros((*size, 3), np.uint8)).shape == (*expected, 3)

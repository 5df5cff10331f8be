"""What exported networks are compared on."""

from pathlib import Path

import numpy as np
import pytest
from exported_networks import noise
from PIL import Image

from drn_cli.errors import DrnError
from drn_cli.export.form import ExportConfig
from drn_cli.export.probes import LARGEST, SIZES, Images, downscale, example_images, parity_inputs
from drn_cli.export.program import TRACED
from drn_cli.inference.source import Source
from drn_cli.recipe.loading import load_recipe

LONE = Source(Path("weights.pth"), None)


@pytest.fixture
def of_run(recipe_file: Path) -> Source:
    return Source(Path("best.safetensors"), load_recipe(str(recipe_file)).recipe)


def test_two_sizes_that_were_not_traced_each_with_images_and_noise() -> None:
    found = parity_inputs(
        Images("photographs", [noise(30, 50), noise(90, 60)], ["a.png", "b.png"]),
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
    # Batches differ in size too.
    assert {len(probe.pixels) for probe in found if not probe.real} == {1, 2}
    assert all(probe.pixels.std() > 50 for probe in found if not probe.real)


def test_a_frozen_size_is_the_only_one() -> None:
    found = parity_inputs(None, ExportConfig(format="pt2", size=(40, 56)))
    assert [probe.pixels.shape[1:3] for probe in found] == [(40, 56)] * 2
    assert found[0].kind == "drawn street scenes"
    assert not np.array_equal(found[0].pixels[0], found[0].pixels[1])


def test_noise_is_the_same_each_time_and_differs_between_seeds() -> None:
    form = ExportConfig(format="pt2", size=(8, 8))
    one, same, other = (parity_inputs(None, form, seed)[1].pixels for seed in (0, 0, 1))
    assert np.array_equal(one, same)
    assert not np.array_equal(one, other)


def test_named_images_are_spread_over_what_there_is(tmp_path: Path, of_run: Source) -> None:
    for number in range(10):
        Image.new("RGB", (4, 4), (number, 0, 0)).save(tmp_path / f"{number}.png")
    found = example_images([str(tmp_path)], of_run, "val", 5)
    assert found is not None
    assert found.kind == "photographs"
    assert [image[0, 0, 0] for image in found.images] == [0, 2, 4, 6, 8]


def test_images_of_the_runs_split(of_run: Source, data_folder: Path) -> None:
    for split, first in (("val", "100.png"), ("train", "0.png")):
        found = example_images([], of_run, split, 2)
        assert found is not None
        assert found.kind == f"{split} images of the run"
        assert len(found.images) == 2
        with Image.open(data_folder / "images" / first) as expected:
            assert np.array_equal(found.images[0], np.asarray(expected))


def test_no_run_or_no_data_gives_no_images(of_run: Source) -> None:
    assert example_images([], LONE, "val", 2) is None
    assert of_run.recipe is not None
    moved = of_run.recipe.data.model_copy(update={"root": Path("/nowhere/at/all")})
    recipe = of_run.recipe.model_copy(update={"data": moved})
    assert example_images([], Source(LONE.checkpoint, recipe), "val", 2) is None


def test_named_images_have_to_be_there(tmp_path: Path) -> None:
    with pytest.raises(DrnError, match="no such file or folder"):
        example_images([str(tmp_path / "none.png")], LONE, "val", 2)


@pytest.mark.parametrize(
    ("size", "expected"),
    [((30, 50), (30, 50)), ((1280, 640), (640, 320)), ((3, 6400), (1, 640))],
)
def test_large_images_are_shrunk(size: tuple[int, int], expected: tuple[int, int]) -> None:
    assert LARGEST == 640
    assert downscale(np.zeros((*size, 3), np.uint8)).shape == (*expected, 3)

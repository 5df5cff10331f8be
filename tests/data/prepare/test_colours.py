"""Colour labels and value labels as class ids: what is read, and what is refused."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from drn_cli.data.images import has_single_channel
from drn_cli.data.prepare.colours import (
    ids_of_colours,
    ids_of_values,
    pack,
    pixel_mode,
    read_values,
    unpack,
)
from drn_cli.errors import DrnError

IDS = {(0, 0, 0): 255, (128, 64, 128): 0, (0, 128, 0): 1, (255, 255, 255): 1}
COLOURS = np.array(list(IDS), np.uint8)


@pytest.fixture
def picks() -> np.ndarray:
    return np.random.default_rng(0).integers(0, len(COLOURS), (6, 9))


def save(path: Path, pixels: np.ndarray, **how: object) -> Path:
    Image.fromarray(pixels).save(path, **how)
    return path


def test_packing_keeps_every_colour_apart() -> None:
    image = np.random.default_rng(0).integers(0, 256, (5, 7, 3)).astype(np.uint8)
    codes = pack(image)
    assert codes[2, 3] == int("{:02x}{:02x}{:02x}".format(*image[2, 3]), 16)
    assert [unpack(int(code)) for code in codes.ravel()] == list(
        map(tuple, image.reshape(-1, 3).tolist())
    )


def test_each_colour_becomes_its_id_and_several_may_share_one(
    tmp_path: Path, picks: np.ndarray
) -> None:
    ids = ids_of_colours(save(tmp_path / "label.png", COLOURS[picks]), IDS)
    assert ids.dtype == np.uint8
    assert np.array_equal(ids, np.array(list(IDS.values()))[picks])


@pytest.mark.parametrize("kind", ["RGBA", "P"])
def test_transparency_is_dropped_and_a_palette_gives_its_colours(
    tmp_path: Path, picks: np.ndarray, kind: str
) -> None:
    if kind == "RGBA":
        alpha = np.arange(54, dtype=np.uint8).reshape(6, 9, 1)
        image = Image.fromarray(np.concatenate([COLOURS[picks], alpha], axis=2))
    else:
        image = Image.fromarray(picks.astype(np.uint8))
        image.putpalette(COLOURS.tobytes())
    image.save(tmp_path / "label.png")
    assert pixel_mode(tmp_path / "label.png") == kind
    ids = ids_of_colours(tmp_path / "label.png", IDS)
    assert np.array_equal(ids, np.array(list(IDS.values()))[picks])


def test_unknown_colour_is_named_with_file_and_place_or_ignored(
    tmp_path: Path, picks: np.ndarray
) -> None:
    pixels = COLOURS[picks]
    pixels[2, 5] = pixels[4, 1] = (1, 2, 3)
    pixels[3, 0] = (3, 2, 1)
    path = save(tmp_path / "label.png", pixels)
    with pytest.raises(DrnError) as caught:
        ids_of_colours(path, IDS)
    assert caught.value.message == (
        f"{path}: the colour 1,2,3 at x 5, y 2 is no class (3 pixels and 1 more such colours)"
    )
    assert "--unknown-as-void" in str(caught.value.hint)
    ids = ids_of_colours(path, IDS, unknown_as_void=True)
    expected = np.array(list(IDS.values()))[picks]
    expected[[2, 4, 3], [5, 1, 0]] = 255
    assert np.array_equal(ids, expected)


def test_a_jpeg_is_named_as_the_likely_reason(tmp_path: Path, picks: np.ndarray) -> None:
    path = save(tmp_path / "label.JPG", COLOURS[picks])
    with pytest.raises(DrnError, match="JPEG files change colours"):
        ids_of_colours(path, IDS)


@pytest.mark.parametrize("mode", ["L", "P", "I;16", "RGB", "1"])
def test_values_are_read_from_every_kind_of_file(tmp_path: Path, mode: str) -> None:
    values = np.random.default_rng(0).integers(0, 2 if mode == "1" else 3, (6, 9)).astype(np.uint8)
    image = Image.fromarray(values)
    if mode == "P":
        image.putpalette(COLOURS.tobytes())
    elif mode == "I;16":
        image = Image.fromarray(values.astype(np.uint16))
    elif mode == "1":
        image = Image.fromarray(values.astype(bool))
    elif mode == "RGB":
        image = image.convert("RGB")
    path = tmp_path / "label.png"
    image.save(path)
    assert has_single_channel(pixel_mode(path)) is (mode != "RGB")
    assert np.array_equal(ids_of_values(path, {0: 7, 1: 255, 2: 0}), np.array([7, 255, 0])[values])


def test_value_without_a_class_is_named_with_its_place_or_ignored(tmp_path: Path) -> None:
    values = np.zeros((6, 9), np.uint8)
    values[4, 7] = 9
    path = save(tmp_path / "label.png", values)
    with pytest.raises(DrnError, match=r"label.png: has the value 9 at x 7, y 4.*\(1 pixel in"):
        ids_of_values(path, {0: 0})
    assert ids_of_values(path, {0: 0}, unknown_as_void=True)[4, 7] == 255


def test_colours_are_no_values(tmp_path: Path, picks: np.ndarray) -> None:
    path = save(tmp_path / "label.png", COLOURS[picks])
    assert read_values(path) is None
    with pytest.raises(DrnError, match="holds colours"):
        ids_of_values(path, {0: 0})


def test_missing_and_foreign_files_are_errors(tmp_path: Path) -> None:
    (tmp_path / "notes.png").write_text("no image")
    with pytest.raises(DrnError, match=r"notes.png: not an image"):
        pixel_mode(tmp_path / "notes.png")
    with pytest.raises(DrnError, match=r"absent.png: no such file"):
        pixel_mode(tmp_path / "absent.png")

"""Color labels and value labels read as class ids."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from drn_cli.data.prepare.colours import (
    ids_of_colors,
    ids_of_values,
    pack,
    read_values,
    unpack,
)
from drn_cli.errors import DrnError

IDS = {(0, 0, 0): 255, (128, 64, 128): 0, (0, 128, 0): 1, (255, 255, 255): 1}
COLORS = np.array(list(IDS), np.uint8)


@pytest.fixture
def picks() -> np.ndarray:
    return np.random.default_rng(0).integers(0, len(COLORS), (6, 9))


def save(path: Path, pixels: np.ndarray, **how: object) -> Path:
    Image.fromarray(pixels).save(path, **how)
    return path


def test_pack_and_unpack_are_inverse() -> None:
    image = np.random.default_rng(0).integers(0, 256, (5, 7, 3)).astype(np.uint8)
    codes = pack(image)
    assert codes[2, 3] == int("{:02x}{:02x}{:02x}".format(*image[2, 3]), 16)
    assert [unpack(int(code)) for code in codes.ravel()] == list(
        map(tuple, image.reshape(-1, 3).tolist())
    )


def test_colors_become_ids(tmp_path: Path, picks: np.ndarray) -> None:
    ids = ids_of_colors(save(tmp_path / "label.png", COLORS[picks]), IDS)
    assert ids.dtype == np.uint8
    assert np.array_equal(ids, np.array(list(IDS.values()))[picks])


@pytest.mark.parametrize("kind", ["RGBA", "P"])
def test_alpha_is_dropped_and_palettes_are_resolved(
    tmp_path: Path, picks: np.ndarray, kind: str
) -> None:
    if kind == "RGBA":
        alpha = np.arange(54, dtype=np.uint8).reshape(6, 9, 1)
        image = Image.fromarray(np.concatenate([COLORS[picks], alpha], axis=2))
    else:
        image = Image.fromarray(picks.astype(np.uint8))
        image.putpalette(COLORS.tobytes())
    image.save(tmp_path / "label.png")
    ids = ids_of_colors(tmp_path / "label.png", IDS)
    assert np.array_equal(ids, np.array(list(IDS.values()))[picks])


def test_unknown_color_names_position_or_is_ignored(tmp_path: Path, picks: np.ndarray) -> None:
    pixels = COLORS[picks]
    pixels[2, 5] = pixels[4, 1] = (1, 2, 3)
    pixels[3, 0] = (3, 2, 1)
    path = save(tmp_path / "label.png", pixels)
    with pytest.raises(DrnError) as caught:
        ids_of_colors(path, IDS)
    assert caught.value.message == (
        f"{path}: color 1,2,3 at x 5, y 2 is not a class (3 pixels, with 1 more unknown colors)"
    )
    assert "--unknown-as-void" in str(caught.value.hint)
    ids = ids_of_colors(path, IDS, unknown_as_void=True)
    expected = np.array(list(IDS.values()))[picks]
    expected[[2, 4, 3], [5, 1, 0]] = 255
    assert np.array_equal(ids, expected)


def test_unknown_color_in_jpeg(tmp_path: Path, picks: np.ndarray) -> None:
    path = save(tmp_path / "label.JPG", COLORS[picks])
    with pytest.raises(DrnError, match="JPEG compression changes colors"):
        ids_of_colors(path, IDS)


@pytest.mark.parametrize("mode", ["L", "P", "I;16", "RGB", "1"])
def test_values_of_all_image_modes(tmp_path: Path, mode: str) -> None:
    values = np.random.default_rng(0).integers(0, 2 if mode == "1" else 3, (6, 9)).astype(np.uint8)
    image = Image.fromarray(values)
    if mode == "P":
        image.putpalette(COLORS.tobytes())
    elif mode == "I;16":
        image = Image.fromarray(values.astype(np.uint16))
    elif mode == "1":
        image = Image.fromarray(values.astype(bool))
    elif mode == "RGB":
        image = image.convert("RGB")
    path = tmp_path / "label.png"
    image.save(path)
    assert np.array_equal(ids_of_values(path, {0: 7, 1: 255, 2: 0}), np.array([7, 255, 0])[values])


def test_unknown_value_names_position_or_is_ignored(tmp_path: Path) -> None:
    values = np.zeros((6, 9), np.uint8)
    values[4, 7] = 9
    path = save(tmp_path / "label.png", values)
    with pytest.raises(DrnError, match=r"label.png: value 9 at x 7, y 4 is not .*\(1 pixel in"):
        ids_of_values(path, {0: 0})
    assert ids_of_values(path, {0: 0}, unknown_as_void=True)[4, 7] == 255


def test_colors_are_not_values(tmp_path: Path, picks: np.ndarray) -> None:
    path = save(tmp_path / "label.png", COLORS[picks])
    assert read_values(path) is None
    with pytest.raises(DrnError, match="contains colors"):
        ids_of_values(path, {0: 0})


def test_missing_or_invalid_file(tmp_path: Path) -> None:
    (tmp_path / "notes.png").write_text("no image")
    with pytest.raises(DrnError, match=r"notes.png: not an image"):
        read_values(tmp_path / "notes.png")
    with pytest.raises(DrnError, match=r"absent.png: no such file"):
        read_values(tmp_path / "absent.png")

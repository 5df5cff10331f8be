import struct
import zlib
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from drn_cli.data.classes import camvid, cityscapes
from drn_cli.data.images import (
    overlay,
    read_image,
    read_label,
    write_coloured,
    write_image,
    write_index,
)
from drn_cli.errors import DrnError

ORIENTATION = 0x0112
# How the camera's pixels came to lie in the file, for each value of the EXIF orientation.
TURNED = {
    1: None,
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(len(shape)).integers(0, 256, shape).astype(np.uint8)


def saved(path: Path, image: Image.Image, **options: object) -> Path:
    image.save(path, **options)
    return path


def grey(values: np.ndarray) -> np.ndarray:
    return np.repeat(values[..., None], 3, axis=2)


@pytest.mark.parametrize("suffix", ["png", "bmp", "tif", "ppm"])
def test_colour_picture_is_read_as_it_is(tmp_path: Path, suffix: str) -> None:
    pixels = noise(5, 7, 3)
    image = read_image(saved(tmp_path / f"a.{suffix}", Image.fromarray(pixels)))
    assert image.dtype == np.uint8
    assert np.array_equal(image, pixels)


def test_lossless_webp_is_read_as_it_is(tmp_path: Path) -> None:
    pixels = noise(5, 7, 3)
    path = saved(tmp_path / "a.webp", Image.fromarray(pixels), lossless=True)
    assert np.array_equal(read_image(path), pixels)


def test_picture_of_one_pixel(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.png", Image.new("RGB", (1, 1), (1, 2, 3)))
    assert read_image(path).tolist() == [[[1, 2, 3]]]


@pytest.mark.parametrize("size", [(1, 1), (5, 3)])
@pytest.mark.parametrize(
    "mode",
    ["1", "L", "P", "PA", "LA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "LAB", "I", "I;16", "F"],
)
def test_picture_of_any_mode_becomes_rgb(tmp_path: Path, mode: str, size: tuple[int, int]) -> None:
    image = read_image(saved(tmp_path / "a.tif", Image.new(mode, size)))
    assert (image.shape, image.dtype) == ((size[1], size[0], 3), np.uint8)


def test_sixteen_bits_of_each_colour_are_brought_to_eight(tmp_path: Path) -> None:
    values = np.array([[[0, 0x1234, 65535], [128 * 257, 3 * 257, 255 * 257]]], np.uint16)
    (tmp_path / "a.png").write_bytes(cv2.imencode(".png", values[..., ::-1])[1].tobytes())
    assert read_image(tmp_path / "a.png").tolist() == [[[0, 0x12, 255], [128, 3, 255]]]


def test_grey_is_repeated_in_all_channels(tmp_path: Path) -> None:
    pixels = noise(5, 7)
    assert np.array_equal(
        read_image(saved(tmp_path / "a.png", Image.fromarray(pixels))), grey(pixels)
    )


def test_transparency_is_dropped(tmp_path: Path) -> None:
    rgba, la = noise(5, 7, 4), noise(5, 7, 2)
    path = saved(tmp_path / "rgba.png", Image.fromarray(rgba, "RGBA"))
    assert np.array_equal(read_image(path), rgba[..., :3])
    path = saved(tmp_path / "la.png", Image.fromarray(la, "LA"))
    assert np.array_equal(read_image(path), grey(la[..., 0]))


@pytest.mark.parametrize("options", [{}, {"transparency": 1}, {"transparency": b"\x00\x80\xff"}])
def test_palette_gives_its_colours(tmp_path: Path, options: dict[str, object]) -> None:
    image = Image.fromarray(np.array([[0, 1, 2]], np.uint8))
    image.putpalette([10, 20, 30, 40, 50, 60, 70, 80, 90])
    path = saved(tmp_path / "a.png", image, **options)
    with Image.open(path) as written:
        assert written.mode == "P"
    assert read_image(path).tolist() == [[[10, 20, 30], [40, 50, 60], [70, 80, 90]]]


def test_cmyk_jpeg_gives_rgb(tmp_path: Path) -> None:
    cmyk = Image.new("CMYK", (16, 16), (0, 255, 255, 0))
    path = saved(tmp_path / "a.jpg", cmyk, quality=100)
    with Image.open(path) as written:
        assert written.mode == "CMYK"
    difference = read_image(path).astype(int) - [255, 0, 0]
    assert np.abs(difference).max() <= 3


def test_sixteen_bit_grey_is_scaled_to_eight(tmp_path: Path) -> None:
    values = np.array([[0, 257, 128 * 257, 65535, 128]], np.uint16)
    path = saved(tmp_path / "a.png", Image.fromarray(values))
    with Image.open(path) as written:
        assert written.mode.startswith("I")
    assert np.array_equal(read_image(path), grey(np.array([[0, 1, 128, 255, 0]], np.uint8)))


def test_eight_bit_values_in_a_sixteen_bit_file_stay(tmp_path: Path) -> None:
    values = np.array([[0, 3, 200, 255]], np.uint16)
    path = saved(tmp_path / "a.png", Image.fromarray(values))
    assert np.array_equal(read_image(path), grey(values.astype(np.uint8)))


def test_one_bit_is_black_and_white(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.png", Image.fromarray(np.array([[False, True]])))
    with Image.open(path) as written:
        assert written.mode == "1"
    assert read_image(path).tolist() == [[[0, 0, 0], [255, 255, 255]]]


@pytest.mark.parametrize("offset", [0.0, -3.5])
def test_floats_of_whatever_range_are_spread_to_eight_bits(tmp_path: Path, offset: float) -> None:
    values = np.array([[0, 0.2, 0.6, 1]], np.float32) + np.float32(offset)
    path = saved(tmp_path / "a.tif", Image.fromarray(values))
    assert np.array_equal(read_image(path), grey(np.array([[0, 51, 153, 255]], np.uint8)))


def test_floats_that_are_all_equal_are_black(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.tif", Image.fromarray(np.full((2, 2), 7, np.float32)))
    assert not read_image(path).any()


@pytest.mark.parametrize("suffix", ["png", "jpg"])
@pytest.mark.parametrize("orientation", TURNED)
def test_exif_orientation_is_applied(tmp_path: Path, suffix: str, orientation: int) -> None:
    # Flat blocks of 16 pixels: JPEG changes them little and treats all directions alike.
    upright = np.repeat(np.repeat(noise(2, 3, 3), 16, axis=0), 16, axis=1)
    stored, turn = Image.fromarray(upright), TURNED[orientation]
    if turn is not None:
        stored = stored.transpose(turn)
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    options = {"quality": 100, "subsampling": 0} if suffix == "jpg" else {}
    path = saved(tmp_path / f"a.{suffix}", stored, exif=exif, **options)
    image = read_image(path)
    assert image.shape == upright.shape
    assert np.abs(image.astype(int) - upright).max() <= (3 if suffix == "jpg" else 0)


def test_label_is_turned_like_its_picture(tmp_path: Path) -> None:
    upright = noise(4, 6) % 19
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    stored = Image.fromarray(upright).transpose(TURNED[6])
    path = saved(tmp_path / "a.png", stored, exif=exif)
    assert np.array_equal(read_label(path), upright)


def test_orientation_at_the_end_of_a_png_is_applied(tmp_path: Path) -> None:
    picture = noise(5, 7, 3)
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by a quarter
    plain, turned = BytesIO(), BytesIO()
    Image.fromarray(picture).save(plain, "PNG")
    Image.fromarray(picture).save(turned, "PNG", exif=exif)
    data, end = plain.getvalue()[:-12], plain.getvalue()[-12:]
    start = turned.getvalue().index(b"eXIf") - 4
    length = struct.unpack(">I", turned.getvalue()[start : start + 4])[0]
    chunk = turned.getvalue()[start : start + 12 + length]
    path = tmp_path / "late.png"
    path.write_bytes(data + chunk + end)
    assert np.array_equal(read_image(path), np.rot90(picture, -1))


@pytest.mark.parametrize(("suffix", "options"), [(".png", {}), (".jpg", {"quality": 90})])
@pytest.mark.parametrize("shape", [(60, 80, 3), (60, 80)], ids=["colour", "grey"])
def test_damaged_file_is_read_as_pillow_reads_it_or_is_an_error(
    tmp_path: Path, suffix: str, options: dict[str, int], shape: tuple[int, ...]
) -> None:
    path = saved(tmp_path / f"whole{suffix}", Image.fromarray(noise(*shape)), **options)
    whole, random = path.read_bytes(), np.random.default_rng(0)
    errors = 0
    for number in range(60):
        data = bytearray(whole)
        for place in random.integers(len(data) // 8, len(data) - 12, 3):
            data[place] ^= 1 + number % 255
        path.write_bytes(data)
        try:
            expected = np.asarray(Image.open(path).convert("RGB"))
        except (OSError, SyntaxError):
            errors += 1
            with pytest.raises(DrnError, match=f"whole{suffix}: "):
                read_image(path)
        else:
            assert np.array_equal(read_image(path), expected)
    assert errors or suffix == ".jpg"  # libjpeg makes something of nearly anything


def test_picture_is_read_from_an_open_file(tmp_path: Path) -> None:
    pixels = noise(5, 7, 3)
    buffer = BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    buffer.seek(0)
    assert np.array_equal(read_image(buffer), pixels)
    with pytest.raises(DrnError, match="picture: not a picture"):
        read_image(BytesIO(b"hello"))


def truncated(suffix: str) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        path = saved(folder / f"a.{suffix}", Image.fromarray(noise(64, 64, 3)))
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        return path

    return make


def text(folder: Path) -> Path:
    (folder / "a.png").write_text("this is a text")
    return folder / "a.png"


def empty(folder: Path) -> Path:
    (folder / "a.png").touch()
    return folder / "a.png"


def bomb(side: int) -> Callable[[Path], Path]:
    """Claim to be 0.4 or 10 gigapixels in a hundred bytes."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        check = struct.pack(">I", zlib.crc32(kind + data))
        return struct.pack(">I", len(data)) + kind + data + check

    def make(folder: Path) -> Path:
        header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
        chunks = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(100)))
        (folder / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n" + chunks + chunk(b"IEND", b""))
        return folder / "a.png"

    return make


@pytest.mark.parametrize("read", [read_image, read_label])
@pytest.mark.parametrize(
    ("make", "message"),
    [
        (truncated("png"), "broken picture"),
        (truncated("jpg"), "broken picture"),
        (text, "not a picture"),
        (empty, "not a picture"),
        (lambda folder: folder / "absent.png", "no such file"),
        (lambda folder: folder, "broken picture"),
        (bomb(20_000), "refused"),
        (bomb(100_000), "refused"),
    ],
    ids=["png", "jpeg", "text", "empty", "missing", "folder", "bomb", "larger-bomb"],
)
def test_unusable_file_is_an_error_with_its_path(
    tmp_path: Path,
    read: Callable[[Path], object],
    make: Callable[[Path], Path],
    message: str,
) -> None:
    path = make(tmp_path)
    with pytest.raises(DrnError, match=message) as caught:
        read(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in caught.value.message


def test_large_picture_that_pillow_only_warns_of_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pixels = noise(3, 5, 3)
    path = saved(tmp_path / "a.png", Image.fromarray(pixels))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)  # Pillow refuses above 20
    assert np.array_equal(read_image(path), pixels)


def test_grey_label_is_read_as_it_is(tmp_path: Path) -> None:
    label = noise(5, 7)
    read = read_label(saved(tmp_path / "a.png", Image.fromarray(label)))
    assert read.dtype == np.uint8
    assert np.array_equal(read, label)


def test_palette_label_gives_indices_whatever_the_colours(tmp_path: Path) -> None:
    label = np.array([[0, 1, 2], [18, 2, 255]], np.uint8)
    image = Image.fromarray(label)
    image.putpalette(bytes(reversed(range(256))) * 3)
    path = saved(tmp_path / "a.png", image)
    with Image.open(path) as written:
        assert written.mode == "P"
    assert np.array_equal(read_label(path), label)


def test_one_bit_label_gives_zero_and_one(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.png", Image.fromarray(np.array([[False, True]])))
    read = read_label(path)
    assert read.dtype == np.uint8
    assert read.tolist() == [[0, 1]]


def test_sixteen_bit_label_keeps_its_values(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.png", Image.fromarray(np.array([[0, 18, 255]], np.uint16)))
    read = read_label(path)
    assert read.dtype == np.uint8
    assert read.tolist() == [[0, 18, 255]]


def test_sixteen_bit_label_above_255_is_an_error_with_path_and_value(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.png", Image.fromarray(np.array([[0, 256, 24001]], np.uint16)))
    with pytest.raises(DrnError, match="24001") as caught:
        read_label(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "LA", "F"])
def test_colour_picture_as_a_label_is_an_error_with_a_hint(tmp_path: Path, mode: str) -> None:
    path = saved(tmp_path / "a.tif", Image.new(mode, (2, 2)))
    with pytest.raises(DrnError, match="one class id a pixel") as caught:
        read_label(path)
    assert str(path) in caught.value.message
    assert caught.value.hint is not None


def test_index_map_comes_back(tmp_path: Path) -> None:
    label = noise(5, 7)
    write_index(tmp_path / "deep" / "a.png", label)
    with Image.open(tmp_path / "deep" / "a.png") as written:
        assert written.mode == "L"
        assert np.array_equal(np.asarray(written), label)


@pytest.mark.parametrize("class_set", [camvid(), cityscapes()], ids=["camvid", "cityscapes"])
def test_coloured_map_holds_ids_and_shows_colours(tmp_path: Path, class_set: object) -> None:
    label = noise(9, 9) % len(class_set)
    label[0, 0] = 255
    write_coloured(tmp_path / "a.png", label, class_set)
    assert np.array_equal(read_label(tmp_path / "a.png"), label)
    shown = read_image(tmp_path / "a.png")
    assert shown[0, 0].tolist() == [0, 0, 0]
    for y, x in np.argwhere(label != 255):
        assert tuple(shown[y, x].tolist()) == class_set.colours[label[y, x]]


def test_written_picture_comes_back(tmp_path: Path) -> None:
    pixels = noise(5, 7, 3)
    write_image(tmp_path / "a.png", pixels)
    assert np.array_equal(read_image(tmp_path / "a.png"), pixels)
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]


def test_overlay_mixes_colours_and_leaves_what_is_ignored() -> None:
    picture = np.full((1, 3, 3), 100, np.uint8)
    classes = np.array([[0, 3, 255]], np.uint8)
    mixed = overlay(picture, classes, camvid(), opacity=0.25)
    assert mixed.dtype == np.uint8
    assert mixed[0, 2].tolist() == [100, 100, 100]
    for x, number in enumerate((0, 3)):
        expected = 0.75 * 100 + 0.25 * np.array(camvid().colours[number])
        assert np.abs(mixed[0, x] - expected).max() <= 1


@pytest.mark.parametrize("shape", [(1, 1), (31, 33)])
def test_overlay_is_pillows_blend_but_for_a_level(shape: tuple[int, int]) -> None:
    picture, classes = noise(*shape, 3), noise(*shape) % 13
    classes[classes > 10] = 255
    shown = Image.fromarray(classes)
    shown.putpalette(camvid().palette())
    blend = np.asarray(Image.blend(Image.fromarray(picture), shown.convert("RGB"), 0.5))
    expected = np.where((classes == 255)[..., None], picture, blend)
    picture.setflags(write=False)  # as Pillow gives them
    mixed = overlay(picture, classes, camvid())
    assert mixed.dtype == np.uint8
    assert np.abs(mixed.astype(int) - expected).max() <= 1
    assert np.array_equal(mixed[classes == 255], picture[classes == 255])

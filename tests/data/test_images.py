import struct
from io import BytesIO
from pathlib import Path

import cv2
import numpy as np
import pytest
from image_files import IDS, ORIENTATION, encoded, noise, saved
from PIL import Image

from drn_cli.data.classes import camvid, cityscapes
from drn_cli.data.images import (
    colored_png,
    overlay,
    read_header,
    read_image,
    read_label,
    write_png,
)
from drn_cli.errors import DrnError

# Transformation from the upright image to the stored one, by EXIF orientation.
STORED = {
    1: None,
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}


def gray(values: np.ndarray) -> np.ndarray:
    return np.repeat(values[..., None], 3, axis=2)


@pytest.mark.parametrize("suffix", ["png", "bmp", "tif", "ppm"])
def test_color_image_round_trip(tmp_path: Path, suffix: str) -> None:
    pixels = noise(5, 7, 3)
    image = read_image(saved(tmp_path / f"a.{suffix}", Image.fromarray(pixels)))
    assert image.dtype == np.uint8
    assert np.array_equal(image, pixels)


def test_lossless_webp_round_trip(tmp_path: Path) -> None:
    pixels = noise(5, 7, 3)
    path = saved(tmp_path / "a.webp", Image.fromarray(pixels), lossless=True)
    assert np.array_equal(read_image(path), pixels)


def test_image_of_one_pixel(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.png", Image.new("RGB", (1, 1), (1, 2, 3)))
    assert read_image(path).tolist() == [[[1, 2, 3]]]


@pytest.mark.parametrize("size", [(1, 1), (5, 3)])
@pytest.mark.parametrize(
    "mode",
    ["1", "L", "P", "PA", "LA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "LAB", "I", "I;16"],
)
def test_image_of_any_mode_becomes_rgb(tmp_path: Path, mode: str, size: tuple[int, int]) -> None:
    image = read_image(saved(tmp_path / "a.tif", Image.new(mode, size)))
    assert (image.shape, image.dtype) == ((size[1], size[0], 3), np.uint8)


def test_sixteen_bit_color_is_scaled_to_eight(tmp_path: Path) -> None:
    values = np.array([[[0, 0x1234, 65535], [128 * 257, 3 * 257, 255 * 257]]], np.uint16)
    (tmp_path / "a.png").write_bytes(cv2.imencode(".png", values[..., ::-1])[1].tobytes())
    assert read_image(tmp_path / "a.png").tolist() == [[[0, 0x12, 255], [128, 3, 255]]]


def test_gray_is_repeated_in_all_channels(tmp_path: Path) -> None:
    pixels = noise(5, 7)
    assert np.array_equal(
        read_image(saved(tmp_path / "a.png", Image.fromarray(pixels))), gray(pixels)
    )


def test_transparency_is_dropped(tmp_path: Path) -> None:
    rgba, la = noise(5, 7, 4), noise(5, 7, 2)
    path = saved(tmp_path / "rgba.png", Image.fromarray(rgba, "RGBA"))
    assert np.array_equal(read_image(path), rgba[..., :3])
    path = saved(tmp_path / "la.png", Image.fromarray(la, "LA"))
    assert np.array_equal(read_image(path), gray(la[..., 0]))


@pytest.mark.parametrize("options", [{}, {"transparency": 1}, {"transparency": b"\x00\x80\xff"}])
def test_palette_image_is_read_as_colors(tmp_path: Path, options: dict[str, object]) -> None:
    image = Image.fromarray(np.array([[0, 1, 2]], np.uint8))
    image.putpalette([10, 20, 30, 40, 50, 60, 70, 80, 90])
    path = saved(tmp_path / "a.png", image, **options)
    with Image.open(path) as written:
        assert written.mode == "P"
    assert read_image(path).tolist() == [[[10, 20, 30], [40, 50, 60], [70, 80, 90]]]


def test_cmyk_jpeg_is_converted(tmp_path: Path) -> None:
    cmyk = Image.new("CMYK", (16, 16), (0, 255, 255, 0))
    path = saved(tmp_path / "a.jpg", cmyk, quality=100)
    with Image.open(path) as written:
        assert written.mode == "CMYK"
    difference = read_image(path).astype(int) - [255, 0, 0]
    assert np.abs(difference).max() <= 3


def test_sixteen_bit_gray_is_scaled_to_eight(tmp_path: Path) -> None:
    values = np.array([[0, 257, 128 * 257, 65535, 128]], np.uint16)
    path = saved(tmp_path / "a.png", Image.fromarray(values))
    with Image.open(path) as written:
        assert written.mode.startswith("I")
    assert np.array_equal(read_image(path), gray(np.array([[0, 1, 128, 255, 0]], np.uint8)))


def test_eight_bit_values_in_a_sixteen_bit_file_are_kept(tmp_path: Path) -> None:
    values = np.array([[0, 3, 200, 255]], np.uint16)
    path = saved(tmp_path / "a.png", Image.fromarray(values))
    assert np.array_equal(read_image(path), gray(values.astype(np.uint8)))


def test_one_bit_is_black_and_white(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.png", Image.fromarray(np.array([[False, True]])))
    with Image.open(path) as written:
        assert written.mode == "1"
    assert read_image(path).tolist() == [[[0, 0, 0], [255, 255, 255]]]


@pytest.mark.parametrize("values", [[[0, 0.2, 0.6, 1]], [[7, 7]]])
def test_float_image_is_rejected(tmp_path: Path, values: list[list[float]]) -> None:
    path = saved(tmp_path / "a.tif", Image.fromarray(np.array(values, np.float32)))
    with pytest.raises(DrnError, match=r"a\.tif: float pixels.*8 or 16 bits"):
        read_image(path)


@pytest.mark.parametrize("suffix", ["png", "jpg", "tif"])
@pytest.mark.parametrize("orientation", STORED)
def test_exif_orientation_is_applied(tmp_path: Path, suffix: str, orientation: int) -> None:
    # Flat blocks of 16 pixels: JPEG changes them little, equally in all directions.
    upright = np.repeat(np.repeat(noise(2, 3, 3), 16, axis=0), 16, axis=1)
    stored, turn = Image.fromarray(upright), STORED[orientation]
    if turn is not None:
        stored = stored.transpose(turn)
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    options = {"quality": 100, "subsampling": 0} if suffix == "jpg" else {}
    path = saved(tmp_path / f"a.{suffix}", stored, exif=exif, **options)
    image = read_image(path)
    assert image.shape == upright.shape
    header = read_header(path)
    assert (header.orientation, header.size) == (orientation, stored.size)
    assert header.upright == (upright.shape[1], upright.shape[0])
    assert np.abs(image.astype(int) - upright).max() <= (3 if suffix == "jpg" else 0)


def test_exif_orientation_is_applied_to_labels(tmp_path: Path) -> None:
    upright = noise(4, 6) % 19
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    stored = Image.fromarray(upright).transpose(STORED[6])
    path = saved(tmp_path / "a.png", stored, exif=exif)
    assert np.array_equal(read_label(path), upright)


def test_orientation_at_the_end_of_a_png_is_applied(tmp_path: Path) -> None:
    image = noise(5, 7, 3)
    exif = Image.Exif()
    exif[0x0112] = 6  # rotate by 90 degrees
    plain, turned = BytesIO(), BytesIO()
    Image.fromarray(image).save(plain, "PNG")
    Image.fromarray(image).save(turned, "PNG", exif=exif)
    data, end = plain.getvalue()[:-12], plain.getvalue()[-12:]
    start = turned.getvalue().index(b"eXIf") - 4
    length = struct.unpack(">I", turned.getvalue()[start : start + 4])[0]
    chunk = turned.getvalue()[start : start + 12 + length]
    path = tmp_path / "late.png"
    path.write_bytes(data + chunk + end)
    assert np.array_equal(read_image(path), np.rot90(image, -1))


def frames(format_: str, path: Path, count: int = 3) -> Path:
    images = [
        Image.fromarray(np.full((20, 30), (7 + 43 * n) % 251, np.uint8)) for n in range(count)
    ]
    images[0].save(path, format_, save_all=True, append_images=images[1:])
    return path


@pytest.mark.parametrize(
    ("format_", "count", "said"),
    [
        *((format_, 3, "3") for format_ in ("GIF", "TIFF", "PNG", "WEBP")),
        ("TIFF", 64, "64"),
        ("TIFF", 65, "more than 64"),
    ],
)
def test_several_frames_are_rejected(
    tmp_path: Path, format_: str, count: int, said: str, caplog: pytest.LogCaptureFixture
) -> None:
    path = frames(format_, tmp_path / "a.img", count)
    for read in (read_image, read_label):
        with pytest.raises(
            DrnError,
            match=f"a.img: {format_} with {said} frames, expected one .save one frame as a PNG",
        ):
            read(path)
    assert not caplog.records
    first = read_image(path, frames="first")
    assert np.abs(first.astype(int) - 7).max() <= 3  # WebP is not exact
    assert [record.getMessage() for record in caplog.records] == [
        f"{path}: has {said} frames; only the first is read"
    ]


def test_reduced_copies_in_a_tiff_are_not_frames(tmp_path: Path) -> None:
    whole, half = Image.fromarray(IDS), Image.fromarray(IDS[::2, ::2])
    half.encoderinfo = {"tiffinfo": {254: 1}}
    whole.save(tmp_path / "a.tif", save_all=True, append_images=[half])
    with Image.open(tmp_path / "a.tif") as opened:
        assert opened.n_frames == 2
    assert np.array_equal(read_label(tmp_path / "a.tif"), IDS)


def test_reads_image_from_an_open_file(tmp_path: Path) -> None:
    pixels = noise(5, 7, 3)
    buffer = BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    buffer.seek(0)
    assert np.array_equal(read_image(buffer), pixels)
    with pytest.raises(DrnError, match="image: not an image"):
        read_image(BytesIO(b"hello"))


def test_gray_label_round_trip(tmp_path: Path) -> None:
    label = noise(5, 7)
    read = read_label(saved(tmp_path / "a.png", Image.fromarray(label)))
    assert read.dtype == np.uint8
    assert np.array_equal(read, label)


def test_palette_label_is_read_as_indices(tmp_path: Path) -> None:
    label = np.array([[0, 1, 2], [18, 2, 255]], np.uint8)
    image = Image.fromarray(label)
    image.putpalette(bytes(reversed(range(256))) * 3)
    path = saved(tmp_path / "a.png", image)
    with Image.open(path) as written:
        assert written.mode == "P"
    assert np.array_equal(read_label(path), label)


def test_one_bit_label_is_zero_and_one(tmp_path: Path) -> None:
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


def test_label_of_integral_floats_is_read_as_ids() -> None:
    assert np.array_equal(read_label(encoded(Image.fromarray(IDS.astype(np.float32)), "TIFF")), IDS)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (0.5, r"value 0\.5 at x=4, y=2 is not a class id \(save class ids"),
        (np.nan, "value nan at x=4, y=2 is not"),
        (-9999, "label values range from -9999 to 18; class ids are 0 to 255"),
        (3e9, r"value 3e\+09 at x=4, y=2 is not"),
    ],
)
def test_label_of_other_floats_is_an_error(value: float, message: str) -> None:
    values = IDS.astype(np.float32)
    values[2, 4] = value
    with pytest.raises(DrnError, match=message):
        read_label(encoded(Image.fromarray(values), "TIFF"))


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "LA"])
def test_color_image_as_label_is_an_error_with_a_hint(tmp_path: Path, mode: str) -> None:
    path = saved(tmp_path / "a.tif", Image.new(mode, (2, 2)))
    with pytest.raises(DrnError, match="one class id per pixel") as caught:
        read_label(path)
    assert str(path) in caught.value.message
    assert caught.value.hint is not None


def test_index_map_round_trip(tmp_path: Path) -> None:
    label = noise(5, 7)
    write_png(tmp_path / "deep" / "a.png", label)
    with Image.open(tmp_path / "deep" / "a.png") as written:
        assert written.mode == "L"
        assert np.array_equal(np.asarray(written), label)


@pytest.mark.parametrize("class_set", [camvid(), cityscapes()], ids=["camvid", "cityscapes"])
def test_palette_map_contains_ids_and_colors(tmp_path: Path, class_set: object) -> None:
    label = noise(9, 9) % len(class_set)
    label[0, 0] = 255
    (tmp_path / "a.png").write_bytes(colored_png(label, class_set))
    assert np.array_equal(read_label(tmp_path / "a.png"), label)
    shown = read_image(tmp_path / "a.png")
    assert shown[0, 0].tolist() == [0, 0, 0]
    for y, x in np.argwhere(label != 255):
        assert tuple(shown[y, x].tolist()) == class_set.colours[label[y, x]]


def test_image_round_trip(tmp_path: Path) -> None:
    pixels = noise(5, 7, 3)
    write_png(tmp_path / "a.png", pixels)
    assert np.array_equal(read_image(tmp_path / "a.png"), pixels)
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]


def test_overlay_blends_colors_except_for_ignored_pixels() -> None:
    image = np.full((1, 3, 3), 100, np.uint8)
    classes = np.array([[0, 3, 255]], np.uint8)
    mixed = overlay(image, classes, camvid(), opacity=0.25)
    assert mixed.dtype == np.uint8
    assert mixed[0, 2].tolist() == [100, 100, 100]
    for x, number in enumerate((0, 3)):
        expected = 0.75 * 100 + 0.25 * np.array(camvid().colours[number])
        assert np.abs(mixed[0, x] - expected).max() <= 1


@pytest.mark.parametrize("shape", [(1, 1), (31, 33)])
def test_overlay_matches_pillow_within_one_level(shape: tuple[int, int]) -> None:
    image, classes = noise(*shape, 3), noise(*shape) % 13
    classes[classes > 10] = 255
    shown = Image.fromarray(classes)
    shown.putpalette(camvid().palette())
    blend = np.asarray(Image.blend(Image.fromarray(image), shown.convert("RGB"), 0.5))
    expected = np.where((classes == 255)[..., None], image, blend)
    image.setflags(write=False)  # as Pillow gives them
    mixed = overlay(image, classes, camvid())
    assert mixed.dtype == np.uint8
    assert np.abs(mixed.astype(int) - expected).max() <= 1
    assert np.array_equal(mixed[classes == 255], image[classes == 255])

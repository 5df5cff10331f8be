import os
import resource
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
from drn_cli.data.file_ends import PNG_MAGIC
from drn_cli.data.images import (
    overlay,
    read_header,
    read_image,
    read_label,
    write_coloured,
    write_image,
    write_index,
)
from drn_cli.errors import DrnError, explained

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
def test_colour_image_is_read_as_it_is(tmp_path: Path, suffix: str) -> None:
    pixels = noise(5, 7, 3)
    image = read_image(saved(tmp_path / f"a.{suffix}", Image.fromarray(pixels)))
    assert image.dtype == np.uint8
    assert np.array_equal(image, pixels)


def test_lossless_webp_is_read_as_it_is(tmp_path: Path) -> None:
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


@pytest.mark.parametrize("values", [[[0, 0.2, 0.6, 1]], [[7, 7]]])
def test_floats_are_refused_as_an_image(tmp_path: Path, values: list[list[float]]) -> None:
    path = saved(tmp_path / "a.tif", Image.fromarray(np.array(values, np.float32)))
    with pytest.raises(DrnError, match=r"a\.tif: its pixels are floats.*8 or 16 bits"):
        read_image(path)


@pytest.mark.parametrize("suffix", ["png", "jpg", "tif"])
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
    header = read_header(path)
    assert (header.orientation, header.size) == (orientation, stored.size)
    assert header.upright == (upright.shape[1], upright.shape[0])
    assert np.abs(image.astype(int) - upright).max() <= (3 if suffix == "jpg" else 0)


def test_label_is_turned_like_its_image(tmp_path: Path) -> None:
    upright = noise(4, 6) % 19
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    stored = Image.fromarray(upright).transpose(TURNED[6])
    path = saved(tmp_path / "a.png", stored, exif=exif)
    assert np.array_equal(read_label(path), upright)


def test_orientation_at_the_end_of_a_png_is_applied(tmp_path: Path) -> None:
    image = noise(5, 7, 3)
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by a quarter
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


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def interlaced_png(grey: np.ndarray) -> bytes:
    """Encode 8-bit grey values in the seven passes of Adam7, which Pillow does not write."""
    passes = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2))
    rows = b""
    for left, top, right, down in (*passes, (0, 1, 1, 2)):
        rows += b"".join(b"\0" + row.tobytes() for row in grey[top::down, left::right])
    header = struct.pack(">IIBBBBB", grey.shape[1], grey.shape[0], 8, 0, 0, 0, 1)
    chunks = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunks


def encoded(image: Image.Image, format_: str = "PNG", **options: object) -> bytes:
    file = BytesIO()
    image.save(file, format_, **options)
    return file.getvalue()


def with_palette(indices: np.ndarray) -> Image.Image:
    image = Image.fromarray(indices)
    image.putpalette(noise(256, 3).tobytes())
    return image


def turned() -> Image.Exif:
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    return exif


FLAT = noise(6, 8, 3).repeat(4, 0).repeat(4, 1)  # so that most of the file is no pixels
IDS = noise(24, 32) % 19
PNGS: dict[str, tuple[Callable[[], bytes], Callable[[bytes], np.ndarray]]] = {
    "rgb": (lambda: encoded(Image.fromarray(FLAT)), read_image),
    "rgb-turned": (lambda: encoded(Image.fromarray(FLAT), exif=turned()), read_image),
    "palette": (lambda: encoded(with_palette(IDS)), read_image),
    "palette-label": (lambda: encoded(with_palette(IDS)), read_label),
    "16-bit": (lambda: encoded(Image.fromarray(IDS.astype(np.uint16) * 3000)), read_image),
    "16-bit-label": (lambda: encoded(Image.fromarray(IDS.astype(np.uint16))), read_label),
    "grey-label": (lambda: encoded(Image.fromarray(IDS)), read_label),
    "interlaced-label": (lambda: interlaced_png(IDS), read_label),
    "one-bit-label": (lambda: encoded(Image.fromarray(IDS > 9)), read_label),
    "alpha": (lambda: encoded(Image.fromarray(noise(24, 32, 4))), read_image),
}


@pytest.mark.parametrize("kind", PNGS)
def test_flipped_bit_of_a_png_changes_no_pixel_or_is_an_error(kind: str) -> None:
    make, read = PNGS[kind]
    whole, random = make(), np.random.default_rng(0)
    expected = read(whole)
    errors = 0
    for bit in random.choice(8 * len(whole), 300, replace=False):
        data = bytearray(whole)
        data[bit // 8] ^= 1 << (bit % 8)
        try:
            found = read(bytes(data))
        except DrnError as error:
            errors += 1
            assert "\n" not in str(error)
            assert bit < 64 or "broken image" in str(error)  # after the signature it is a PNG file
        else:
            assert np.array_equal(found, expected), bit
    assert errors > 250


@pytest.mark.parametrize("kind", PNGS)
def test_wrong_checksum_of_the_compressed_pixels_is_an_error(kind: str) -> None:
    whole = PNGS[kind][0]()
    start = whole.index(b"IDAT") - 4
    (length,) = struct.unpack_from(">I", whole, start)
    pixels = bytearray(whole[start + 8 : start + 8 + length])
    pixels[-1] ^= 1  # of zlib's own checksum; that of the chunk is right
    data = whole[:start] + chunk(b"IDAT", bytes(pixels)) + whole[start + 12 + length :]
    with pytest.raises(DrnError, match="image: broken image"):
        PNGS[kind][1](data)


CUT = {
    "tiff": ("TIFF", Image.fromarray(FLAT), {}),
    "tiff-lzw": ("TIFF", Image.fromarray(FLAT), {"compression": "tiff_lzw"}),
    "tiff-deflate": ("TIFF", Image.fromarray(FLAT), {"compression": "tiff_adobe_deflate"}),
    "webp": ("WEBP", Image.fromarray(FLAT), {"lossless": True}),
    "gif": ("GIF", with_palette(IDS), {}),
    "bmp": ("BMP", Image.fromarray(FLAT), {}),
    "pnm": ("PPM", Image.fromarray(FLAT), {}),
    "jpeg": ("JPEG", Image.fromarray(FLAT), {}),
    "png": ("PNG", Image.fromarray(FLAT), {}),
}


@pytest.mark.parametrize("kind", CUT)
def test_file_that_is_cut_short_anywhere_changes_no_pixel_or_is_an_error(kind: str) -> None:
    format_, image, options = CUT[kind]
    whole = encoded(image, format_, **options)
    expected = read_image(whole)
    lengths = range(0, len(whole), 1 + len(whole) // 300)
    for length in lengths:
        try:
            assert np.array_equal(read_image(whole[:length]), expected), length
        except DrnError:
            continue


@pytest.mark.parametrize("shape", [(60, 80, 3), (60, 80)], ids=["colour", "grey"])
def test_damaged_jpeg_is_read_as_pillow_reads_it_or_is_an_error(shape: tuple[int, ...]) -> None:
    # It has no checksum, and libjpeg makes something of nearly anything.
    whole, random = encoded(Image.fromarray(noise(*shape)), "JPEG"), np.random.default_rng(0)
    for number in range(60):
        data = bytearray(whole)
        for place in random.integers(len(data) // 8, len(data) - 12, 3):
            data[place] ^= 1 + number % 255
        try:
            expected = np.asarray(Image.open(BytesIO(data)).convert("RGB"))
        except (OSError, SyntaxError):
            with pytest.raises(DrnError, match="image: "):
                read_image(bytes(data))
        else:
            assert np.array_equal(read_image(bytes(data)), expected)


FOREIGN = {
    "PostScript": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nshowpage\n", "convert it"),
    "ICNS": (b"icns" + bytes(60), "convert it"),
    "JPEG 2000": (b"\0\0\0\x0cjP  \r\n\x87\n" + bytes(60), "convert it"),
    "DDS": (b"DDS " + bytes(200), "convert it"),
    "HEIC": (b"\0\0\0\x18ftypheic" + bytes(60), "convert it"),
    "AVIF": (b"\0\0\0\x18ftypavif" + bytes(60), "convert it"),
    "MP4 or QuickTime video": (b"\0\0\0\x18ftypisom" + bytes(60), "ffmpeg"),
    "Matroska or WebM video": (b"\x1aE\xdf\xa3" + bytes(60), "ffmpeg"),
    "AVI video": (b"RIFF\0\0\0\0AVI LIST" + bytes(60), "ffmpeg"),
    "PDF": (b"%PDF-1.7\n", "convert it"),
    "zip archive": (b"PK\x03\x04" + bytes(60), "unpack it"),
    "Git LFS pointer": (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
    "web page": (b"<!DOCTYPE html>\n<html><body>404", "download"),
    "SVG": (b'<?xml version="1.0"?>\n<svg/>', "convert it"),
}


@pytest.mark.parametrize("read", [read_image, read_label, read_header])
@pytest.mark.parametrize("kind", FOREIGN)
def test_file_of_another_format_is_named_and_no_reader_of_it_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, read: Callable[[Path], object]
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))  # in which Ghostscript is a trap
    (tmp_path / "gs").write_text(f"#!/bin/sh\necho > {tmp_path}/started\n")
    (tmp_path / "gs").chmod(0o755)
    content, remedy = FOREIGN[kind]
    (tmp_path / "street.png").write_bytes(content)
    with pytest.raises(DrnError) as caught:
        read(tmp_path / "street.png")
    assert caught.value.message.startswith(f"{tmp_path / 'street.png'}: {kind}")
    assert remedy in (caught.value.hint or "")
    assert "PNG, JPEG, MPO, BMP, TIFF, WebP, PNM and GIF" in (caught.value.hint or "")
    assert not (tmp_path / "started").exists()


def test_tiff_that_cannot_be_read_is_described() -> None:
    data = bytearray(encoded(Image.fromarray(FLAT), "TIFF"))
    where = data.index(struct.pack("<HHI", 277, 3, 1)) + 8  # samples a pixel
    data[where : where + 2] = struct.pack("<H", 7)
    with pytest.raises(DrnError, match=r"image: TIFF of 7 channels of 8-bit integers.*save it as"):
        read_image(bytes(data))


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
def test_several_frames_are_refused_where_one_is_meant(
    tmp_path: Path, format_: str, count: int, said: str, caplog: pytest.LogCaptureFixture
) -> None:
    path = frames(format_, tmp_path / "a.img", count)
    for read in (read_image, read_label):
        with pytest.raises(
            DrnError, match=f"a.img: {format_} of {said} frames.*save that one as a PNG"
        ):
            read(path)
    assert not caplog.records
    first = read_image(path, frames="first")
    assert np.abs(first.astype(int) - 7).max() <= 3  # WebP is not exact
    assert [record.getMessage() for record in caplog.records] == [
        f"{path}: has {said} frames; the first is read"
    ]


def test_smaller_copies_in_a_tiff_are_no_frames(tmp_path: Path) -> None:
    whole, half = Image.fromarray(IDS), Image.fromarray(IDS[::2, ::2])
    half.encoderinfo = {"tiffinfo": {254: 1}}
    whole.save(tmp_path / "a.tif", save_all=True, append_images=[half])
    with Image.open(tmp_path / "a.tif") as opened:
        assert opened.n_frames == 2
    assert np.array_equal(read_label(tmp_path / "a.tif"), IDS)


def test_image_is_read_from_an_open_file(tmp_path: Path) -> None:
    pixels = noise(5, 7, 3)
    buffer = BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    buffer.seek(0)
    assert np.array_equal(read_image(buffer), pixels)
    with pytest.raises(DrnError, match="image: not an image"):
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
    """Claim to be some side squared pixels in a hundred bytes."""

    def make(folder: Path) -> Path:
        header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
        chunks = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(100)))
        (folder / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n" + chunks + chunk(b"IEND", b""))
        return folder / "a.png"

    return make


def pipe(folder: Path) -> Path:
    os.mkfifo(folder / "a.png")
    return folder / "a.png"


def text_bomb(folder: Path) -> Path:
    """A comment that takes 100 MB when it is unpacked."""
    data = encoded(Image.fromarray(IDS))
    comment = chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(100_000_000)))
    (folder / "a.png").write_bytes(data[:33] + comment + data[33:])
    return folder / "a.png"


@pytest.mark.parametrize("read", [read_image, read_label])
@pytest.mark.parametrize(
    ("make", "message"),
    [
        (truncated("png"), "broken image"),
        (truncated("jpg"), "broken image"),
        (text, "not an image"),
        (empty, "the file is empty"),
        (lambda folder: folder / "absent.png", "no such file"),
        (lambda folder: folder, "is a folder, not a file"),
        (pipe, "is not a regular file"),
        (
            bomb(13_000),
            r"13000x13000, 169.0 million pixels; the limit is 160 million \(--max",
        ),
        (bomb(20_000), r"400.0 million pixels; the limit is 160 million \(--max-pixels 400000000"),
        (bomb(100_000), "10000.0 million pixels"),
        (text_bomb, "broken image: Decompressed data too large"),
    ],
    ids=["png", "jpeg", "text", "empty", "missing", "folder", "pipe", "13k", "20k", "100k", "zTXt"],
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


@pytest.mark.parametrize("limit", [14, 15])
def test_pixel_limit_is_a_setting_that_processes_inherit(
    monkeypatch: pytest.MonkeyPatch, limit: int
) -> None:
    data = encoded(Image.fromarray(noise(3, 5, 3)))
    monkeypatch.setenv("DRN_MAX_PIXELS", str(limit))
    if limit == 15:
        assert read_header(data).size == (5, 3)
        assert read_image(data).shape == (3, 5, 3)
        return
    for read in (read_image, read_header, lambda data: read_image(Image.open(BytesIO(data)))):
        with pytest.raises(DrnError, match="5x3"):
            read(data)
    # Pillow itself refuses 179 million.
    monkeypatch.setenv("DRN_MAX_PIXELS", str(14_000**2))
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 14_000, 14_000, 1, 0, 0, 0, 0))
    large = PNG_MAGIC + header + chunk(b"IDAT", zlib.compress(bytes(9))) + chunk(b"IEND", b"")
    before = Image.MAX_IMAGE_PIXELS
    assert read_header(large).size == (14_000, 14_000)
    with pytest.raises(DrnError, match="image: broken image"):
        read_label(large)
    monkeypatch.setenv("DRN_MAX_PIXELS", str(14_000**2 - 1))
    with pytest.raises(DrnError, match=r"14000x14000, 196\.0 million pixels"):
        read_label(large)
    assert before == Image.MAX_IMAGE_PIXELS
    monkeypatch.setenv("DRN_MAX_PIXELS", "1e9")
    with pytest.raises(DrnError, match="DRN_MAX_PIXELS: '1e9' is not a number of pixels"):
        read_image(data)


def test_large_image_that_pillow_only_warns_of_is_read(
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


def test_label_of_whole_floats_is_read_as_ids() -> None:
    assert np.array_equal(read_label(encoded(Image.fromarray(IDS.astype(np.float32)), "TIFF")), IDS)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (0.5, r"its float at x 4, y 2 is 0\.5 \(save class ids"),
        (np.nan, "its float at x 4, y 2 is nan"),
        (-9999, "label values go from -9999 to 18; class ids are 0 to 255"),
        (3e9, r"its float at x 4, y 2 is 3e\+09"),
    ],
)
def test_label_of_other_floats_is_an_error(value: float, message: str) -> None:
    values = IDS.astype(np.float32)
    values[2, 4] = value
    with pytest.raises(DrnError, match=message):
        read_label(encoded(Image.fromarray(values), "TIFF"))


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "LA"])
def test_colour_image_as_a_label_is_an_error_with_a_hint(tmp_path: Path, mode: str) -> None:
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


def test_written_image_comes_back(tmp_path: Path) -> None:
    pixels = noise(5, 7, 3)
    write_image(tmp_path / "a.png", pixels)
    assert np.array_equal(read_image(tmp_path / "a.png"), pixels)
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]


def test_overlay_mixes_colours_and_leaves_what_is_ignored() -> None:
    image = np.full((1, 3, 3), 100, np.uint8)
    classes = np.array([[0, 3, 255]], np.uint8)
    mixed = overlay(image, classes, camvid(), opacity=0.25)
    assert mixed.dtype == np.uint8
    assert mixed[0, 2].tolist() == [100, 100, 100]
    for x, number in enumerate((0, 3)):
        expected = 0.75 * 100 + 0.25 * np.array(camvid().colours[number])
        assert np.abs(mixed[0, x] - expected).max() <= 1


@pytest.mark.parametrize("shape", [(1, 1), (31, 33)])
def test_overlay_is_pillows_blend_but_for_a_level(shape: tuple[int, int]) -> None:
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


@pytest.mark.parametrize("read", [read_image, read_label, read_header])
def test_a_limit_of_open_files_is_no_broken_image(
    tmp_path: Path, read: Callable[[Path], object]
) -> None:
    path = tmp_path / "a.png"
    Image.new("L", (3, 2)).save(path)
    read(path)  # opens what is needed once
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
    try:
        with pytest.raises(DrnError) as caught:
            read(path)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert caught.value.message == f"{path}: cannot be read: Too many open files"
    assert "ulimit -n" in str(explained(caught.value).hint)

"""Damaged, truncated and oversized image files, and files of other formats."""

import os
import resource
import struct
import zlib
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from image_files import IDS, ORIENTATION, chunk, encoded, noise, saved, with_palette
from PIL import Image

from drn_cli.data.file_ends import PNG_MAGIC
from drn_cli.data.images import read_header, read_image, read_label
from drn_cli.errors import DrnError, explained


def interlaced_png(gray: np.ndarray) -> bytes:
    """Encode 8-bit gray values with Adam7 interlacing, which Pillow cannot write."""
    passes = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2))
    rows = b""
    for left, top, right, down in (*passes, (0, 1, 1, 2)):
        rows += b"".join(b"\0" + row.tobytes() for row in gray[top::down, left::right])
    header = struct.pack(">IIBBBBB", gray.shape[1], gray.shape[0], 8, 0, 0, 0, 1)
    chunks = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunks


def rotated() -> Image.Exif:
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    return exif


FLAT = noise(6, 8, 3).repeat(4, 0).repeat(4, 1)  # compresses well: most bytes are not pixels
PNGS: dict[str, tuple[Callable[[], bytes], Callable[[bytes], np.ndarray]]] = {
    "rgb": (lambda: encoded(Image.fromarray(FLAT)), read_image),
    "rgb-rotated": (lambda: encoded(Image.fromarray(FLAT), exif=rotated()), read_image),
    "palette": (lambda: encoded(with_palette(IDS)), read_image),
    "palette-label": (lambda: encoded(with_palette(IDS)), read_label),
    "16-bit": (lambda: encoded(Image.fromarray(IDS.astype(np.uint16) * 3000)), read_image),
    "16-bit-label": (lambda: encoded(Image.fromarray(IDS.astype(np.uint16))), read_label),
    "gray-label": (lambda: encoded(Image.fromarray(IDS)), read_label),
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
    pixels[-1] ^= 1  # the checksum of zlib; that of the chunk is right
    data = whole[:start] + chunk(b"IDAT", bytes(pixels)) + whole[start + 12 + length :]
    with pytest.raises(DrnError, match="image: broken image"):
        PNGS[kind][1](data)


TRUNCATED = {
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


@pytest.mark.parametrize("kind", TRUNCATED)
def test_truncated_file_changes_no_pixel_or_is_an_error(kind: str) -> None:
    format_, image, options = TRUNCATED[kind]
    whole = encoded(image, format_, **options)
    expected = read_image(whole)
    lengths = range(0, len(whole), 1 + len(whole) // 300)
    for length in lengths:
        try:
            assert np.array_equal(read_image(whole[:length]), expected), length
        except DrnError:
            continue


@pytest.mark.parametrize("shape", [(60, 80, 3), (60, 80)], ids=["colour", "gray"])
def test_damaged_jpeg_is_read_as_pillow_reads_it_or_is_an_error(shape: tuple[int, ...]) -> None:
    # JPEG has no checksum, and libjpeg decodes nearly anything.
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


UNSUPPORTED = {
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
@pytest.mark.parametrize("kind", UNSUPPORTED)
def test_unsupported_format_is_named_and_not_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, read: Callable[[Path], object]
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))  # contains a fake Ghostscript
    (tmp_path / "gs").write_text(f"#!/bin/sh\necho > {tmp_path}/started\n")
    (tmp_path / "gs").chmod(0o755)
    content, remedy = UNSUPPORTED[kind]
    (tmp_path / "street.png").write_bytes(content)
    with pytest.raises(DrnError) as caught:
        read(tmp_path / "street.png")
    assert caught.value.message.startswith(f"{tmp_path / 'street.png'}: {kind}")
    assert remedy in (caught.value.hint or "")
    assert "PNG, JPEG, MPO, BMP, TIFF, WebP, PNM and GIF" in (caught.value.hint or "")
    assert not (tmp_path / "started").exists()


def test_unsupported_tiff_is_described() -> None:
    data = bytearray(encoded(Image.fromarray(FLAT), "TIFF"))
    where = data.index(struct.pack("<HHI", 277, 3, 1)) + 8  # samples per pixel
    data[where : where + 2] = struct.pack("<H", 7)
    with pytest.raises(
        DrnError, match=r"image: TIFF with 7 channels of 8-bit integers.*save it as"
    ):
        read_image(bytes(data))


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
    """A PNG of a hundred bytes whose header claims side x side pixels."""

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
    """A PNG with a comment of 100 MB when decompressed."""
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
            r"13000x13000, 169.0 million pixels; the limit is 160 million \(use --max",
        ),
        (
            bomb(20_000),
            r"400.0 million pixels; the limit is 160 million \(use --max-pixels 400000000",
        ),
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
def test_pixel_limit_is_inherited_by_processes(monkeypatch: pytest.MonkeyPatch, limit: int) -> None:
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


def test_large_image_is_read_without_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pixels = noise(3, 5, 3)
    path = saved(tmp_path / "a.png", Image.fromarray(pixels))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)  # Pillow refuses above 20
    assert np.array_equal(read_image(path), pixels)


@pytest.mark.parametrize("read", [read_image, read_label, read_header])
def test_limit_of_open_files_is_not_reported_as_a_broken_image(
    tmp_path: Path, read: Callable[[Path], object]
) -> None:
    path = tmp_path / "a.png"
    Image.new("L", (3, 2)).save(path)
    read(path)  # opens files that stay open
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
    try:
        with pytest.raises(DrnError) as caught:
            read(path)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert caught.value.message == f"{path}: cannot be read: Too many open files"
    assert "ulimit -n" in str(explained(caught.value).hint)

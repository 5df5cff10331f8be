"""Image files for tests: noise, PNG chunks and encoded images."""

import struct
import zlib
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image

ORIENTATION = 0x0112


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(len(shape)).integers(0, 256, shape).astype(np.uint8)


def saved(path: Path, image: Image.Image, **options: object) -> Path:
    image.save(path, **options)
    return path


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def encoded(image: Image.Image, format_: str = "PNG", **options: object) -> bytes:
    file = BytesIO()
    image.save(file, format_, **options)
    return file.getvalue()


def with_palette(indices: np.ndarray) -> Image.Image:
    image = Image.fromarray(indices)
    image.putpalette(noise(256, 3).tobytes())
    return image


IDS = noise(24, 32) % 19

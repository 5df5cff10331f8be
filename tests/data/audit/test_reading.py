from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from drn_cli.data.audit import reading
from drn_cli.data.audit.reading import DataFile, read_file_info, read_file_infos


def test_whatever_a_decoder_raises_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(path: Path) -> None:
        raise ZeroDivisionError("by a header")

    monkeypatch.setattr(reading, "read_image", fail)
    fault = read_file_info(DataFile(tmp_path / "a.png")).fault
    assert fault is not None
    assert (fault.severity, fault.kind) == ("error", "unreadable")
    assert fault.message == "broken image: ZeroDivisionError: by a header"


def test_images_of_the_same_bytes_in_another_shape_differ(tmp_path: Path) -> None:
    for name, shape in (("a", (2, 6, 3)), ("b", (6, 2, 3))):
        Image.fromarray(np.zeros(shape, np.uint8)).save(tmp_path / f"{name}.png")
    assert (
        read_file_info(DataFile(tmp_path / "a.png")).digest
        != read_file_info(DataFile(tmp_path / "b.png")).digest
    )


def test_palette_label_is_counted_by_its_indices(tmp_path: Path) -> None:
    image = Image.fromarray(np.array([[0, 2, 2], [255, 2, 0]], np.uint8))
    image.putpalette(bytes(range(256)) * 3)
    image.save(tmp_path / "a.png")
    seen = read_file_info(DataFile(tmp_path / "a.png", label=True))
    assert (seen.size, seen.pixels) == ((3, 2), {0: 2, 2: 3, 255: 1})


def test_truncated_colour_label_is_unreadable(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    noise = np.random.default_rng(0).integers(0, 256, (9, 9, 3)).astype(np.uint8)
    Image.fromarray(noise).save(path)
    path.write_bytes(path.read_bytes()[:150])
    fault = read_file_info(DataFile(path, label=True)).fault
    assert fault is not None
    assert fault.kind == "unreadable"


def test_nothing_to_read_starts_nothing() -> None:
    assert list(read_file_infos([], None)) == []

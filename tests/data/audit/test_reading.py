from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from drn_cli.data.audit.reading import DataFile, read_file_info, read_file_infos


@pytest.mark.parametrize("label", [False, True])
def test_broken_file_is_a_finding(tmp_path: Path, label: bool) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(b"")
    fault = read_file_info(DataFile(path, label)).fault
    assert fault is not None
    assert (fault.severity, fault.kind, fault.file) == ("error", "unreadable", path)
    assert fault.message == "the file is empty"


def test_digest_depends_on_the_shape(tmp_path: Path) -> None:
    for name, shape in (("a", (2, 6, 3)), ("b", (6, 2, 3))):
        Image.fromarray(np.zeros(shape, np.uint8)).save(tmp_path / f"{name}.png")
    assert (
        read_file_info(DataFile(tmp_path / "a.png")).digest
        != read_file_info(DataFile(tmp_path / "b.png")).digest
    )


def test_palette_label_is_counted_by_index(tmp_path: Path) -> None:
    image = Image.fromarray(np.array([[0, 2, 2], [255, 2, 0]], np.uint8))
    image.putpalette(bytes(range(256)) * 3)
    image.save(tmp_path / "a.png")
    seen = read_file_info(DataFile(tmp_path / "a.png", label=True))
    assert (seen.size, seen.pixels) == ((3, 2), {0: 2, 2: 3, 255: 1})


def test_truncated_color_label_is_unreadable(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    noise = np.random.default_rng(0).integers(0, 256, (9, 9, 3)).astype(np.uint8)
    Image.fromarray(noise).save(path)
    path.write_bytes(path.read_bytes()[:150])
    fault = read_file_info(DataFile(path, label=True)).fault
    assert fault is not None
    assert fault.kind == "unreadable"


def test_no_files_to_read() -> None:
    assert list(read_file_infos([], None)) == []

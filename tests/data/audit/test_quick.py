from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from drn_cli.data.audit.quick import ENOUGH, HEADERS, WHOLE, quick_check, spaced
from drn_cli.data.folders import ListDataset, Sample

ORIENTATION = 0x0112


@pytest.fixture
def samples(folder: Path) -> list[Sample]:
    return ListDataset.open(folder).samples("train")


def label_of(sample: Sample) -> Path:
    assert sample.label is not None
    return sample.label


def save(path: Path, pixels: np.ndarray) -> Path:
    Image.fromarray(pixels).save(path)
    return path


def test_valid_samples_have_no_findings(samples: list[Sample]) -> None:
    assert quick_check(samples, 3) == []
    assert quick_check([Sample(sample.image, None) for sample in samples], 3) == []
    assert quick_check([], 3) == []


def test_decodes_only_some_labels(samples: list[Sample]) -> None:
    save(label_of(samples[1]), np.full((6, 8), 200, np.uint8))
    many = [samples[0]] * 2 * WHOLE
    many[1] = samples[1]
    assert quick_check(many, 3) == []  # the header of the invalid label is valid
    many[0] = samples[1]
    assert [finding.kind for finding in quick_check(many, 3)] == ["label-values"]


def test_invalid_value_is_an_error(samples: list[Sample]) -> None:
    path = save(label_of(samples[2]), np.full((6, 8), 200, np.uint8))
    (finding,) = quick_check(samples, 3)
    assert (finding.severity, finding.kind) == ("error", "label-values")
    error = finding.error()
    assert error.message == f"{path}: has the value 200 (48 px); labels are 0 to 2, or 255 for void"
    assert error.hint == finding.hint


def test_label_of_another_size(samples: list[Sample]) -> None:
    path = save(label_of(samples[1]), np.zeros((8, 6), np.uint8))
    (finding,) = quick_check(samples, 3)
    assert (finding.kind, finding.file) == ("size", path)
    assert finding.message == f"is 6x8, its image {samples[1].image} is 8x6"


def test_color_label(samples: list[Sample]) -> None:
    path = save(label_of(samples[1]), np.random.default_rng(0).integers(0, 9, (6, 8, 3), np.uint8))
    (finding,) = quick_check(samples, 3)
    assert (finding.kind, finding.file) == ("colour-label", path)


@pytest.mark.parametrize("kind", ["image", "label"])
@pytest.mark.parametrize("content", [b"", b"text"])
def test_file_that_is_not_an_image(samples: list[Sample], kind: str, content: bytes) -> None:
    path = getattr(samples[3], kind)
    path.write_bytes(content)
    (finding,) = quick_check(samples, 3)
    assert (finding.kind, finding.file) == ("unreadable", path)


def test_truncated_label_with_a_valid_header_is_found(samples: list[Sample]) -> None:
    path = label_of(samples[3])
    path.write_bytes(path.read_bytes()[:50])
    (finding,) = quick_check(samples, 3)
    assert (finding.kind, finding.file) == ("unreadable", path)


@pytest.mark.parametrize("suffix", ["jpg", "png", "tif"])
def test_image_rotated_by_exif_fits_its_upright_label(
    samples: list[Sample], tmp_path: Path, suffix: str
) -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    path = tmp_path / f"turned.{suffix}"
    Image.fromarray(np.zeros((8, 6, 3), np.uint8)).save(path, exif=exif)
    assert quick_check([Sample(path, samples[0].label)], 3) == []


def test_orientation_after_the_pixels_of_a_png_is_found(
    samples: list[Sample], tmp_path: Path
) -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    path = tmp_path / "turned.png"
    Image.fromarray(np.zeros((8, 6, 3), np.uint8)).save(path, exif=exif)
    data = path.read_bytes()
    start = data.index(b"eXIf") - 4
    end = start + 12 + int.from_bytes(data[start : start + 4], "big")
    last = data.index(b"IEND") - 4
    path.write_bytes(data[:start] + data[end:last] + data[start:end] + data[last:])
    assert quick_check([Sample(path, samples[0].label)], 3) == []


def test_stops_after_enough_findings(samples: list[Sample]) -> None:
    save(label_of(samples[0]), np.zeros((2, 2), np.uint8))
    assert len(quick_check([samples[0]] * 50, 3)) == ENOUGH


def test_void_label_is_a_warning(samples: list[Sample]) -> None:
    save(label_of(samples[0]), np.full((6, 8), 255, np.uint8))
    assert [finding.severity for finding in quick_check(samples, 3)] == ["warning"]


def test_spaced_items_include_both_ends_without_repetition() -> None:
    assert spaced(range(5), 9) == [0, 1, 2, 3, 4]
    for count in (WHOLE, HEADERS):
        chosen = spaced(range(5000), count)
        assert (len(set(chosen)), chosen[0], chosen[-1]) == (count, 0, 4999)
        steps = {b - a for a, b in pairwise(chosen)}
        assert max(steps) - min(steps) <= 1

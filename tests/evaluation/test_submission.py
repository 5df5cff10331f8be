"""Writing and checking submissions to the Cityscapes server."""

import errno
import io
import os
import struct
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from drn_cli.data.classes import cityscapes, cityscapes_train_ids
from drn_cli.data.folders import Sample
from drn_cli.distributed.group import Group
from drn_cli.errors import DrnError, FaultError
from drn_cli.evaluation import submission
from drn_cli.evaluation.label_maps import MapReader
from drn_cli.evaluation.segmentation import compare
from drn_cli.evaluation.submission import (
    Submission,
    check_submission,
    write_submission,
)

FRAMES = ("berlin_000000_000019", "berlin_000001_000019", "bonn_000000_000019")
SMALL = (64, 32)
TRAIN_IDS = cityscapes_train_ids()
LABEL_IDS = np.array([int(np.flatnonzero(n == TRAIN_IDS)[0]) for n in range(19)])


@pytest.fixture(autouse=True)
def few(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Reduce the test set to three images, which are small unless a test uses `real_size`."""
    monkeypatch.setattr(submission, "TEST_CITIES", {"berlin": 2, "bonn": 1})
    if "real_size" not in request.fixturenames:
        monkeypatch.setattr(submission, "SIZE", SMALL)


@pytest.fixture
def real_size() -> tuple[int, int]:
    return submission.SIZE


def png(image: Image.Image, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG", **options)
    return file.getvalue()


def filled(value: int, size: tuple[int, int] = SMALL) -> bytes:
    """Draw a map of road whose first row has another id."""
    values = np.full(size[::-1], 7, np.uint8)
    values[0] = value
    return png(Image.fromarray(values))


def zipped(path: Path, entries: Mapping[str, bytes] | Sequence[tuple[str, bytes]]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in entries.items() if isinstance(entries, Mapping) else entries:
            archive.writestr(zipfile.ZipInfo(name), content)
    return path


def good(size: tuple[int, int] = SMALL) -> dict[str, bytes]:
    return {f"{frame}.png": filled(26, size) for frame in FRAMES}


def said(found: Submission, severity: str = "error") -> list[str]:
    return [finding.message for finding in found.findings if finding.severity == severity]


@pytest.fixture
def maps(tmp_path: Path) -> dict[str, Path]:
    """Index maps of train ids with some void, not in the order of their names."""
    random, paths = np.random.default_rng(0), {}
    for frame in reversed(FRAMES):
        values = random.choice([*range(19), 255], SMALL[::-1]).astype(np.uint8)
        paths[frame] = tmp_path / "index" / f"{frame}_leftImg8bit.png"
        paths[frame].parent.mkdir(exist_ok=True)
        Image.fromarray(values).save(paths[frame])
    return paths


def read(content: bytes) -> tuple[str, np.ndarray]:
    with Image.open(io.BytesIO(content)) as image:
        return image.mode, np.asarray(image)


def test_test_set_has_1525_images(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    assert sum(submission.TEST_CITIES.values()) == 1525
    assert submission.SIZE == (2048, 1024)


def test_zip_has_one_map_of_label_ids_per_frame(tmp_path: Path, maps: dict[str, Path]) -> None:
    progress = []
    write_submission(tmp_path / "a.zip", maps, lambda *done: progress.append(done))
    with zipfile.ZipFile(tmp_path / "a.zip") as archive:
        assert archive.namelist() == [f"{frame}_labelIds.png" for frame in FRAMES]
        for frame in FRAMES:
            mode, values = read(archive.read(f"{frame}_labelIds.png"))
            _, train_ids = read(maps[frame].read_bytes())
            assert mode == "L"
            expected = np.append(LABEL_IDS, 0)[np.minimum(train_ids, 19)]  # void: unlabeled
            assert np.array_equal(values, expected)
    assert progress == [(1, 3), (2, 3), (3, 3)]


def test_equal_predictions_give_equal_files(tmp_path: Path, maps: dict[str, Path]) -> None:
    write_submission(tmp_path / "a.zip", maps)
    write_submission(tmp_path / "b.zip", dict(reversed(maps.items())))
    assert (tmp_path / "a.zip").read_bytes() == (tmp_path / "b.zip").read_bytes()
    with zipfile.ZipFile(tmp_path / "a.zip") as archive:  # not the time of writing
        assert {info.date_time for info in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}


def test_more_maps_than_are_encoded_ahead(tmp_path: Path, maps: dict[str, Path]) -> None:
    many = {f"berlin_{n:06}_000019": maps[FRAMES[n % 3]] for n in range(150)}
    write_submission(tmp_path / "a.zip", many)
    with zipfile.ZipFile(tmp_path / "a.zip") as archive:
        assert archive.namelist() == [f"{frame}_labelIds.png" for frame in many]
        assert len({archive.read(name) for name in archive.namelist()[1::3]}) == 1


@pytest.mark.parametrize("spoil", [Path.unlink, lambda path: path.write_bytes(b"no image")])
def test_unreadable_map_keeps_the_earlier_zip(
    tmp_path: Path, maps: dict[str, Path], spoil: Any
) -> None:
    (tmp_path / "a.zip").write_text("earlier")
    spoil(maps[FRAMES[1]])
    with pytest.raises(DrnError, match=FRAMES[1]):
        write_submission(tmp_path / "a.zip", maps)
    assert (tmp_path / "a.zip").read_text() == "earlier"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.zip", "index"]


def test_official_scorer_gives_the_same_scores(
    tmp_path: Path, maps: dict[str, Path], official_scorer: Any
) -> None:
    write_submission(tmp_path / "a.zip", maps)
    with zipfile.ZipFile(tmp_path / "a.zip") as archive:
        archive.extractall(tmp_path / "results")
    random, samples = np.random.default_rng(1), []
    for frame, path in maps.items():
        # Half of the pixels are correct; some labels are not evaluated.
        _, predicted = read(path.read_bytes())
        label = np.append(LABEL_IDS, 0)[np.minimum(predicted, 19)]
        label = np.where(
            random.random(label.shape) < 0.5, label, random.integers(0, 34, label.shape)
        )
        truth = tmp_path / "gtFine" / f"{frame}_gtFine_labelIds.png"
        truth.parent.mkdir(exist_ok=True)
        Image.fromarray(label.astype(np.uint8)).save(truth)
        samples.append(Sample(path, truth))
    alone = Group(0, 1, torch.device("cpu"))
    reader = MapReader(19, labels="label-ids", predictions="train-ids")
    ours = compare(samples, 19, alone, read=reader).to_json(cityscapes())
    official = official_scorer(tmp_path / "results", tmp_path / "gtFine")
    assert 0.2 < ours["miou"] < 0.8
    assert ours["miou"] == pytest.approx(official["averageScoreClasses"], abs=1e-12)
    assert ours["iou"] == {
        name: pytest.approx(official["classScores"][name], abs=1e-12) for name in ours["iou"]
    }


def test_written_zip_passes_the_check(tmp_path: Path, maps: dict[str, Path]) -> None:
    for path in maps.values():  # without void, which is a warning
        values = read(path.read_bytes())[1] % 19
        Image.fromarray(values).save(path)
    write_submission(tmp_path / "a.zip", maps)
    progress = []
    for frames in (None, FRAMES):
        found = check_submission(tmp_path / "a.zip", frames, lambda *done: progress.append(done))
        assert found == Submission(3, (tmp_path / "a.zip").stat().st_size, ())
        assert found.errors == []
    assert progress == [(1, 3), (2, 3), (3, 3)] * 2


def test_maps_of_another_size(tmp_path: Path, real_size: tuple[int, int]) -> None:
    found = check_submission(zipped(tmp_path / "a.zip", good(real_size)))
    assert found.findings == ()
    small = check_submission(zipped(tmp_path / "b.zip", good() | {"bonn_000000_000019.png": b""}))
    assert said(small)[:2] == [f"{frame}.png: size is 64x32, not 2048x1024" for frame in FRAMES[:2]]


@pytest.mark.parametrize(
    "name",
    ["bonn_000000_000019.png", "bonn_000000_000019_leftImg8bit.png", "x/bonn_000000_000019_a.png"],
)
def test_names_may_have_a_folder_and_a_suffix(tmp_path: Path, name: str) -> None:
    entries = [*list(good().items())[:2], ("x/", b""), (name, filled(26))]
    assert check_submission(zipped(tmp_path / "a.zip", entries)).findings == ()


def test_palette_maps_are_accepted(tmp_path: Path) -> None:
    """The official scorer reads palette indices too."""
    image = Image.fromarray(np.full(SMALL[::-1], 7, np.uint8))
    image.putpalette(cityscapes().palette())
    entries = good() | {f"{FRAMES[0]}.png": png(image)}
    assert check_submission(zipped(tmp_path / "a.zip", entries)).findings == ()


def bomb(side: int) -> bytes:
    """Return a PNG of a hundred bytes whose header claims a very large size."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    chunks = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(100)))
    return b"\x89PNG\r\n\x1a\n" + chunks + chunk(b"IEND", b"")


def grey(*shape: int, kind: type = np.uint8) -> bytes:
    return png(Image.fromarray(np.full(shape, 7, kind)))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (filled(26)[:60], "cannot be read"),
        (b"no image", "cannot be read"),
        (b"", "cannot be read"),
        (grey(64, 32), "is 32x64, not 64x32"),
        (grey(16, 32), "is 32x16, not 64x32"),
        (grey(32, 64, 3), "pixel mode is RGB,"),
        (grey(32, 64, 4), "pixel mode is RGBA,"),
        (grey(32, 64, kind=np.uint16), "pixel mode is I;16,"),
        (png(Image.new("1", SMALL)), "pixel mode is 1,"),
        (filled(34), "value 34 is not a label id"),
        (filled(255), "value 255 is not a label id"),
        (bytes(17 << 20), "17,825,792 bytes are too large for a label map"),
        (bomb(10_000), "is 10000x10000"),
        (bomb(20_000), "400.0 million pixels"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_bad_map_is_an_error_with_its_name(tmp_path: Path, content: bytes, message: str) -> None:
    name = f"{FRAMES[1]}.png"
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for entry, data in (good() | {name: content}).items():
            archive.writestr(entry, data)
    found = check_submission(tmp_path / "a.zip")
    (error,) = said(found)
    assert error.startswith(f"{name}: ") and message in error
    assert "\n" not in error
    assert found.images == 3


@pytest.mark.parametrize(
    "name",
    [
        f"__MACOSX/._{FRAMES[0]}.png",
        ".DS_Store",
        "readme.txt",
        f"{FRAMES[0]}.jpg",
        f"{FRAMES[0]}.PNG",
        "map.png",
        "000000_000019.png",
        "berlin_00_000019.png",
        "berlin_000000_0000190.png",
    ],
)
def test_file_with_another_name_is_an_error(tmp_path: Path, name: str) -> None:
    found = check_submission(zipped(tmp_path / "a.zip", good() | {name: filled(26)}))
    assert said(found) == [f"{name}: not named CITY_SEQUENCE_FRAME*.png"]
    assert found.images == 3


def test_missing_and_unknown_frames(tmp_path: Path) -> None:
    entries = good()
    entries["ulm_000000_000019.png"] = entries.pop(f"{FRAMES[2]}.png")
    path = zipped(tmp_path / "a.zip", entries)
    (counted,) = said(check_submission(path))
    assert counted == (
        "not one map per test image: bonn has 0 instead of 1, ulm has 1 instead of 0"
    )
    assert said(check_submission(path, FRAMES)) == [
        "bonn_000000_000019: missing",
        "ulm_000000_000019: not one of the 3 images",
    ]
    assert said(check_submission(path, [*FRAMES[:2], "ulm_000000_000019"])) == []


def test_repeated_frame_is_an_error(tmp_path: Path) -> None:
    entries = [*good().items(), (f"again/{FRAMES[0]}_x.png", filled(26))]
    for frames in (None, FRAMES):
        found = check_submission(zipped(tmp_path / "a.zip", entries), frames)
        assert said(found) == [
            f"again/{FRAMES[0]}_x.png and {FRAMES[0]}.png are both of frame {FRAMES[0]}"
        ]


def test_train_ids_are_an_error(tmp_path: Path, maps: dict[str, Path]) -> None:
    entries = {}
    for frame, path in maps.items():
        entries[f"{frame}.png"] = png(Image.fromarray(read(path.read_bytes())[1] % 19))
    found = check_submission(zipped(tmp_path / "a.zip", entries))
    assert said(found) == ["the maps hold train ids (0 to 18) instead of label ids"]
    assert said(found, "warning") == []


def test_ids_that_are_not_evaluated_are_a_warning(tmp_path: Path) -> None:
    entries = good() | {f"{FRAMES[0]}.png": filled(0), f"{FRAMES[1]}.png": filled(29)}
    found = check_submission(zipped(tmp_path / "a.zip", entries))
    assert found.errors == []
    (warning,) = said(found, "warning")
    assert warning.endswith("[0, 29]")
    assert found.to_json() == {
        "images": 3,
        "bytes": (tmp_path / "a.zip").stat().st_size,
        "findings": [{"severity": "warning", "message": warning}],
    }


def test_void_only_is_not_taken_for_train_ids(tmp_path: Path) -> None:
    entries = dict.fromkeys(good(), png(Image.new("L", SMALL)))
    found = check_submission(zipped(tmp_path / "a.zip", entries))
    assert found.errors == []
    assert len(said(found, "warning")) == 1


def test_empty_zip_lacks_all_maps(tmp_path: Path) -> None:
    found = check_submission(zipped(tmp_path / "a.zip", {}), FRAMES)
    assert len(said(found)) == 3
    assert found.images == 0


def at(content: bytes, signature: bytes, offset: int, value: bytes) -> bytes:
    """Overwrite bytes of the last header with a signature in a zip file."""
    place = content.rindex(signature) + offset
    return content[:place] + value + content[place + len(value) :]


CENTRAL = b"PK\x01\x02"  # signature of a header in the central directory


@pytest.mark.parametrize(
    ("method", "message"),
    [("stored", "cannot be unpacked"), ("deflated", ""), ("bzip2", ""), ("lzma", "")],
)
def test_damaged_map_is_an_error(tmp_path: Path, method: str, message: str) -> None:
    path, last = tmp_path / "a.zip", f"{FRAMES[2]}.png"
    with zipfile.ZipFile(path, "w", getattr(zipfile, f"ZIP_{method.upper()}")) as archive:
        for name, content in good().items():
            archive.writestr(name, content)
        data = archive.getinfo(last).header_offset + 30 + len(last)
    content = path.read_bytes()
    path.write_bytes(content[: data + 20] + b"damaged" + content[data + 27 :])
    (error,) = said(check_submission(path))
    assert error.startswith(f"{last}: cannot be ") and message in error


def test_encrypted_map_is_an_error(tmp_path: Path) -> None:
    path = zipped(tmp_path / "a.zip", good())
    path.write_bytes(at(path.read_bytes(), CENTRAL, 8, b"\x01"))
    assert said(check_submission(path)) == [f"{FRAMES[2]}.png: encrypted"]


def test_map_with_a_wrong_size_in_its_header_is_an_error(tmp_path: Path) -> None:
    path = zipped(tmp_path / "a.zip", good())
    path.write_bytes(at(path.read_bytes(), CENTRAL, 20, 2 * struct.pack("<I", 1 << 20)))
    (error,) = said(check_submission(path))
    assert error.startswith(f"{FRAMES[2]}.png: cannot be unpacked")


def damaged(content: bytes) -> dict[str, bytes]:
    return {
        "text": b"no zip file",
        "empty": b"",
        "cut": content[: len(content) // 2],
        "too new": at(content, CENTRAL, 6, b"\xff"),
        "a name that is not UTF-8": at(at(content, CENTRAL, 9, b"\x08"), CENTRAL, 46, b"\xff"),
    }


@pytest.mark.parametrize("kind", ["text", "empty", "cut", "too new", "a name that is not UTF-8"])
def test_file_that_is_not_a_zip_file_is_an_error_in_one_line(tmp_path: Path, kind: str) -> None:
    path = zipped(tmp_path / "a.zip", good())
    path.write_bytes(damaged(path.read_bytes())[kind])
    with pytest.raises(DrnError, match=r"a\.zip: not a zip file, or damaged") as caught:
        check_submission(path)
    assert "\n" not in str(caught.value)


def test_disk_failure_is_not_reported_as_a_damaged_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    path = zipped(tmp_path / "a.zip", good())
    for method in ("__init__", "read"):
        with monkeypatch.context() as disk, pytest.raises(FaultError) as caught:
            disk.setattr(zipfile.ZipFile, method, fail)
            check_submission(path)
        assert str(caught.value).startswith(f"{path}: cannot be read: Input/output error (the disk")


def test_missing_file_and_folder_are_errors(tmp_path: Path) -> None:
    with pytest.raises(DrnError, match=r"absent\.zip: no such file"):
        check_submission(tmp_path / "absent.zip")
    with pytest.raises(DrnError, match="a folder, not a zip file"):
        check_submission(tmp_path)

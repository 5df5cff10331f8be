"""Checking the images of a submission before prediction."""

import struct
import zlib
from pathlib import Path

import pytest
from PIL import Image

from drn_cli.errors import DrnError
from drn_cli.evaluation import submission
from drn_cli.evaluation.submission import check_inputs, frame_id

NAMES = ("berlin_000000_000019", "berlin_000001_000019", "bonn_000000_000019")


@pytest.fixture(autouse=True)
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reduce the test set to three small images."""
    monkeypatch.setattr(submission, "TEST_CITIES", {"berlin": 2, "bonn": 1})
    monkeypatch.setattr(submission, "SIZE", (64, 32))


def draw(folder: Path, *names: str, size: tuple[int, int] = (64, 32)) -> list[str]:
    paths = [folder / f"{name}_leftImg8bit.png" for name in names]
    for path in paths:
        Image.new("RGB", size).save(path)
    return [str(path) for path in paths]


@pytest.mark.parametrize(
    ("name", "frame"),
    [
        ("berlin_000000_000019_leftImg8bit.png", "berlin_000000_000019"),
        ("deep/er/bad-honnef_000001_000002.png", "bad-honnef_000001_000002"),
        ("berlin_000000_000019", "berlin_000000_000019"),
        ("berlin_000000_000019/a.png", None),
        ("x_berlin_000000_000019.png", None),
        ("Berlin_000000_000019.png", None),
        ("berlin_00000_000019.png", None),
        ("berlin_000000_0000190.png", None),
        ("berlin.png", None),
        ("-", None),
    ],
)
def test_frame_id(name: str, frame: str | None) -> None:
    assert frame_id(name) == frame


def test_complete_test_set_is_accepted(tmp_path: Path) -> None:
    check_inputs(draw(tmp_path, *NAMES), partial=False)


def test_fewer_images_and_other_cities_need_partial(tmp_path: Path) -> None:
    paths = draw(tmp_path, NAMES[0], "ulm_000000_000019")
    check_inputs(paths, partial=True)
    with pytest.raises(DrnError) as caught:
        check_inputs(paths, partial=False)
    assert caught.value.message == (
        "not the images of the Cityscapes test set: berlin has 1 instead of 2, "
        "bonn has 0 instead of 1, ulm has 1 instead of 0"
    )
    assert "--partial" in str(caught.value.hint)


@pytest.mark.parametrize("partial", [False, True])
def test_wrong_name_is_an_error(tmp_path: Path, partial: bool) -> None:
    paths = draw(tmp_path, *NAMES, "street")
    with pytest.raises(DrnError, match=r"street_leftImg8bit\.png: not a name of Cityscapes"):
        check_inputs(paths, partial=partial)


@pytest.mark.parametrize("partial", [False, True])
def test_wrong_size_is_an_error(tmp_path: Path, partial: bool) -> None:
    paths = draw(tmp_path, *NAMES)
    draw(tmp_path, NAMES[1], size=(32, 64))
    with pytest.raises(DrnError, match=rf"{NAMES[1]}_leftImg8bit\.png: size is 32x64, not 64x32"):
        check_inputs(paths, partial=partial)


def test_repeated_image_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "again").mkdir()
    paths = draw(tmp_path, *NAMES) + draw(tmp_path / "again", NAMES[0])
    with pytest.raises(DrnError, match=f"are both images of frame {NAMES[0]}") as caught:
        check_inputs(paths, partial=True)
    assert paths[0] in caught.value.message and paths[3] in caught.value.message


def bomb(side: int) -> bytes:
    """Return a PNG of a hundred bytes whose header claims a very large size."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        check = struct.pack(">I", zlib.crc32(kind + data))
        return struct.pack(">I", len(data)) + kind + data + check

    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    chunks = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(100)))
    return b"\x89PNG\r\n\x1a\n" + chunks + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"no image", "not an image"),
        (None, "no such file"),
        (bomb(10_000), "is 10000x10000, not 64x32"),
        (bomb(20_000), "400.0 million pixels"),
    ],
    ids=["text", "missing", "large", "bomb"],
)
def test_unreadable_image_is_an_error(tmp_path: Path, content: bytes | None, message: str) -> None:
    paths = draw(tmp_path, *NAMES)
    if content is None:
        Path(paths[1]).unlink()
    else:
        Path(paths[1]).write_bytes(content)
    with pytest.raises(DrnError, match=message) as caught:
        check_inputs(paths, partial=False)
    assert caught.value.message.startswith(f"{paths[1]}: ")
    assert "\n" not in caught.value.message

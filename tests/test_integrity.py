"""Checksums and limits of archives."""

import errno
import io
import os
import random
import warnings
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from drn_cli.errors import DrnError
from drn_cli.integrity import check_zip, crc32, damaged, recorded_digest

NAME = Path("weights.pth")


def archive(records: dict[str, bytes], kind: int = zipfile.ZIP_STORED) -> bytes:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", kind) as opened:
        for name, content in records.items():
            opened.writestr(name, content)
    return made.getvalue()


def twice() -> bytes:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as opened, warnings.catch_warnings(action="ignore"):
        opened.writestr("a", b"first")
        opened.writestr("a", b"second")
    return made.getvalue()


def overlapping() -> bytes:
    """Return an archive whose index lists its only record repeatedly."""
    content = archive({"a000": b"x" * 4000})
    start = content.rindex(b"PK\x01\x02")
    end = content.rindex(b"PK\x05\x06")
    entry = content[start:end]
    entries = b"".join(entry.replace(b"a000", b"a%03d" % n) for n in range(1000))
    tail = bytearray(content[end:])
    tail[8:12] = (1000).to_bytes(2, "little") * 2
    tail[12:16] = len(entries).to_bytes(4, "little")
    return content[:start] + entries + bytes(tail)


def test_crc32_of_chunks() -> None:
    chunks = [b"one", memoryview(b"two"), bytearray(b"three")]
    assert crc32(chunks) == f"{zlib.crc32(b'onetwothree'):08x}"
    assert crc32([]) == "00000000"


def damages(content: bytes, count: int) -> Iterator[bytes]:
    """Flip bits, truncate and zero bytes at random positions."""
    draw = random.Random(0)
    for number in range(count):
        spoilt = bytearray(content)
        place = draw.randrange(len(content))
        if number % 3 == 0:
            spoilt[place] ^= 1 << draw.randrange(8)
        elif number % 3 == 1:
            del spoilt[place:]
        else:
            spoilt[place : place + 64] = bytes(len(spoilt[place : place + 64]))
        if spoilt != content:
            yield bytes(spoilt)


@pytest.mark.parametrize("kind", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_LZMA])
def test_detects_damage_of_records(kind: int) -> None:
    records = {f"data/{n}": random.Random(n).randbytes(300) for n in range(4)}
    content = archive(records, kind)
    assert check_zip(io.BytesIO(content), NAME)
    for spoilt in damages(content, 300):
        try:
            check_zip(io.BytesIO(spoilt), NAME)
        except DrnError:
            continue
        with zipfile.ZipFile(io.BytesIO(spoilt)) as opened:
            assert {name: opened.read(name) for name in opened.namelist()} == records


def test_an_archive_without_checksums_is_not_verified(tmp_path: Path) -> None:
    path = tmp_path / "x.pt"
    torch.save({"weight": torch.ones(9)}, path)
    assert check_zip(path, path, stored=True)
    torch.serialization.set_crc32_options(False)
    try:
        torch.save({"weight": torch.ones(9)}, path)
    finally:
        torch.serialization.set_crc32_options(True)
    assert not check_zip(path, path, stored=True)


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (MemoryError(), "out of memory"),
        (RuntimeError("[enforce fail at alloc_cpu.cpp:124] err == 0. DefaultCPUAllocator: can't "
                      "allocate memory: you tried to allocate 9 bytes."), "out of memory"),
        (OSError(errno.EIO, "Input/output error"), "cannot be read: Input/output error"),
        (RuntimeError("[enforce fail at inline_container.cc:197] . file is not one. Or so"),
         "damaged or cut short: file is not one"),
    ],
)  # fmt: skip
def test_system_errors_are_not_damage(error: Exception, message: str) -> None:
    assert str(damaged(NAME, error)).startswith(f"{NAME}: {message} (")


def test_a_pipe_is_not_a_digest_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "x.pth.sha256")
    assert recorded_digest(tmp_path / "x.pth") is None


@pytest.mark.parametrize(
    ("content", "stored", "message"),
    [
        (archive({"a": bytes(100)}, zipfile.ZIP_DEFLATED), True, "'a' is compressed"),
        (
            archive({"a": bytes(100 << 20)}, zipfile.ZIP_DEFLATED),
            False,
            r"refused: an archive of 1\d\d,\d+ bytes that unpacks to 104,857,600",
        ),
        (overlapping(), True, "that unpacks to 4,000,000"),
        (twice(), False, "two records of the same name"),
        (archive({f"{n}": b"" for n in range(50_001)}), False, "50,001 records"),
        (b"PK\x03\x04 and no more", False, "damaged or cut short"),
    ],
    ids=["compressed", "bomb", "overlap", "one name", "records", "no archive"],
)
def test_refuses_archives(content: bytes, stored: bool, message: str) -> None:
    with pytest.raises(DrnError, match=message) as caught:
        check_zip(io.BytesIO(content), NAME, stored=stored)
    assert str(caught.value).startswith("weights.pth: ")

"""Damaged weight files are refused, or read with the original content."""

import hashlib
import logging
import random
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from drn_cli.errors import DrnError
from drn_cli.export.weights import write_original
from drn_cli.networks import create_model
from drn_cli.networks.checkpoints import Checkpoint, encode, read_checkpoint

DAMAGES = 60
TENSORS = {f"layer.{n}.weight": torch.arange(40.0).reshape(8, 5) + n for n in range(3)} | {
    "layer.0.count": torch.tensor(3),
    "layer.0.half": torch.ones(7).to(torch.bfloat16),
    "layer.0.empty": torch.ones(0),
}
STRINGS = {"licence": "CC0", "mean": "[0.4, 0.4, 0.4]", "std": "[0.2, 0.2, 0.2]"}


def by_drn(path: Path) -> None:
    path.write_bytes(encode(TENSORS, STRINGS, path))


def by_torch(path: Path) -> None:
    torch.save({"state_dict": TENSORS, **STRINGS}, path)


def by_training(path: Path) -> None:
    """Write a file like `last.pt`."""
    state = {"state": {0: {"exp_avg": torch.ones(4)}}}
    torch.save({**STRINGS, "model": TENSORS, "optimiser": state, "progress": {"epoch": 3}}, path)


def by_archive(path: Path) -> None:
    inner = path.with_suffix(".inner")
    by_torch(inner)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.write(inner, "x.pth")


def by_publisher(path: Path) -> None:
    torch.save(TENSORS, path, _use_new_zipfile_serialization=False)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    path.with_name(f"{path.name}.sha256").write_text(f"{digest}  {path.name}\n")


WRITERS = [by_drn, by_torch, by_training, by_archive, by_publisher]


def damages(content: bytes) -> Iterator[bytes]:
    """Flip bits, truncate, and zero bytes, a third each, at random positions."""
    draw = random.Random(content[:64])
    for number in range(DAMAGES):
        spoilt, place = bytearray(content), draw.randrange(len(content))
        if number % 3 == 0:
            spoilt[place] ^= 1 << draw.randrange(8)
        elif number % 3 == 1:
            del spoilt[place:]
        else:
            end = min(len(content), place + draw.choice((8, 64, 512)))
            spoilt[place:end] = bytes(end - place)
        if spoilt != content:
            yield bytes(spoilt)


def same(found: Checkpoint, whole: Checkpoint) -> bool:
    return (
        found.metadata == whole.metadata
        and found.tensors.keys() == whole.tensors.keys()
        and all(equal(found.tensors[key], value) for key, value in whole.tensors.items())
    )


def equal(one: Tensor, other: Tensor) -> bool:
    return one.dtype == other.dtype and torch.equal(one, other)


@pytest.mark.parametrize("write", WRITERS)
def test_damage_is_never_used(
    tmp_path: Path, write: Callable[[Path], None], caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "weights"
    write(path)
    whole = read_checkpoint(path)
    assert whole.verified
    assert not caplog.records
    refused = 0
    for spoilt in damages(path.read_bytes()):
        caplog.clear()
        path.write_bytes(spoilt)
        try:
            found = read_checkpoint(path)
        except DrnError as error:
            refused += 1
            assert "\n" not in str(error)
        else:
            assert same(found, whole) or (caplog.records and not found.verified)
    assert refused > DAMAGES / 2


def test_our_files_in_the_original_format_have_a_checksum(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "weights.pth"
    write_original(path, create_model("drn_a_18", "segmentation", 2), STRINGS, half=True)
    whole, content = read_checkpoint(path), path.read_bytes()
    assert whole.verified
    assert whole.metadata == STRINGS
    draw = random.Random(0)
    for _ in range(8):
        spoilt = bytearray(content)
        spoilt[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
        path.write_bytes(spoilt)
        with pytest.raises(DrnError, match=r"weights\.pth: damaged or cut short"):
            read_checkpoint(path)
    assert not caplog.records


def without_checksum(path: Path) -> None:
    save_file(TENSORS, path)


def legacy(path: Path) -> None:
    torch.save(TENSORS, path, _use_new_zipfile_serialization=False)


def without_crc(path: Path) -> None:
    torch.serialization.set_crc32_options(False)
    try:
        torch.save(TENSORS, path)
    finally:
        torch.serialization.set_crc32_options(True)


@pytest.mark.parametrize("write", [without_checksum, legacy, without_crc])
def test_warns_once_about_files_without_checksum(
    tmp_path: Path, write: Callable[[Path], None], caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "weights"
    write(path)
    found = read_checkpoint(path)
    assert not found.verified
    assert same(found, Checkpoint(TENSORS, {}))
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert record.getMessage().startswith(f"{path}: not verified")


def test_verifies_a_recorded_digest(tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    by_publisher(path)
    path.with_name("weights.pth.sha256").write_text("0" * 64)
    with pytest.raises(DrnError, match=r"weights\.pth: its SHA-256 is .* has 0000"):
        read_checkpoint(path)


def test_refuses_excessive_sizes_before_reading(tmp_path: Path) -> None:
    path = tmp_path / "weights"
    path.write_bytes((1 << 40).to_bytes(8, "little") + b'{"a":')
    with pytest.raises(DrnError, match="a header of 1,099,511,627,776 bytes"):
        read_checkpoint(path)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x.pth", bytes(100 << 20))
    with pytest.raises(DrnError, match="unpacks to 104,857,600"):
        read_checkpoint(path)
    torch.save(TENSORS, tmp_path / "sound")
    with (
        zipfile.ZipFile(tmp_path / "sound") as sound,
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive,
    ):
        for name in sound.namelist():
            archive.writestr(name, sound.read(name))
    with pytest.raises(DrnError, match=r"'sound/.*' is compressed"):
        read_checkpoint(path)

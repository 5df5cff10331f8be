"""The cache folder, writable or not, and what lies in it."""

import hashlib
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from drn_cli.doctor import weights
from drn_cli.networks.published import published


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DRN_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "weights"


def test_a_folder_that_can_be_made_is_not_made(folder: Path) -> None:
    finding = weights.cache()
    assert finding.found.startswith(f"{folder.parent}, not made yet: ")
    assert not folder.parent.exists()
    folder.mkdir(parents=True)
    assert weights.cache().found.startswith(f"{folder.parent}: ")


def test_room(monkeypatch: pytest.MonkeyPatch) -> None:
    usage = SimpleNamespace(free=5e9)
    monkeypatch.setattr("shutil.disk_usage", lambda _: usage)
    assert weights.cache().status == "ok"
    usage.free = 0.5e9
    finding = weights.cache()
    assert finding.status == "warning"
    assert "0.5 GB free" in finding.found


def test_a_file_in_the_way(folder: Path) -> None:
    folder.parent.touch()
    finding = weights.cache()
    assert finding.status == "failure"
    assert finding.found == f"{folder.parent}: {folder.parent} is no folder"
    assert "DRN_CACHE" in str(finding.remedy)


def test_a_folder_that_cannot_be_written(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DRN_CACHE", "/proc/drn")  # not even root can make it
    finding = weights.cache()
    assert finding.status == "failure"
    assert finding.found.startswith("/proc/drn cannot be made: /proc: ")
    # A cache that many share may be read-only on purpose.
    (tmp_path / "shared").mkdir()
    (tmp_path / "shared" / "weights").symlink_to("/proc")
    monkeypatch.setenv("DRN_CACHE", str(tmp_path / "shared"))
    finding = weights.cache()
    assert finding.status == "warning"
    assert "only what is there already can be used" in finding.found


def test_nothing_at_hand() -> None:
    finding = weights.at_hand()
    assert finding.status == "ok"
    assert finding.found.startswith("none of 25 published files")


def test_files_are_checked(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder.mkdir(parents=True)
    good, bad = published("drn_d_22")[0], published("drn_c_26")[0]
    content = b"weights"
    sound = replace(good, checksum=hashlib.sha256(content).hexdigest()[:8])
    listed = [sound if file is good else file for file in weights.PUBLISHED]
    monkeypatch.setattr(weights, "PUBLISHED", listed)
    (folder / good.name).write_bytes(content)
    (folder / "mine.safetensors").write_bytes(content)
    finding = weights.at_hand()
    assert finding.status == "ok"
    assert finding.found == "1 of 25 published files are there and sound: drn_d_22"
    (folder / bad.name).write_bytes(content)
    finding = weights.at_hand()
    assert finding.status == "warning"
    assert finding.found == f"not as published, by their checksums: {bad.name}"
    assert finding.remedy == f"rm {folder / bad.name}; drn models fetch drn_c_26 gets it again"


def test_archives_count(folder: Path) -> None:
    folder.mkdir(parents=True)
    file = published("drn_d_22", "imagenet-retrained")[0]
    (folder / f"{file.name}.zip").write_bytes(b"packed")
    assert weights.at_hand().found == (
        "0 of 25 published files are there and sound, 1 as archives that are unpacked when they "
        "are used: drn_d_22"
    )

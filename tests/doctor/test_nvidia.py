from pathlib import Path

import pytest

from drn_cli.doctor.nvidia import Nvidia, nvidia


def test_nvidia_smi_tells(nvidia_smi, tmp_path: Path) -> None:
    nvidia_smi(gpus=3, cuda="12.8")
    assert nvidia(tmp_path) == Nvidia(3, "570.86.15", "12.8")


def test_devices_are_counted_where_it_does_not(nvidia_smi, tmp_path: Path) -> None:
    nvidia_smi(code=9)  # no driver to talk to
    for name in ("nvidia0", "nvidia1", "nvidiactl", "nvidia-uvm"):
        (tmp_path / name).touch()
    assert nvidia(tmp_path) == Nvidia(2)


def test_there_may_be_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert nvidia(tmp_path) == Nvidia(0)

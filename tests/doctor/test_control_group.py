from pathlib import Path

import pytest

from drn_cli.doctor.control_group import core_limit, memory_limit


@pytest.fixture
def process(tmp_path: Path) -> Path:
    file = tmp_path / "cgroup"
    file.write_text("4:memory:/elsewhere\n0::/job/step\n")
    (tmp_path / "root" / "job" / "step").mkdir(parents=True)
    return file


def test_no_limit(tmp_path: Path, process: Path) -> None:
    root = tmp_path / "root"
    assert core_limit(root, process) is None
    (root / "job" / "cpu.max").write_text("max 100000\n")
    (root / "job" / "memory.max").write_text("max\n")
    assert core_limit(root, process) is None
    assert memory_limit(root, process) is None
    assert core_limit(tmp_path / "none", tmp_path / "none") is None


def test_the_narrowest_of_the_groups_around_a_process(tmp_path: Path, process: Path) -> None:
    root = tmp_path / "root"
    (root / "cpu.max").write_text("800000 100000\n")
    (root / "job" / "cpu.max").write_text("250000 100000\n")
    (root / "job" / "step" / "cpu.max").write_text("max 100000\n")
    (root / "job" / "memory.max").write_text("4000000000\n")
    (root / "memory.max").write_text("9000000000\n")
    (tmp_path / "cpu.max").write_text("1 100000\n")  # not below the root
    assert core_limit(root, process) == 2.5
    assert memory_limit(root, process) == 4_000_000_000
    process.write_text("0::/\n")
    assert core_limit(root, process) == 8


def test_the_first_version(tmp_path: Path, process: Path) -> None:
    (tmp_path / "cpu").mkdir()
    (tmp_path / "cpu" / "cpu.cfs_period_us").write_text("100000\n")
    (tmp_path / "cpu" / "cpu.cfs_quota_us").write_text("-1\n")
    assert core_limit(tmp_path, process) is None
    (tmp_path / "cpu" / "cpu.cfs_quota_us").write_text("150000\n")
    assert core_limit(tmp_path, process) == 1.5

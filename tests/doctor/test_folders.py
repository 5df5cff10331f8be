import subprocess
import sys
from pathlib import Path

from drn_cli.doctor.folders import nearest, why_not_writable


def test_it_writes_and_leaves_nothing(tmp_path: Path) -> None:
    before = tmp_path.stat().st_mtime_ns
    assert why_not_writable(tmp_path) is None
    assert list(tmp_path.iterdir()) == []
    assert tmp_path.stat().st_mtime_ns > before  # there was a file


def test_it_tells_why(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert why_not_writable(tmp_path / "file") == "Not a directory"
    assert why_not_writable(tmp_path / "missing") == "No such file or directory"
    assert why_not_writable(Path("/proc")) is not None  # even to root


def test_a_folder_that_takes_names_but_no_bytes(tmp_path: Path) -> None:
    """As on a full disk; here by a limit on the size of files."""
    code = (
        "import os, resource, sys; from pathlib import Path\n"
        "from drn_cli.doctor.folders import why_not_writable\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))\n"
        "print(why_not_writable(Path(sys.argv[1])), flush=True)\n"
        "os._exit(0)"  # a measurement of coverage could not write its file either
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.stdout == "File too large\n"
    assert list(tmp_path.iterdir()) == []


def test_the_nearest_that_exists(tmp_path: Path) -> None:
    assert nearest(tmp_path) == tmp_path
    assert nearest(tmp_path / "a" / "b") == tmp_path
    (tmp_path / "file").touch()
    assert nearest(tmp_path / "file" / "b") == tmp_path / "file"

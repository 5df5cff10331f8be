import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from drn_cli.data import memory_folder as module
from drn_cli.data.memory_folder import memory_folder, room

HOLDER = """
import sys
from pathlib import Path
from drn_cli.data.memory_folder import memory_folder

folder = memory_folder("data", Path(sys.argv[1]))
(folder / "kept").touch()
print(folder, flush=True)
sys.stdin.read()
"""


@pytest.fixture
def place(tmp_path: Path) -> Path:
    folder = tmp_path / "shm"
    folder.mkdir()
    return folder


def hold(place: Path) -> tuple["subprocess.Popen[str]", Path]:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(place)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    return process, Path(process.stdout.readline().strip())


def test_processes_share_a_folder_and_the_last_removes_it(place: Path) -> None:
    first, folder = hold(place)
    second, same = hold(place)
    assert folder == same
    assert folder.parent == place
    first.communicate("")
    assert (folder / "kept").is_file()
    second.communicate("")
    assert list(place.iterdir()) == []


def test_what_a_killed_process_left_goes_when_the_next_comes(place: Path) -> None:
    killed, folder = hold(place)
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    assert (folder / "kept").is_file()
    (place / "drn-somebody-else").mkdir()
    other = memory_folder("other data", place)
    assert sorted(place.iterdir()) == sorted([other, place / "drn-somebody-else"])


def test_folder_in_use_is_left_alone(place: Path) -> None:
    holder, folder = hold(place)
    memory_folder("other data", place)
    assert (folder / "kept").is_file()
    holder.communicate("")


def test_nobody_else_may_look_into_it(place: Path) -> None:
    assert memory_folder("data", place).stat().st_mode & 0o077 == 0


def test_no_such_place_is_an_error(place: Path) -> None:
    with pytest.raises(OSError, match="none"):
        memory_folder("data", place / "none" / "here")


def test_room_on_a_disk_is_its_free_space(place: Path) -> None:
    status = os.statvfs(place)
    assert room(place / "not" / "yet") == pytest.approx(status.f_bavail * status.f_frsize, rel=0.05)


def test_room_in_memory_is_bounded_by_what_is_free(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SHARED_MEMORY", place)
    assert 0 < room(place) <= os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    monkeypatch.setattr(module, "CGROUP", place)
    (place / "memory.max").write_text("5000\n")
    (place / "memory.current").write_text("2000\n")
    assert room(place) == 3000
    (place / "memory.max").write_text("max\n")
    assert room(place) > 3000

import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from drn_cli.data.cache import open_cache
from drn_cli.data.memory_folder import claim, memory_folder
from drn_cli.errors import DrnError

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


def test_folder_of_a_killed_process_is_removed_by_the_next(place: Path) -> None:
    killed, folder = hold(place)
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    assert (folder / "kept").is_file()
    (place / "drn-other-user").mkdir()
    other = memory_folder("other data", place)
    assert sorted(place.iterdir()) == sorted([other, place / "drn-other-user"])


def test_folder_in_use_is_kept(place: Path) -> None:
    holder, folder = hold(place)
    memory_folder("other data", place)
    assert (folder / "kept").is_file()
    holder.communicate("")


def test_folder_is_private(place: Path) -> None:
    assert memory_folder("data", place).stat().st_mode & 0o077 == 0


@pytest.fixture
def shared(tmp_path: Path) -> Path:
    """A world-writable folder like /dev/shm."""
    folder = tmp_path / "everyones"
    folder.mkdir()
    folder.chmod(0o1777)
    return folder


def test_folder_in_world_writable_parent_is_private(shared: Path) -> None:
    claim(shared / "cache")
    assert (shared / "cache").stat().st_mode & 0o777 == 0o700
    (shared / "readable").mkdir(mode=0o755)
    claim(shared / "readable")
    assert (shared / "readable").stat().st_mode & 0o777 == 0o700
    claim(shared / "deep" / "cache")
    claim(shared.parent / "private" / "cache")
    assert (shared.parent / "private" / "cache").stat().st_mode & 0o050 == 0o050 & ~umask()
    (shared.parent / "link").symlink_to(shared / "linked")
    claim(shared.parent / "link" / ".." / "last")
    assert (shared / "last").stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("mode", [0o775, 0o777])
def test_group_writable_folder_is_accepted_in_a_private_parent(place: Path, mode: int) -> None:
    """As with umask 002, and on file systems without modes."""
    (place / "cache").mkdir()
    (place / "cache").chmod(mode)
    claim(place / "cache")
    assert (place / "cache").stat().st_mode & 0o777 == mode


def umask() -> int:
    now = os.umask(0)
    os.umask(now)
    return now


ANOTHER = 54321  # a user


@pytest.mark.parametrize("kind", ["disk", "memory"])
@pytest.mark.parametrize(
    ("made", "problem"),
    [
        (
            "owned",
            rf"belongs to another user \(uid {ANOTHER}\); images are .*; remove it, or choose",
        ),
        ("link", "is a link in a world-writable folder"),
        ("open", "is writable by other users"),
        ("linked", rf"belongs to another user \(uid {ANOTHER}\)"),
        ("through", "is a link in a world-writable folder"),
        ("above", rf"belongs to another user \(uid {ANOTHER}\)"),
    ],
)
def test_folder_made_by_another_user_is_rejected(
    shared: Path, kind: str, made: str, problem: str
) -> None:
    if os.geteuid() != 0 and made in ("owned", "above", "linked"):
        pytest.skip("only root may give a folder to another user")
    folder = shared / "above" / "cache" if made == "above" else shared / "cache"
    if kind == "memory":
        if made == "above":
            pytest.skip("it is made in the folder itself")
        folder = memory_folder(str(shared / "data"), shared)
        shutil.rmtree(folder)
    folder.parent.mkdir(exist_ok=True)
    if made in ("linked", "through"):
        if kind == "memory":
            pytest.skip("its name is a folder's")
        folder = shared.parent / "private" / "cache"
        folder.parent.mkdir(mode=0o755)
    if made == "link":
        (shared / "elsewhere").mkdir()
        folder.symlink_to(shared / "elsewhere")
    elif made == "linked":
        (shared / "x").mkdir(mode=0o755)
        os.chown(shared / "x", ANOTHER, ANOTHER)
        folder.symlink_to(shared / "x")
    elif made == "through":
        (folder.parent / "x").mkdir()
        (shared / "x").symlink_to(folder.parent / "x")
        folder.symlink_to(shared / "x")
    else:
        folder.mkdir()
        folder.chmod(0o777 if made == "open" else 0o755)
    if made in ("owned", "above"):
        os.chown(folder.parent if made == "above" else folder, ANOTHER, ANOTHER)
    with pytest.raises(DrnError, match=problem.partition(";")[0]):
        claim(folder) if kind == "disk" else memory_folder(str(shared / "data"), shared)
    opened = open_cache("disk", shared, folder, [])
    assert opened.cache is None
    assert re.search(problem, opened.message)
    assert not any((shared / "elsewhere").glob("*"))


def test_link_of_another_user_is_not_followed_at_cleanup(shared: Path) -> None:
    planted = shared / f"drn-{os.getuid()}-0123456789abcdef"
    (shared / "precious").mkdir()
    (shared / "precious" / "file").touch()
    planted.symlink_to(shared / "precious")
    memory_folder("data", shared)
    assert (shared / "precious" / "file").exists()
    assert planted.is_symlink()


def test_missing_parent_is_an_error(place: Path) -> None:
    with pytest.raises(OSError, match="none"):
        memory_folder("data", place / "none" / "here")

import csv
import os
import shutil
import signal
import stat
import subprocess
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import IO

import pytest

from drn_cli.errors import DrnError
from drn_cli.files import (
    atomic,
    atomic_folder,
    csv_text,
    open_append,
    open_lock,
    parse_json,
    read_json,
    write_csv,
    write_json,
    write_text,
)
from drn_cli.inference.outputs import output_directory
from drn_cli.replacing import half_replaced, move_together, restore_together
from drn_cli.runs import Run

WITH_UMASK = """
import os, sys
os.umask(int(sys.argv[2], 8))
from pathlib import Path
from drn_cli.files import atomic_folder, write_text
write_text(Path(sys.argv[1]) / "file", "x")
with atomic_folder(Path(sys.argv[1]) / "folder"):
    pass
"""


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_atomic_replaces_the_file(tmp_path: Path) -> None:
    path = tmp_path / "file.txt"
    path.write_text("old")
    with atomic(path) as temporary:
        temporary.write_text("new")
        assert temporary.parent == tmp_path  # on the same file system, for the rename
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert names(tmp_path) == ["file.txt"]


@pytest.mark.parametrize("failure", [RuntimeError, KeyboardInterrupt, SystemExit])
def test_atomic_keeps_the_old_file_on_failure(tmp_path: Path, failure: type[BaseException]) -> None:
    path = tmp_path / "file.txt"
    path.write_text("old")
    with pytest.raises(failure), atomic(path) as temporary:
        temporary.write_text("half")
        raise failure
    assert path.read_text() == "old"
    assert names(tmp_path) == ["file.txt"]


def test_system_errors_name_the_final_path(tmp_path: Path) -> None:
    path = tmp_path / "file.txt"
    with pytest.raises(DrnError, match="cannot be written: No space") as caught, atomic(path):
        raise OSError(28, "No space left on device")
    assert str(caught.value).startswith(f"{path}: ")
    assert names(tmp_path) == []


def test_creates_missing_folders(tmp_path: Path) -> None:
    write_text(tmp_path / "a" / "b" / "file.txt", "text äöü")
    assert (tmp_path / "a" / "b" / "file.txt").read_text(encoding="utf-8") == "text äöü"


@pytest.mark.parametrize(
    ("umask", "file", "folder"), [("022", 0o644, 0o755), ("027", 0o640, 0o750)]
)
def test_permissions_follow_the_umask(tmp_path: Path, umask: str, file: int, folder: int) -> None:
    subprocess.run([sys.executable, "-c", WITH_UMASK, str(tmp_path), umask], check=True)
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == file
    assert stat.S_IMODE((tmp_path / "folder").stat().st_mode) == folder


def test_a_file_in_place_of_a_folder_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    path = tmp_path / "file" / "inner" / "a.txt"
    with pytest.raises(DrnError, match="cannot be written") as caught:
        write_text(path, "text")
    assert str(path) in str(caught.value)
    with pytest.raises(DrnError, match="cannot be written") as caught, atomic_folder(path):
        pass
    assert str(path) in str(caught.value)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_folder_is_an_error(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(DrnError, match="Permission denied"):
            write_text(tmp_path / "a.txt", "text")
        with pytest.raises(DrnError, match="Permission denied"), atomic_folder(tmp_path / "a"):
            pass
    finally:
        tmp_path.chmod(0o700)


def test_a_folder_in_place_of_the_file_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "taken").mkdir()
    with pytest.raises(DrnError, match="cannot be written"):
        write_text(tmp_path / "taken", "text")
    assert (tmp_path / "taken").is_dir()
    assert names(tmp_path) == ["taken"]


@pytest.mark.parametrize("exists", [False, True])
def test_atomic_folder_appears_after_the_block(tmp_path: Path, exists: bool) -> None:
    path = tmp_path / "deep" / "folder"
    if exists:  # an empty one is replaced
        path.mkdir(parents=True)
    with atomic_folder(path) as temporary:
        (temporary / "a.txt").write_text("a")
        assert not (path / "a.txt").exists()
    assert (path / "a.txt").read_text() == "a"
    assert names(path.parent) == ["folder"]


@pytest.mark.parametrize("failure", [RuntimeError, KeyboardInterrupt])
def test_failures_leave_no_folder(tmp_path: Path, failure: type[BaseException]) -> None:
    with pytest.raises(failure), atomic_folder(tmp_path / "folder") as temporary:
        (temporary / "inner").mkdir()
        (temporary / "inner" / "a.txt").write_text("a")
        raise failure
    assert names(tmp_path) == []


def test_refuses_a_folder_that_is_not_empty(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "mine.txt").write_text("mine")
    with pytest.raises(DrnError, match="exists already"), atomic_folder(tmp_path / "folder"):
        pytest.fail("the block must not run")
    assert names(tmp_path) == ["folder"]
    assert names(tmp_path / "folder") == ["mine.txt"]


def test_refuses_a_file_in_place_of_the_folder(tmp_path: Path) -> None:
    (tmp_path / "folder").write_text("mine")
    with pytest.raises(DrnError, match="exists already"), atomic_folder(tmp_path / "folder"):
        pytest.fail("the block must not run")
    assert (tmp_path / "folder").read_text() == "mine"


def test_does_not_overwrite_a_folder_that_is_filled_meanwhile(tmp_path: Path) -> None:
    path = tmp_path / "folder"
    with pytest.raises(DrnError, match="cannot be written"), atomic_folder(path) as temporary:
        (temporary / "a.txt").write_text("a")
        path.mkdir()
        (path / "theirs.txt").write_text("theirs")
    assert names(path) == ["theirs.txt"]
    assert names(tmp_path) == ["folder"]


def test_json_round_trip(tmp_path: Path) -> None:
    value = {"mean": [0.1, 0.2], "name": "Zürich", "none": None}
    write_json(tmp_path / "a.json", value)
    assert read_json(tmp_path / "a.json") == value
    text = (tmp_path / "a.json").read_text(encoding="utf-8")
    assert "Zürich" in text
    assert text.endswith("}\n")


def invalid_json(folder: Path) -> Path:
    """Write invalid JSON files, named by their problem."""
    for name, content in {
        "syntax": b'{\n  "mean": 1,\n  oops\n}\n',
        "latin": b'\n"Z\xfcrich"',
        "deep": b'{"a":' * 50_000,
        "deep_list": b"[" * 50_000 + b"]" * 50_000,
        "digits": b'{\n"count": ' + b"9" * 5_000 + b"}",
        "empty": b"",
    }.items():
        (folder / f"{name}.json").write_bytes(content)
    (folder / "folder.json").mkdir()
    os.mkfifo(folder / "pipe.json")
    (folder / "device.json").symlink_to("/dev/zero")
    return folder


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("syntax", ":3: not valid JSON: Expecting property name enclosed in double quotes"),
        ("latin", ":2: not UTF-8 text: byte 0xfc"),
        ("deep", ": not usable JSON: nested too deep"),
        ("deep_list", ": not usable JSON: nested too deep"),
        ("digits", ":2: not usable JSON: a number of 5000 digits"),
        ("empty", ":1: not valid JSON: Expecting value"),
        ("absent", ": no such file"),
        ("folder", ": is a folder, not a file"),
        ("pipe", ": is not a regular file"),
        ("device", ": is not a regular file"),
    ],
)
def test_invalid_json_is_an_error_with_file_and_line(
    tmp_path: Path, name: str, message: str
) -> None:
    path = invalid_json(tmp_path) / f"{name}.json"
    with pytest.raises(DrnError) as caught:
        read_json(path)
    assert str(caught.value) == f"{path}{message}"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[1,", "not valid JSON: Expecting value"),
        (b'"\xff"', "not UTF-8 text: byte 0xff"),
        ("[" * 50_000, "not usable JSON: nested too deep"),
        ("1" * 5_000, "not usable JSON: a number of 5000 digits"),
    ],
)
def test_invalid_json_in_a_file_is_an_error_with_its_location(
    text: str | bytes, message: str
) -> None:
    with pytest.raises(DrnError) as caught:
        parse_json(text, "x.pt2: metadata mean")
    assert str(caught.value).startswith("x.pt2: metadata mean:")
    assert str(caught.value).endswith(message)


def longest(ending: str = "") -> str:
    """Return the longest possible file name: 255 bytes, mostly two per character."""
    return "é" * ((255 - len(ending)) // 2) + ending


@pytest.mark.parametrize("durable", [True, False])
def test_supports_the_longest_names(tmp_path: Path, durable: bool) -> None:
    with atomic(tmp_path / longest(".png"), durable=durable) as temporary:
        temporary.write_text("file")
    with atomic_folder(tmp_path / longest()):
        pass
    assert names(tmp_path) == sorted([longest(".png"), longest()])


@pytest.mark.parametrize("durable", [True, False])
def test_atomic_replaces_a_link_but_not_its_target(tmp_path: Path, durable: bool) -> None:
    (tmp_path / "precious").write_text("precious")
    (tmp_path / "file").symlink_to("precious")
    with atomic(tmp_path / "file", durable=durable) as temporary:
        temporary.write_text("new")
    assert (tmp_path / "precious").read_text() == "precious"
    assert (tmp_path / "file").read_text() == "new"
    assert not (tmp_path / "file").is_symlink()


@pytest.mark.parametrize("opened", [open_lock, open_append])
def test_open_functions_create_files_and_refuse_links(
    tmp_path: Path, opened: Callable[[Path], IO]
) -> None:
    path = tmp_path / "file"
    for _ in range(2):
        opened(path).close()
        path.write_text("kept")
    opened(path).close()
    assert path.read_text() == "kept"
    for name, target in {"link": "file", "dangling": "nowhere"}.items():
        (tmp_path / name).symlink_to(target)
        with pytest.raises(DrnError, match=f"{name}: is a symbolic link"):
            opened(tmp_path / name)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(DrnError, match="pipe: is a special file"):
        opened(tmp_path / "pipe")
    with pytest.raises(DrnError, match="cannot be written: No such file"):
        opened(tmp_path / "absent" / "file")
    assert path.read_text() == "kept"
    assert not (tmp_path / "nowhere").exists()


def test_move_together_in_order(tmp_path: Path) -> None:
    scratch, folder = tmp_path / "scratch", tmp_path / "folder"
    for where in (scratch, folder):
        where.mkdir()
    for name in ("a", "b", "c"):
        (scratch / name).write_text(f"new {name}")
    (folder / "b").write_text("old b")
    (folder / "other").write_text("other")
    move_together(scratch, [folder / "b", folder / "a"])
    assert names(folder) == ["a", "b", "other"]
    assert [(folder / name).read_text() for name in ("a", "b")] == ["new a", "new b"]
    assert names(scratch) == ["c"]


KILLED = """
import os, signal, sys
from pathlib import Path
from drn_cli.replacing import move_together, restore_together
left = int(sys.argv[2])
def count(event, _):
    global left
    if event in ("os.rename", "os.link", "os.remove", "os.chmod"):
        left -= 1
        if left < 0:
            os.kill(os.getpid(), signal.SIGKILL)
sys.addaudithook(count)
folder = Path(sys.argv[1])
places = [folder / "out" / name for name in ("a.bin", "a.json", "a.xml")]
if sys.argv[3:] == ["restore"]:
    restore_together(places)
else:
    move_together(folder / "scratch", places)
"""


@pytest.mark.parametrize("old", [(), ("a.bin", "a.xml"), ("a.bin", "a.json", "a.xml")])
def test_a_kill_at_any_call_leaves_the_old_files_or_the_new_ones(
    tmp_path: Path, old: tuple[str, ...]
) -> None:
    whole = {"a.bin", "a.json", "a.xml"}
    outcomes = []
    for calls in range(100):
        folder = tmp_path / str(calls)
        for name in ("scratch", "out"):
            (folder / name).mkdir(parents=True)
        for name in whole:
            (folder / "scratch" / name).write_text("new")
        for name in old:
            (folder / "out" / name).write_text("old")
        done = subprocess.run([sys.executable, "-c", KILLED, folder, str(calls)], check=False)
        restored = restore_together(
            [folder / "out" / name for name in ("a.bin", "a.json", "a.xml")]
        )
        found = {p.name: p.read_text() for p in (folder / "out").iterdir() if p.name[0] != "."}
        assert found in (dict.fromkeys(old, "old"), dict.fromkeys(whole, "new")), calls
        assert not restore_together(
            [folder / "out" / name for name in ("a.bin", "a.json", "a.xml")]
        )
        outcomes.append((restored, found == dict.fromkeys(whole, "new")))
        if done.returncode == 0:
            break
        assert done.returncode == -signal.SIGKILL
    assert {(False, False), (True, False), (False, True)} <= set(outcomes)
    assert outcomes[-1] == (False, True)
    assert set(names(folder / "out")) == whole  # neither marker nor backups

    for name in whole:  # the next run removes leftovers
        (tmp_path / "1" / "scratch" / name).write_text("newer")
    places = [tmp_path / "1" / "out" / name for name in ("a.bin", "a.json", "a.xml")]
    move_together(tmp_path / "1" / "scratch", places)
    assert set(names(tmp_path / "1" / "out")) == whole


def test_a_killed_restoration_is_repeated(tmp_path: Path) -> None:
    def run(folder: Path, calls: int, *what: str) -> int:
        command = [sys.executable, "-c", KILLED, folder, str(calls), *what]
        return subprocess.run(command, check=False).returncode

    for calls in range(3, 100):  # until the kill comes before the last file
        half = tmp_path / f"half{calls}"
        for name in ("scratch", "out"):
            (half / name).mkdir(parents=True)
        for name in ("a.bin", "a.json", "a.xml"):
            (half / "scratch" / name).write_text("new")
        old = {"a.bin": "old", "a.xml": "old", "thesis.odt": "precious"}
        for name, content in old.items():
            (half / "out" / name).write_text(content)
        run(half, calls)
        if not (half / "scratch" / "a.json").exists():
            break
    places = [half / "out" / name for name in ("a.bin", "a.json", "a.xml")]
    assert [place.read_text() for place in places] == ["new", "new", "old"]
    assert half_replaced(places[-1])
    (half / "out" / ".a.xml.replacing").write_text('{"files": ["thesis.odt"], "old": []}')
    for calls in range(100):
        folder = tmp_path / f"again{calls}"
        shutil.copytree(half, folder)
        code = run(folder, calls, "restore")
        restore_together([folder / "out" / place.name for place in places])
        found = {p.name: p.read_text() for p in (folder / "out").iterdir() if p.name[0] != "."}
        assert found == old, calls
        if code == 0:
            break
    assert calls > 3
    assert names(folder / "out") == sorted(old)


def test_move_errors(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("new")
    with pytest.raises(DrnError, match=r"nowhere.*: cannot be written: No such file"):
        move_together(tmp_path, [tmp_path / "nowhere" / "a"])
    (tmp_path / "folder" / "a").mkdir(parents=True)
    with pytest.raises(DrnError, match="folder: cannot be written: "):
        move_together(tmp_path, [tmp_path / "folder" / "a"])
    assert (tmp_path / "a").read_text() == "new"
    assert names(tmp_path / "folder") == ["a"]


@pytest.mark.parametrize(
    "lock",
    [lambda folder: Run(folder).claimed(), output_directory],
    ids=["run", "predictions"],
)
def test_a_lock_file_that_is_a_link_is_refused(
    tmp_path: Path, lock: Callable[[Path], AbstractContextManager]
) -> None:
    (tmp_path / "precious").write_text("precious")
    (tmp_path / ".lock").symlink_to("precious")
    with pytest.raises(DrnError, match=r"\.lock: is a symbolic link"), lock(tmp_path):
        pass
    assert (tmp_path / "precious").read_text() == "precious"


@pytest.mark.parametrize("text", ["=1+1", "+a", "-a.png", "@SUM(1)", "\t=1", "'=1", "''-a"])
def test_csv_formulas_are_escaped_and_can_be_read_back(tmp_path: Path, text: str) -> None:
    write_csv(tmp_path / "a.csv", ["name", text], [(text, -0.5), ("it's\r", "-0.250000")])
    with (tmp_path / "a.csv").open(newline="") as file:
        header, row, plain = csv.reader(file)
    assert header == ["name", f"'{text}"]
    assert row == [f"'{text}", "-0.5"]
    assert plain == ["it's\\r", "-0.250000"]
    assert [csv_text(cell) for cell in (*row, *plain)] == [text, "-0.5", *plain]

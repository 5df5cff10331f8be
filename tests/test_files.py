import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from drn_cli.errors import DrnError
from drn_cli.files import atomic, atomic_folder, move_together, read_json, write_json, write_text

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


def test_block_that_succeeds_replaces_the_file_and_leaves_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "file.txt"
    path.write_text("old")
    with atomic(path) as temporary:
        temporary.write_text("new")
        assert temporary.parent == tmp_path  # a rename works within one file system only
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert names(tmp_path) == ["file.txt"]


@pytest.mark.parametrize("failure", [RuntimeError, KeyboardInterrupt, SystemExit])
def test_block_that_fails_leaves_the_old_file_whole(
    tmp_path: Path, failure: type[BaseException]
) -> None:
    path = tmp_path / "file.txt"
    path.write_text("old")
    with pytest.raises(failure), atomic(path) as temporary:
        temporary.write_text("half")
        raise failure
    assert path.read_text() == "old"
    assert names(tmp_path) == ["file.txt"]


def test_system_error_in_the_block_is_told_with_the_final_path(tmp_path: Path) -> None:
    path = tmp_path / "file.txt"
    with pytest.raises(DrnError, match="cannot be written: No space") as caught, atomic(path):
        raise OSError(28, "No space left on device")
    assert str(caught.value).startswith(f"{path}: ")
    assert names(tmp_path) == []


def test_missing_folders_are_made(tmp_path: Path) -> None:
    write_text(tmp_path / "a" / "b" / "file.txt", "text äöü")
    assert (tmp_path / "a" / "b" / "file.txt").read_text(encoding="utf-8") == "text äöü"


@pytest.mark.parametrize(
    ("umask", "file", "folder"), [("022", 0o644, 0o755), ("027", 0o640, 0o750)]
)
def test_permissions_follow_the_umask(tmp_path: Path, umask: str, file: int, folder: int) -> None:
    subprocess.run([sys.executable, "-c", WITH_UMASK, str(tmp_path), umask], check=True)
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == file
    assert stat.S_IMODE((tmp_path / "folder").stat().st_mode) == folder


def test_file_where_a_folder_should_be_is_an_error_with_the_path(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    path = tmp_path / "file" / "inner" / "a.txt"
    with pytest.raises(DrnError, match="cannot be written") as caught:
        write_text(path, "text")
    assert str(path) in str(caught.value)
    with pytest.raises(DrnError, match="cannot be written") as caught, atomic_folder(path):
        pass
    assert str(path) in str(caught.value)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_folder_without_write_permission_is_an_error(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(DrnError, match="Permission denied"):
            write_text(tmp_path / "a.txt", "text")
        with pytest.raises(DrnError, match="Permission denied"), atomic_folder(tmp_path / "a"):
            pass
    finally:
        tmp_path.chmod(0o700)


def test_folder_in_place_of_the_file_is_an_error_and_stays(tmp_path: Path) -> None:
    (tmp_path / "taken").mkdir()
    with pytest.raises(DrnError, match="cannot be written"):
        write_text(tmp_path / "taken", "text")
    assert (tmp_path / "taken").is_dir()
    assert names(tmp_path) == ["taken"]


@pytest.mark.parametrize("exists", [False, True])
def test_folder_appears_only_when_the_block_is_done(tmp_path: Path, exists: bool) -> None:
    path = tmp_path / "deep" / "folder"
    if exists:  # an empty one is taken
        path.mkdir(parents=True)
    with atomic_folder(path) as temporary:
        (temporary / "a.txt").write_text("a")
        assert not (path / "a.txt").exists()
    assert (path / "a.txt").read_text() == "a"
    assert names(path.parent) == ["folder"]


@pytest.mark.parametrize("failure", [RuntimeError, KeyboardInterrupt])
def test_failure_or_interrupt_leaves_no_folder(
    tmp_path: Path, failure: type[BaseException]
) -> None:
    with pytest.raises(failure), atomic_folder(tmp_path / "folder") as temporary:
        (temporary / "inner").mkdir()
        (temporary / "inner" / "a.txt").write_text("a")
        raise failure
    assert names(tmp_path) == []


def test_folder_that_holds_something_is_refused_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "mine.txt").write_text("mine")
    with pytest.raises(DrnError, match="exists already"), atomic_folder(tmp_path / "folder"):
        pytest.fail("the block must not run")
    assert names(tmp_path) == ["folder"]
    assert names(tmp_path / "folder") == ["mine.txt"]


def test_file_in_place_of_the_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "folder").write_text("mine")
    with pytest.raises(DrnError, match="exists already"), atomic_folder(tmp_path / "folder"):
        pytest.fail("the block must not run")
    assert (tmp_path / "folder").read_text() == "mine"


def test_folder_that_someone_fills_meanwhile_is_not_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "folder"
    with pytest.raises(DrnError, match="cannot be written"), atomic_folder(path) as temporary:
        (temporary / "a.txt").write_text("a")
        path.mkdir()
        (path / "theirs.txt").write_text("theirs")
    assert names(path) == ["theirs.txt"]
    assert names(tmp_path) == ["folder"]


def test_json_comes_back_as_it_was_written(tmp_path: Path) -> None:
    value = {"mean": [0.1, 0.2], "name": "Zürich", "none": None}
    write_json(tmp_path / "a.json", value)
    assert read_json(tmp_path / "a.json") == value
    text = (tmp_path / "a.json").read_text(encoding="utf-8")
    assert "Zürich" in text
    assert text.endswith("}\n")


def test_json_that_is_none_is_an_error_with_file_and_line(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text('{\n  "mean": 1,\n  oops\n}\n')
    with pytest.raises(DrnError, match="not valid JSON") as caught:
        read_json(path)
    assert str(caught.value).startswith(f"{path}:3: ")


def test_json_that_cannot_be_read_is_an_error_with_the_file(tmp_path: Path) -> None:
    (tmp_path / "latin.json").write_bytes(b'"Z\xfcrich"')
    (tmp_path / "folder.json").mkdir()
    for name, message in {
        "absent.json": "no such file",
        "latin.json": "cannot be read",
        "folder.json": "cannot be read",
    }.items():
        with pytest.raises(DrnError, match=message) as caught:
            read_json(tmp_path / name)
        assert str(tmp_path / name) in str(caught.value)


def test_files_that_belong_together_are_moved_in_order(tmp_path: Path) -> None:
    scratch, folder = tmp_path / "scratch", tmp_path / "folder"
    for where in (scratch, folder):
        where.mkdir()
    for name in ("a", "b", "c"):
        (scratch / name).write_text(f"new {name}")
    (folder / "b").write_text("old b")
    (folder / "other").write_text("other")
    assert move_together(scratch, ["b", "a"], folder) == [folder / "b", folder / "a"]
    assert names(folder) == ["a", "b", "other"]
    assert [(folder / name).read_text() for name in ("a", "b")] == ["new a", "new b"]
    assert names(scratch) == ["c"]


def test_nobody_finds_a_new_file_beside_an_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scratch, folder = tmp_path / "scratch", tmp_path / "folder"
    for where, word in ((scratch, "new"), (folder, "old")):
        where.mkdir()
        for name in ("a", "b"):
            (where / name).write_text(word)
    seen: list[set[str]] = []
    real = Path.replace

    def replace(path: Path, target: Path) -> Path:
        seen.append({each.read_text() for each in folder.iterdir()})
        return real(path, target)

    monkeypatch.setattr(Path, "replace", replace)
    move_together(scratch, ["a", "b"], folder)
    assert seen == [set(), {"new"}]


def test_files_that_cannot_be_moved_are_told(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("new")
    with pytest.raises(DrnError, match="nowhere: cannot be written: No such file"):
        move_together(tmp_path, ["a"], tmp_path / "nowhere")
    (tmp_path / "folder" / "a").mkdir(parents=True)
    with pytest.raises(DrnError, match="folder: cannot be written: "):
        move_together(tmp_path, ["a"], tmp_path / "folder")
    assert (tmp_path / "a").read_text() == "new"

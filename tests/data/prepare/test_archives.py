import os
import stat
import struct
import zipfile
from pathlib import Path

import pytest

from drn_cli.data.prepare.archives import Entry, list_entries, unpack
from drn_cli.errors import DrnError

FILES = {f"top/train/city/{n}.bin": bytes([n]) * (1000 + n) for n in range(6)}


def write_zip(path: Path, files: dict[str, bytes], *more: zipfile.ZipInfo) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
        for info in more:
            archive.writestr(info, b"../../outside")
    return path


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    return write_zip(tmp_path / "data.zip", {"top/": b"", **FILES, "README": b"read me"})


def contents(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def damage(path: Path, data: bytes) -> None:
    """Change a byte in the middle of the first occurrence of `data` in a file."""
    whole = path.read_bytes()
    at = whole.index(data) + len(data) // 2
    path.write_bytes(whole[:at] + bytes([whole[at] ^ 255]) + whole[at + 1 :])


def test_lists_files_with_sizes_without_folders(archive: Path) -> None:
    found = list_entries(archive)
    assert found[0] == Entry(archive, "README", 7)
    assert [(e.name, e.size) for e in found[1:]] == [(n, len(d)) for n, d in FILES.items()]


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("../evil.png", "points outside"),
        ("top/train/../../../evil.png", "points outside"),
        ("top/..", "points outside"),
        ("/etc/evil.png", "absolute"),
        ("C:/evil.png", "drive letter"),
        ("C:evil.png", "drive letter"),
        ("top\\..\\..\\evil.png", "backslash"),
        ("\\\\server\\share\\evil.png", "backslash"),
    ],
)
def test_entry_outside_the_folder_is_refused(tmp_path: Path, name: str, reason: str) -> None:
    path = write_zip(tmp_path / "evil.zip", {**FILES, name: b"evil"})
    with pytest.raises(DrnError, match=reason) as caught:
        list_entries(path)
    assert str(path) in caught.value.message
    assert repr(name) in caught.value.message


def test_link_is_refused(tmp_path: Path) -> None:
    info = zipfile.ZipInfo("top/train/city")
    info.create_system = 3  # Unix
    info.external_attr = (stat.S_IFLNK | 0o777) << 16
    path = write_zip(tmp_path / "evil.zip", FILES, info)
    with pytest.raises(DrnError, match=r"'top/train/city' is a link"):
        list_entries(path)


def test_too_large_entry_is_refused_by_the_index(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "bomb.zip", {**FILES, "top/train/city/9.png": bytes(123456)})
    size = struct.pack("<L", 123456)
    path.write_bytes(path.read_bytes().replace(size, struct.pack("<L", 2**31)))
    with pytest.raises(
        DrnError, match=r"'top/train/city/9.png' unpacks to 2.1 GB, too large for an image"
    ):
        list_entries(path)


def test_unusual_but_safe_names_are_accepted(tmp_path: Path) -> None:
    names = ["a..b/c...png", "..a/b..", "ab:c/d"]
    path = write_zip(tmp_path / "odd.zip", dict.fromkeys(names, b"x"))
    assert sorted(entry.name for entry in list_entries(path)) == sorted(names)


def test_missing_or_damaged_archive(archive: Path) -> None:
    with pytest.raises(DrnError, match=r"absent\.zip: no such file"):
        list_entries(archive.with_name("absent.zip"))
    with pytest.raises(DrnError, match="cannot be read"):
        list_entries(archive.parent)
    odd = write_zip(archive.with_name("odd.zip"), {"\u00e9.bin": b"x"})
    odd.write_bytes(odd.read_bytes().replace("\u00e9".encode(), b"\xff\xff"))
    archive.write_bytes(archive.read_bytes()[:-40])
    for broken in (odd, archive):
        with pytest.raises(
            DrnError, match=rf"{broken.name}: damaged, or not a zip archive"
        ) as caught:
            list_entries(broken)
        assert caught.value.hint == "download the archive again"


def test_unpacks_only_the_given_entries(archive: Path, tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    wanted = [entry for entry in list_entries(archive) if entry.name.endswith(("1.bin", "3.bin"))]
    out = tmp_path / "out" / "top"
    unpack(wanted, out, lambda done, total: seen.append((done, total)))
    assert contents(out) == {
        f"train/city/{n}.bin": FILES[f"top/train/city/{n}.bin"] for n in (1, 3)
    }
    assert [path.name for path in out.parent.iterdir()] == ["top"]
    assert seen == [(1, 2), (2, 2)]


def test_unpacking_resumes_after_a_killed_run(archive: Path, tmp_path: Path) -> None:
    unfinished = tmp_path / "top.unpacking" / "train" / "city"
    unfinished.mkdir(parents=True)
    (unfinished / "0.bin").write_bytes(FILES["top/train/city/0.bin"])
    os.utime(unfinished / "0.bin", (100, 100))
    (unfinished / "1.bin").write_bytes(b"of another size")
    (unfinished / ".2.bin.1a2b3c4d.tmp").write_bytes(b"half")
    seen: list[tuple[int, int]] = []
    wanted = [entry for entry in list_entries(archive) if entry.name in FILES]
    unpack(wanted, tmp_path / "top", lambda done, total: seen.append((done, total)))
    assert contents(tmp_path / "top") == {name[4:]: data for name, data in FILES.items()}
    assert (tmp_path / "top" / "train" / "city" / "0.bin").stat().st_mtime == 100
    assert not unfinished.exists()
    assert seen == [(done, 6) for done in range(2, 7)]


@pytest.mark.parametrize("link", ["top.unpacking", "top.unpacking/train", "top.unpacking/other"])
def test_unpacking_does_not_follow_links(archive: Path, tmp_path: Path, link: str) -> None:
    (tmp_path / "mine" / "city").mkdir(parents=True)
    (tmp_path / "mine" / "city" / "precious").touch()
    (tmp_path / link).parent.mkdir(exist_ok=True)
    (tmp_path / link).symlink_to(tmp_path / "mine")
    wanted = [entry for entry in list_entries(archive) if entry.name in FILES]
    if link.endswith("other"):
        unpack(wanted, tmp_path / "top")
        assert [path.name for path in (tmp_path / "top").iterdir()] == ["train"]
    else:
        with pytest.raises(DrnError, match=f"{link}: is a symbolic link"):
            unpack(wanted, tmp_path / "top")
    assert list(contents(tmp_path / "mine")) == ["city/precious"]


def test_damaged_entry_leaves_no_folder(archive: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_STORED) as stored:
        for name, data in FILES.items():
            stored.writestr(name, data)
    damage(archive, FILES["top/train/city/4.bin"])
    with pytest.raises(DrnError, match="Bad CRC") as caught:
        unpack(list_entries(archive), tmp_path / "top")
    assert f"{archive}: entry 'top/train/city/4.bin' is damaged" in caught.value.message
    assert not (tmp_path / "top").exists()
    assert "train/city/4.bin" not in contents(tmp_path / "top.unpacking")


def test_checks_disk_space_before_unpacking(archive: Path, tmp_path: Path) -> None:
    entry = Entry(archive, "top/huge.png", 10**18)
    with pytest.raises(DrnError, match=r"needs 1000000000\.0 GB, \d+\.\d GB are free"):
        unpack([entry], tmp_path / "top")
    assert contents(tmp_path / "top.unpacking") == {}


def test_folder_that_cannot_be_created(archive: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    wanted = list_entries(archive)[1:2]
    with pytest.raises(DrnError, match="cannot be created"):
        unpack(wanted, tmp_path / "file" / "top")
    (tmp_path / "top").mkdir()
    (tmp_path / "top" / "mine").touch()
    with pytest.raises(DrnError, match="cannot be written"):
        unpack(wanted, tmp_path / "top")
    assert contents(tmp_path / "top") == {"mine": b""}

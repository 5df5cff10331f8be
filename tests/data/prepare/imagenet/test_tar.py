"""Truncated, damaged and malicious archives."""

import gzip
import io
import tarfile
from pathlib import Path

import pytest

from drn_cli.data.prepare.imagenet.archives import extract_train, extract_val
from drn_cli.data.prepare.imagenet.tar import CorruptArchiveError, read_members
from drn_cli.errors import DrnError

WNID = "n01440764"
IMAGE = b"\xff\xd8\xff" + bytes(2000) + b"\xff\xd9"  # start and end markers of a JPEG


def member(name: str, kind: bytes = tarfile.REGTYPE, link: str = "") -> tarfile.TarInfo:
    made = tarfile.TarInfo(name)
    made.type, made.linkname = kind, link
    made.size = len(IMAGE) if kind == tarfile.REGTYPE else 0
    return made


def tar(*found: tarfile.TarInfo) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        for each in found:
            archive.addfile(each, io.BytesIO(IMAGE) if each.size else None)
    return file.getvalue()


def tar_in_tar(inner: bytes, name: str = f"{WNID}.tar") -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        made = tarfile.TarInfo(name)
        made.size = len(inner)
        archive.addfile(made, io.BytesIO(inner))
        made.name = "n01443537.tar"
        archive.addfile(made, io.BytesIO(inner))
    return file.getvalue()


def ignore(done: int) -> None:
    pass


@pytest.mark.parametrize(
    ("evil", "message"),
    [
        (member("../../evil.JPEG"), "points outside"),
        (member("a/../../evil.JPEG"), "points outside"),
        (member("/tmp/evil.JPEG"), "points outside"),
        (member("evil.JPEG", tarfile.SYMTYPE, "/etc/passwd"), "neither a file nor a folder"),
        (member("evil.JPEG", tarfile.LNKTYPE, "1.JPEG"), "neither a file nor a folder"),
        (member("evil.JPEG", tarfile.CHRTYPE), "neither a file nor a folder"),
        (member("evil.JPEG", tarfile.FIFOTYPE), "neither a file nor a folder"),
    ],
)
def test_unsafe_members_are_refused(tmp_path: Path, evil: tarfile.TarInfo, message: str) -> None:
    path, out = tmp_path / "a.tar", tmp_path / "out"
    flat = tar(member("1.JPEG"), evil, member("2.JPEG"))
    truth = dict.fromkeys(("1", "2", "evil"), WNID)
    path.write_bytes(flat)
    with pytest.raises(DrnError, match=rf"{evil.name}: refused: .*{message}") as caught:
        extract_val(path, out / "val", truth, ignore)
    assert str(path) in caught.value.message
    path.write_bytes(tar_in_tar(flat))
    with pytest.raises(DrnError, match=message) as caught:
        extract_train(path, out / "train", ignore)
    assert f"{path}: {WNID}.tar: {evil.name}" in caught.value.message
    with pytest.raises(DrnError, match=message):
        list(read_members(path.with_suffix(".gz"), lambda _: True) if gz(path, flat) else ())
    kept = sorted(str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*") if p.is_file())
    assert kept == ["a.gz", "a.tar", f"out/train/{WNID}/1.JPEG", f"out/val/{WNID}/1.JPEG"]


def gz(path: Path, data: bytes) -> bool:
    return bool(path.with_suffix(".gz").write_bytes(gzip.compress(data)))


FLAT = tar(member("1.JPEG"), member("2.JPEG"), member("3.JPEG"))
STEP = len(FLAT[: FLAT.index(b"2.JPEG")])  # from one header to the next
TRUTH = {str(n): WNID for n in range(1, 4)}


@pytest.mark.parametrize(
    ("data", "message", "kept"),
    [
        (FLAT[: STEP + 700], "in 2.JPEG", 1),
        (FLAT[: STEP + 100], "after 1.JPEG", 1),
        (FLAT[:STEP], "after 1.JPEG", 1),
        (FLAT[: 3 * STEP], "after 3.JPEG", 3),
        (FLAT[: STEP - 100], "in 1.JPEG", 0),
        (FLAT[: STEP - 20], "after 1.JPEG", 1),
        (FLAT[:STEP] + b"x" * 512 + FLAT[STEP + 512 :], "after 1.JPEG", 1),
        (FLAT[:300], "not a tar archive", 0),
        (b"x" * 5000, "not a tar archive", 0),
        (b"", "not a tar archive", 0),
    ],
)
def test_truncated_archive_names_the_position(
    tmp_path: Path, data: bytes, message: str, kept: int
) -> None:
    path, out = tmp_path / "a.tar", tmp_path / "out"
    path.write_bytes(data)
    with pytest.raises(CorruptArchiveError, match=message) as caught:
        extract_val(path, out, TRUTH, ignore)
    assert caught.value.message.startswith(f"{path}: ")
    assert "\n" not in caught.value.message
    assert "download the file again" in (caught.value.hint or "")
    assert len(list(out.rglob("*.JPEG"))) == kept


def test_truncated_inner_archive_ends_before_the_next(tmp_path: Path) -> None:
    path, out = tmp_path / "a.tar", tmp_path / "out"
    path.write_bytes(tar_in_tar(FLAT[: 3 * STEP]))  # without the end-of-archive blocks
    with pytest.raises(
        CorruptArchiveError, match=rf"{WNID}\.tar: truncated or damaged after 3\.JPEG"
    ):
        extract_train(path, out, ignore)
    names = sorted(path.relative_to(out).as_posix() for path in out.rglob("*.JPEG"))
    assert names == [f"{WNID}/{n}.JPEG" for n in (1, 2, 3)]


def test_archives_with_folders(tmp_path: Path) -> None:
    path, out = tmp_path / "a.tar", tmp_path / "out"
    inner = tar(member(f"./{WNID}", tarfile.DIRTYPE), member(f"./{WNID}/1.JPEG"))
    path.write_bytes(tar_in_tar(inner, f"train/{WNID}.tar"))
    assert extract_train(path, out, ignore).images == 2
    assert (out / WNID / "1.JPEG").read_bytes() == IMAGE


def test_duplicate_names(tmp_path: Path) -> None:
    path, out = tmp_path / "a.tar", tmp_path / "out"
    path.write_bytes(tar(member("a/1.JPEG"), member("b/1.JPEG")))
    taken = extract_val(path, out, TRUTH, ignore)
    assert taken.images == len(list(out.rglob("*.JPEG"))) == 1
    assert [(each.name, each.error) for each in taken.corrupt] == [
        ("b/1.JPEG", "duplicate image name")
    ]


def test_image_missing_in_the_ground_truth(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    path.write_bytes(FLAT)
    with pytest.raises(DrnError, match=r"a\.tar: 2\.JPEG: class is missing in the ground truth"):
        extract_val(path, tmp_path / "out", {"1": WNID}, ignore)


def test_progress_is_the_offset_in_the_outer_archive(tmp_path: Path) -> None:
    path, seen = tmp_path / "a.tar", []
    path.write_bytes(tar_in_tar(FLAT))
    extract_train(path, tmp_path / "out", seen.append)
    data, place = path.read_bytes(), -1
    ends = []
    for _ in range(6):
        place = data.index(IMAGE, place + 1)
        ends.append(place + len(IMAGE))
    assert seen == ends


def test_too_large_member_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    huge = tarfile.TarInfo("1.JPEG")
    huge.size = 2**40
    with path.open("wb") as file:
        file.write(huge.tobuf())
        file.truncate(2**40 + 512 + 10240)  # a sparse file
    taken = extract_val(path, tmp_path / "out", TRUTH, ignore)
    assert [(each.name, each.error) for each in taken.corrupt] == [
        ("1.JPEG", "too large for an image")
    ]
    with pytest.raises(DrnError, match=r"1\.JPEG: too large: "):
        list(read_members(path, lambda _: True))


def bomb(*, name: str) -> bytes:
    """Compress an archive of one file whose header claims a terabyte."""
    header = tarfile.TarInfo(name)
    header.size = 2**40
    header.type = tarfile.XHDTYPE if name == "header" else tarfile.REGTYPE
    return gzip.compress(header.tobuf(tarfile.GNU_FORMAT) + bytes(2**20))


@pytest.mark.parametrize(
    ("name", "message"),
    [("skipped.txt", "unpacks to more than 1.1 GB"), ("header", "claims to have 1099.5 GB")],
)
def test_compressed_archive_has_a_size_limit(tmp_path: Path, name: str, message: str) -> None:
    path = tmp_path / "a.tgz"
    path.write_bytes(bomb(name=name))
    with pytest.raises(DrnError, match=rf"a\.tgz: .*{message}"):
        list(read_members(path, lambda name: name.endswith(".xml")))


@pytest.mark.parametrize("spoil", [slice(0, -60), slice(4, None)])
def test_damaged_compressed_archive(tmp_path: Path, spoil: slice) -> None:
    path = tmp_path / "a.tgz"
    path.write_bytes(gzip.compress(FLAT)[spoil])
    with pytest.raises(CorruptArchiveError, match=r"a\.tgz: (truncated or )?damaged"):
        list(read_members(path, lambda _: True))


def test_missing_archive(tmp_path: Path) -> None:
    with pytest.raises(DrnError, match=r"a\.tgz: no such file"):
        list(read_members(tmp_path / "a.tgz", lambda _: True))


def test_image_that_cannot_be_written(tmp_path: Path) -> None:
    path, out = tmp_path / "a.tar", tmp_path / "out"
    path.write_bytes(FLAT)
    out.mkdir()
    (out / WNID).touch()  # a file where the folder should be
    with pytest.raises(DrnError, match=r"1\.JPEG: cannot be written"):
        extract_val(path, out, TRUTH, ignore)

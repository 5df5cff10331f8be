import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from drn_cli.errors import DrnError
from drn_cli.inference.inputs import find_images

KINDS = ("index", "colour")
UNPRIVILEGED = 65534  # user id


@pytest.fixture(autouse=True)
def images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "pics"
    for name in ("b.png", "A.JPG", "deep/c.jpeg", "deep/er/frame_1.png", "notes.txt"):
        touch(folder / name)
    monkeypatch.chdir(tmp_path)
    return folder


def touch(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()


def found(*inputs: str, out: str = "predictions") -> dict[str, str]:
    listed = find_images(inputs, [Path(out) / kind for kind in KINDS])
    result = {image.path: image.name for image in listed}
    assert len(result) == len(listed)
    return result


def test_file_name() -> None:
    assert found("pics/deep/c.jpeg") == {"pics/deep/c.jpeg": "c"}


def test_folder_structure_is_kept() -> None:
    assert found("pics") == {
        "pics/A.JPG": "A",
        "pics/b.png": "b",
        "pics/deep/c.jpeg": "deep/c",
        "pics/deep/er/frame_1.png": "deep/er/frame_1",
    }


def test_order_of_inputs_is_kept() -> None:
    assert list(found("pics/deep", "pics/b.png")) == [
        "pics/deep/c.jpeg",
        "pics/deep/er/frame_1.png",
        "pics/b.png",
    ]


@pytest.mark.parametrize("entry", ["pics", "pics/**/*.png"])
def test_order_within_a_folder(images: Path, entry: str) -> None:
    for name in ("a10.png", "B.png", "deep.png", "a9.png", "deep/z.png", "deep/a.png"):
        touch(images / name)
    assert [path for path in found(entry) if path.endswith(".png")] == [
        "pics/B.png",
        "pics/a10.png",
        "pics/a9.png",
        "pics/b.png",
        "pics/deep/a.png",
        "pics/deep/er/frame_1.png",
        "pics/deep/z.png",
        "pics/deep.png",
    ]


@pytest.mark.parametrize("entry", ["pics/", "./pics", "pics/.", "pics//"])
def test_spellings_of_a_folder(entry: str) -> None:
    assert found(entry) == found("pics")


def test_current_and_parent_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir("pics/deep")
    assert found(".") == {"c.jpeg": "c", "er/frame_1.png": "er/frame_1"}
    assert found("../deep") == {"../deep/c.jpeg": "c", "../deep/er/frame_1.png": "er/frame_1"}


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("pics/*.png", {"pics/b.png": "b"}),
        ("pics/**/frame_*.png", {"pics/deep/er/frame_1.png": "deep/er/frame_1"}),
        (
            "pics/**/*.[jp]*g",
            {
                "pics/b.png": "b",
                "pics/deep/c.jpeg": "deep/c",
                "pics/deep/er/frame_1.png": "deep/er/frame_1",
            },
        ),
        ("p?cs/deep/*.jpeg", {"pics/deep/c.jpeg": "pics/deep/c"}),
        ("pics/notes*", None),
    ],
)
def test_glob_keeps_structure_below_first_wildcard(
    pattern: str, expected: dict[str, str] | None
) -> None:
    if expected is None:
        with pytest.raises(DrnError, match="no images here"):
            found(pattern)
    else:
        assert found(pattern) == expected


def test_absolute_glob(images: Path) -> None:
    assert found(f"{images}/**/*.jpeg") == {f"{images}/deep/c.jpeg": "deep/c"}


def test_file_with_wildcard_in_its_name(images: Path) -> None:
    (images / "x[1].png").touch()
    assert found("pics/x[1].png") == {"pics/x[1].png": "x[1]"}


@pytest.mark.parametrize(
    "again", ["pics", "pics/b.png", "./pics/b.png", "pics/deep/../b.png", "pics/*.png"]
)
def test_repeated_image_is_listed_once(again: str) -> None:
    assert found("pics", again) == found("pics")


def test_image_with_two_paths_is_listed_once(images: Path) -> None:
    assert found("pics/b.png", str(images / "b.png")) == {"pics/b.png": "b"}


def test_symlinked_files_are_separate_images(images: Path) -> None:
    (images / "deep" / "link.png").symlink_to(images / "b.png")
    assert found("pics/deep/link.png", "pics/b.png") == {
        "pics/deep/link.png": "link",
        "pics/b.png": "b",
    }
    assert found("pics")["pics/deep/link.png"] == "deep/link"


def test_symlink_cycles_end(images: Path) -> None:
    before = found("pics")
    (images / "deep" / "round").symlink_to(images)  # endless, if it were followed
    (images / "folder.png").symlink_to(images / "deep")
    (images / "gone.png").symlink_to(images / "absent.png")
    assert found("pics") == before
    assert found("pics/**/*") == before


def test_glob_equals_folder_search(tmp_path: Path, images: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    for name in ("linked.png", ".hidden/h.png", ".ipynb_checkpoints/linked.png"):
        touch(elsewhere / name)
    (images / "deep" / "link").symlink_to(elsewhere)
    assert found("pics/**/*.*") == found("pics")
    assert found("pics/**/linked.png") == {"pics/deep/link/linked.png": "deep/link/linked"}
    assert found("pics/*/*/*.png") == found("pics/**/link/*.png", "pics/**/er/*.png")
    assert list(found("pics/deep/link/.hid*/*.png")) == ["pics/deep/link/.hidden/h.png"]


def test_symlinked_folder_as_input(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "pics" / "deep")
    assert found("link") == {"link/c.jpeg": "c", "link/er/frame_1.png": "er/frame_1"}
    assert list(found("pics", "link")) == list(found("pics"))  # the same images


def test_dots_in_file_names(images: Path) -> None:
    for name in ("v1.2/frame.0001.png", "v1.2/archive.tar.jpg"):
        touch(images / name)
    names = found("pics/v1.2")
    assert names["pics/v1.2/frame.0001.png"] == "frame.0001"
    assert names["pics/v1.2/archive.tar.jpg"] == "archive.tar"
    assert found("pics")["pics/v1.2/frame.0001.png"] == "v1.2/frame.0001"


def test_hidden_files_need_explicit_name(images: Path) -> None:
    before = found("pics")
    for name in (".hidden.png", ".folder/a.png", "._b.png"):
        touch(images / name)
    assert found("pics") == before
    assert found("pics/.hidden.png") == {"pics/.hidden.png": ".hidden"}
    assert found("pics/.h*.png") == {"pics/.hidden.png": ".hidden"}
    assert found("pics/.folder") == {"pics/.folder/a.png": "a"}


def test_temporary_files_are_skipped(images: Path) -> None:
    (images / ".b.png.1a2b3c4d.tmp").touch()
    assert len(found("pics")) == 4


def test_equal_stems_keep_extensions(images: Path) -> None:
    (images / "b.jpg").touch()
    names = found("pics")
    assert names["pics/b.jpg"] == "b.jpg"
    assert names["pics/b.png"] == "b.png"
    assert names["pics/A.JPG"] == "A"


def test_equal_output_names_are_an_error(images: Path) -> None:
    (images / "deep" / "b.png").touch()
    with pytest.raises(DrnError, match=r"would both be written as b\.png") as caught:
        found("pics/b.png", "pics/deep/b.png")
    assert "pics/deep/b.png and pics/b.png" in str(caught.value)


@pytest.mark.parametrize("out", ["pics/out", "pics", "pics/deep/../out"])
def test_output_folder_inside_input_is_skipped(images: Path, out: str) -> None:
    before = found("pics", out=out)
    assert len(before) == 4
    for kind in KINDS:
        touch(Path(out) / kind / "deep" / "c.png")
    assert found("pics", out=out) == before
    assert found("pics/**/*", out=out) == before


def test_folder_with_prefix_of_output_is_searched(images: Path) -> None:
    touch(images / "index2" / "d.png")
    assert found("pics", out="pics")["pics/index2/d.png"] == "index2/d"


def test_output_folder_above_input() -> None:
    assert len(found("pics", out=".")) == 4


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ("absent.png", "absent.png: no such file or folder"),
        ("pics/x*.png", r"pics/x\*.png: matches no file"),
        ("bare", "bare: no images here"),
    ],
)
def test_input_without_images_is_an_error(entry: str, message: str) -> None:
    Path("bare").mkdir()
    with pytest.raises(DrnError, match=message):
        found(entry)


def test_empty_folder_beside_other_inputs_is_reported(
    images: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (images / "empty").mkdir()
    assert list(found("pics/empty", "pics/b.png")) == ["pics/b.png"]
    assert caplog.messages == ["pics/empty: no images here (check the path)"]


def test_skipped_files_are_counted_over_all_inputs(
    images: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Including images in the output folder that a glob or a name refers to."""
    caplog.set_level(logging.INFO, "drn_cli")
    touch(Path("predictions/index/a.png"))
    touch(Path("predictions/color/b.png"))
    for name in ("gone.png", "deep/gone.png"):
        (images / name).symlink_to("absent.png")
    (images / "loop.png").symlink_to("loop.png")
    inputs = ("predictions/*/*.png", "pics/**/gone.png", "pics/**/g*", "pics/b.png")
    assert list(found(*inputs)) == ["predictions/color/b.png", "pics/b.png"]
    [said] = caplog.messages
    assert "loop.png" not in said
    assert "earlier predictions 1 (index/a.png), broken link 4 (deep/gone.png, " in said
    assert list(found("predictions/index", "pics/b.png")) == ["pics/b.png"]
    assert "predictions/index: no images here (check the path)" in caplog.messages


@pytest.mark.parametrize("pattern", ["pics/**/*.tif", "pics/**/c.png", "pics/d*", "pics/*/e?"])
def test_glob_without_match_is_an_error(images: Path, pattern: str) -> None:
    """Even if files exist that it does not match."""
    touch(images / ".hidden.tif")
    (images / "gone.png").symlink_to(images / "absent.png")
    (images / "deep" / "round").symlink_to(images)
    for inputs in ((pattern, "pics/b.png"), ("pics", pattern)):
        with pytest.raises(DrnError) as caught:
            found(*inputs)
        assert str(caught.value).startswith(f"{pattern}: matches no file")
        assert "notes.txt" not in str(caught.value)
        assert "gone.png" not in str(caught.value)


@pytest.mark.parametrize(
    ("pattern", "left_out"),
    [
        ("pics/**/*.png", "broken link 1 (gone.png), unreadable 1 (locked)"),
        ("pics/**/*.jpeg", "unreadable 1 (locked)"),
        ("pics/*ee?/**/*.png", ""),
        ("pics/*/**/*.txt", "unsupported extension 1 (deep/notes.txt), unreadable 1 (locked)"),
    ],
)
def test_only_skipped_files_matching_the_glob_are_reported(
    images: Path, pattern: str, left_out: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "drn_cli")
    touch(images / "deep" / "notes.txt")
    (images / "gone.png").symlink_to("absent.png")
    (images / "locked").mkdir()
    with without_rights(images / "locked"):
        assert "pics/b.png" in found(pattern, "pics/b.png")
    said = f"{pattern}, pics/b.png: left out: {left_out}"
    assert caplog.messages == ([said] if left_out else [])


@contextmanager
def without_rights(folder: Path) -> Iterator[None]:
    """Make a folder unreadable; as root, also switch to an unprivileged user."""
    before = os.geteuid()
    folder.chmod(0)
    Path.cwd().chmod(0o755)
    if before == 0:
        os.seteuid(UNPRIVILEGED)
    try:
        yield
    finally:
        os.seteuid(before)
        folder.chmod(0o755)


def test_unreadable_input_folder_is_an_error(
    images: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with without_rights(images / "deep"):
        with pytest.raises(DrnError) as caught:
            found("pics/deep")
        assert str(caught.value) == "pics/deep: cannot be read: Permission denied"
        assert set(found("pics")) == {"pics/A.JPG", "pics/b.png"}
    assert "unreadable 1 (deep)" in caplog.text


def test_input_in_unreadable_folder_is_an_error(images: Path) -> None:
    with without_rights(images / "deep"), pytest.raises(DrnError, match="pics/deep/er"):
        found("pics/deep/er")


def test_error_lists_supported_formats() -> None:
    Path("bare").mkdir()
    with pytest.raises(DrnError) as caught:
        found("bare")
    assert ".png" in str(caught.value.hint)


def test_named_file_may_have_any_extension() -> None:
    assert found("pics/notes.txt") == {"pics/notes.txt": "notes"}

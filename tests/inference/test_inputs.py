from pathlib import Path

import pytest

from drn_cli.errors import DrnError
from drn_cli.inference.inputs import find_pictures


@pytest.fixture(autouse=True)
def pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "pics"
    for name in ("b.png", "A.JPG", "deep/c.jpeg", "deep/er/frame_1.png", "notes.txt"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    monkeypatch.chdir(tmp_path)
    return folder


def found(*inputs: str, out: str = "predictions") -> dict[str, str]:
    listed = find_pictures(inputs, Path(out))
    result = {picture.path.as_posix(): picture.name.as_posix() for picture in listed}
    assert len(result) == len(listed)
    return result


def test_file_is_named_after_itself() -> None:
    assert found("pics/deep/c.jpeg") == {"pics/deep/c.jpeg": "c.png"}


def test_folder_is_searched_through_and_its_structure_kept() -> None:
    assert found("pics") == {
        "pics/A.JPG": "A.png",
        "pics/b.png": "b.png",
        "pics/deep/c.jpeg": "deep/c.png",
        "pics/deep/er/frame_1.png": "deep/er/frame_1.png",
    }


def test_order_is_that_of_the_inputs_and_then_of_the_names() -> None:
    assert list(found("pics/deep", "pics/b.png")) == [
        "pics/deep/c.jpeg",
        "pics/deep/er/frame_1.png",
        "pics/b.png",
    ]


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("pics/*.png", {"pics/b.png": "b.png"}),
        ("pics/**/frame_*.png", {"pics/deep/er/frame_1.png": "deep/er/frame_1.png"}),
        (
            "pics/**/*.[jp]*g",
            {
                "pics/b.png": "b.png",
                "pics/deep/c.jpeg": "deep/c.png",
                "pics/deep/er/frame_1.png": "deep/er/frame_1.png",
            },
        ),
        ("p?cs/deep/*.jpeg", {"pics/deep/c.jpeg": "pics/deep/c.png"}),
        ("pics/notes*", None),
    ],
)
def test_quoted_glob_keeps_the_structure_below_its_fixed_part(
    pattern: str, expected: dict[str, str] | None
) -> None:
    if expected is None:
        with pytest.raises(DrnError, match="no pictures here"):
            found(pattern)
    else:
        assert found(pattern) == expected


def test_absolute_glob_works_too(pictures: Path) -> None:
    assert found(f"{pictures}/**/*.jpeg") == {f"{pictures}/deep/c.jpeg": "deep/c.png"}


def test_file_whose_name_looks_like_a_glob_is_taken_as_it_is(pictures: Path) -> None:
    (pictures / "x[1].png").touch()
    assert found("pics/x[1].png") == {"pics/x[1].png": "x[1].png"}


@pytest.mark.parametrize(
    "again", ["pics", "pics/b.png", "./pics/b.png", "pics/deep/../b.png", "pics/*.png"]
)
def test_picture_that_is_named_twice_is_predicted_once(again: str) -> None:
    assert list(found("pics", again)) == list(found("pics"))


def test_picture_that_is_named_by_another_path_is_predicted_once(pictures: Path) -> None:
    assert found("pics/b.png", str(pictures / "b.png")) == {"pics/b.png": "b.png"}


def test_links_to_one_picture_are_pictures_of_their_own(pictures: Path) -> None:
    (pictures / "deep" / "link.png").symlink_to(pictures / "b.png")
    assert found("pics/deep/link.png", "pics/b.png") == {
        "pics/deep/link.png": "link.png",
        "pics/b.png": "b.png",
    }


def test_pictures_that_differ_in_their_suffix_get_names_of_their_own(pictures: Path) -> None:
    (pictures / "b.jpg").touch()
    names = found("pics")
    assert names["pics/b.jpg"] == "b.jpg.png"
    assert names["pics/b.png"] == "b.png.png"
    assert names["pics/A.JPG"] == "A.png"


def test_pictures_that_would_be_written_to_one_file_are_an_error(pictures: Path) -> None:
    (pictures / "deep" / "b.png").touch()
    with pytest.raises(DrnError, match=r"would both be written as b\.png\.png") as caught:
        found("pics/b.png", "pics/deep/b.png")
    assert "pics/deep/b.png and pics/b.png" in str(caught.value)


@pytest.mark.parametrize("out", ["pics/out", "pics"])
def test_predictions_inside_the_input_are_left_out(pictures: Path, out: str) -> None:
    before = found("pics", out=out)
    assert len(before) == 4
    for kind in ("index", "colour", "overlay"):
        path = Path(out) / kind / "deep" / "c.png"
        path.parent.mkdir(parents=True)
        path.touch()
    assert found("pics", out=out) == before


def test_output_folder_above_the_input_hides_nothing() -> None:
    assert len(found("pics", out=".")) == 4


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ("absent.png", "absent.png: no such file or folder"),
        ("pics/x*.png", r"pics/x\*.png: matches no file"),
        ("bare", "bare: no pictures here"),
    ],
)
def test_input_without_pictures_is_an_error_that_names_it(entry: str, message: str) -> None:
    Path("bare").mkdir()
    with pytest.raises(DrnError, match=message):
        found(entry)


def test_known_suffixes_are_told_when_there_is_no_picture() -> None:
    Path("bare").mkdir()
    with pytest.raises(DrnError) as caught:
        found("bare")
    assert ".png" in str(caught.value.hint)


def test_file_of_any_suffix_is_taken_when_it_is_named() -> None:
    assert found("pics/notes.txt") == {"pics/notes.txt": "notes.png"}

from pathlib import Path

import pytest

from drn_cli.data.audit.lists import read_lists
from drn_cli.data.folders import ListDataset


def doubts(root: Path, images: list[str], labels: list[str]) -> list[int]:
    """Return the lines of the pairs whose names are reported."""
    for name in {*images, *labels}:
        (root / name).touch()
    (root / "val_images.txt").write_text("\n".join(images))
    (root / "val_labels.txt").write_text("\n".join(labels))
    _, findings = read_lists(ListDataset.open(root), "val")
    assert {finding.kind for finding in findings} <= {"pairing"}
    return [finding.listed.line for finding in findings if finding.listed]


@pytest.mark.parametrize(
    ("lost", "hint"),
    [
        (0, None),  # nothing to compare with
        (2, "the names stop matching at line 3: f_0060.png and f_0090.png"),
        (5, None),
    ],
)
def test_line_missing_in_one_list(tmp_path: Path, lost: int, hint: str | None) -> None:
    names = [f"f_{n:04}.png" for n in range(0, 180, 30)]
    for name in names:
        (tmp_path / name).touch()
    (tmp_path / "val_images.txt").write_text("\n".join(names))
    (tmp_path / "val_labels.txt").write_text("\n".join(names[:lost] + names[lost + 1 :]))
    _, (finding,) = read_lists(ListDataset.open(tmp_path), "val")
    assert (finding.severity, finding.kind, finding.hint) == ("error", "list", hint)


CITYSCAPES = ("{}_leftImg8bit.png", "{}_gtFine_labelTrainIds.png")


@pytest.mark.parametrize(
    "pattern", [CITYSCAPES, ("{}.jpg", "{}.png"), ("{}.png", "{}_L.png"), ("{}.png", "{}p.png")]
)
def test_pair_with_an_unusual_name_is_reported(tmp_path: Path, pattern: tuple[str, str]) -> None:
    names = [f"aachen_{n:06}_{n % 7:06}" for n in range(0, 300, 10)]
    images, labels = ([form.format(name) for name in names] for form in pattern)
    assert doubts(tmp_path, images, labels) == []
    labels[3], labels[8] = labels[8], labels[3]
    assert doubts(tmp_path, images, labels) == [4, 9]


def test_unrelated_names_are_not_reported(tmp_path: Path) -> None:
    images = [f"image{n}.png" for n in range(20)]
    assert doubts(tmp_path, images, [f"label{n}.png" for n in reversed(range(20))]) == []


def test_two_naming_patterns_are_not_reported(tmp_path: Path) -> None:
    images = [f"{n:03}.png" for n in range(30)] + [f"x{n:03}_rgb.png" for n in range(10)]
    labels = [f"{n:03}_L.png" for n in range(30)] + [f"x{n:03}_gt.png" for n in range(10)]
    assert doubts(tmp_path, images, labels) == []

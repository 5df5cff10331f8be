"""Pairs of images and labels, detected suffixes, and ambiguous names."""

import pytest

from drn_cli.data.prepare.matching import match_names
from drn_cli.errors import DrnError

CITIES = [f"{city}/{city}_{n:06}_000019" for city in ("aachen", "bonn") for n in range(8)]


def pairs(matching) -> list[tuple[str, str]]:
    return [(match.image, match.label) for match in matching.pairs]


@pytest.mark.parametrize(
    ("image", "label"),
    [
        ("", ""),
        ("", "_mask"),
        ("", "_L"),
        ("_rgb", ""),
        ("_leftImg8bit", "_gtFine_labelIds"),
        ("_leftImg8bit", "_labels"),
        ("-image", "-label"),
        ("", "gt"),
    ],
)
def test_detects_suffixes(image: str, label: str) -> None:
    images = [f"{name}{image}.jpg" for name in CITIES]
    labels = [f"{name}{label}.png" for name in CITIES]
    found = match_names(images[::-1], labels)
    assert pairs(found) == list(zip(images, labels, strict=True))
    assert [match.stem for match in found.pairs] == CITIES
    assert (found.image_suffix, found.label_suffix) == (image, label)
    assert not found.without_label
    assert not found.without_image


def test_summary() -> None:
    assert str(match_names(["a.jpg"], ["a_mask.png"])) == "labels: stem + _mask, 1 pairs"
    assert str(match_names(["a.jpg"], ["a.png"])) == "labels: the same stem, 1 pairs"
    both = str(match_names(["a_x.jpg", "b_x.jpg"], ["a_y.png", "b_y.png"]))
    assert both == "images: stem + _x, labels: stem + _y, 2 pairs"


def test_suffix_does_not_split_numbers() -> None:
    names = [str(n) for n in range(1, 120)]
    found = match_names([f"{n}.jpg" for n in names], [f"{n}_m.png" for n in names])
    assert all(label == image.replace(".jpg", "_m.png") for image, label in pairs(found))
    with pytest.raises(DrnError, match="no label name matches an image name"):
        match_names(["1.jpg"], ["10.png"])


def test_reports_files_without_a_partner() -> None:
    found = match_names(["a.jpg", "b.jpg", "c.jpg"], ["b_m.png", "c_m.png", "d_m.png"])
    assert pairs(found) == [("b.jpg", "b_m.png"), ("c.jpg", "c_m.png")]
    assert found.without_label == ["a.jpg"]
    assert found.without_image == ["d_m.png"]


def test_folders_may_differ_for_unique_stems() -> None:
    found = match_names(["x/a.jpg", "y/b.jpg"], ["a_m.png", "b_m.png"])
    assert pairs(found) == [("x/a.jpg", "a_m.png"), ("y/b.jpg", "b_m.png")]
    found = match_names(["x/a.jpg", "y/a.jpg"], ["x/a.png", "y/a.png"])
    assert pairs(found) == [("x/a.jpg", "x/a.png"), ("y/a.jpg", "y/a.png")]
    found = match_names(["x/a.jpg", "y/a.jpg", "x/b.jpg"], ["a.png", "b.png"])
    assert pairs(found) == [("x/b.jpg", "b.png")]
    assert found.without_label == ["x/a.jpg", "y/a.jpg"]


def test_ambiguous_label_suffix() -> None:
    images = [f"{name}_leftImg8bit.png" for name in CITIES]
    labels = [f"{n}_gtFine_{kind}.png" for n in CITIES for kind in ("color", "labelIds")]
    with pytest.raises(DrnError) as caught:
        match_names(images, labels)
    assert caught.value.message == (
        "ambiguous label suffix: _gtFine_color or _gtFine_labelIds, each gives 16 pairs"
    )
    assert "--label-suffix" in str(caught.value.hint)
    found = match_names(images, labels, label_suffix="_gtFine_labelIds")
    assert pairs(found)[0] == (images[0], f"{CITIES[0]}_gtFine_labelIds.png")
    assert len(found.pairs) == 16
    assert not found.without_image


def test_ambiguous_image_suffix() -> None:
    images = [f"{name}_{kind}.png" for name in CITIES for kind in ("left", "right")]
    labels = [f"{name}.png" for name in CITIES]
    with pytest.raises(DrnError, match="ambiguous image suffix: _left or _right"):
        match_names(images, labels)
    assert len(match_names(images, labels, image_suffix="_right").pairs) == 16


def test_equal_stems_are_preferred() -> None:
    found = match_names(["a.jpg", "b.jpg"], ["a.png", "a_c.png", "b.png", "b_c.png"])
    assert pairs(found) == [("a.jpg", "a.png"), ("b.jpg", "b.png")]
    assert found.without_image == ["a_c.png", "b_c.png"]


def test_duplicate_names() -> None:
    with pytest.raises(
        DrnError, match=r"x/a.png: has the same name as x/a.jpg apart from the format"
    ):
        match_names(["x/a.png", "x/a.jpg"], ["x/a_m.png"])


def test_no_matching_names() -> None:
    with pytest.raises(DrnError, match=r"images cat.jpg; labels dog.png"):
        match_names(["cat.jpg"], ["dog.png"])
    with pytest.raises(DrnError, match="--label-suffix _x: no label name ends with it"):
        match_names(["a.jpg"], ["a.png"], label_suffix="_x")

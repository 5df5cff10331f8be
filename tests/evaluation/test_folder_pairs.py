"""Pairing the files of two folders by name; the files are empty."""

from pathlib import Path

import pytest

from drn_cli.errors import DrnError
from drn_cli.evaluation.folder_pairs import FolderPairs, pair_folders

FRAMES = "city, sequence and frame"


@pytest.fixture
def images(tmp_path: Path) -> Path:
    return tmp_path / "images"


@pytest.fixture
def labels(tmp_path: Path) -> Path:
    return tmp_path / "labels"


def touch(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


def names(pairs: FolderPairs, images: Path, labels: Path) -> list[tuple[str, str]]:
    """Return the pairs as paths relative to their folders."""
    return [
        (str(one.image.relative_to(images)), str(one.label.relative_to(labels)))
        for one in pairs.samples
        if one.label is not None
    ]


def below(folder: Path, *names: str) -> list[Path]:
    return [folder / name for name in names]


@pytest.mark.parametrize(
    ("name", "link", "suffixes", "lost"),
    [
        ("0{}.png", "0_real.png", ("_synth", None), 0),
        ("0{}.png", "1_synth.png", ("_synth", None), 1),
        ("0{}.png", "0_real.png", (None, None), 1),
        ("ulm_000001_000019{}.png", "../labels/ulm_000002_000019_gtFine_color.png", (None,) * 2, 0),
        ("0{}.png", "../labels/1_color.png", (None, None), 1),
        ("0{}.png", "../labels/0_real.png", (None, ""), 1),
        ("0{}.png", "../labels/0_real.png", (None, "_map"), 0),
    ],
)
def test_broken_link_is_counted_only_if_its_name_matches(
    images: Path,
    labels: Path,
    name: str,
    link: str,
    suffixes: tuple[str | None, str | None],
    lost: int,
) -> None:
    image, label = suffixes
    touch(images, name.format(image or ""))
    touch(labels, name.format(label or ""))
    (images / link).symlink_to("nothing")
    pairs = pair_folders(images, labels, *suffixes)
    assert (len(pairs.samples), pairs.lost) == (1, lost)


def test_cityscapes_frames_are_paired_whatever_suffix_follows(images: Path, labels: Path) -> None:
    touch(
        images,
        "aachen_000001_000019_leftImg8bit.png",
        "deep/er/ulm_000000_000019_synthesized_image.jpg",
        "ulm_000001_000019.PNG",
        "ulm_000001_000019.txt",
    )
    touch(
        labels,
        "aachen/aachen_000001_000019_gtFine_labelIds.png",
        "ulm/ulm_000000_000019_gtFine_labelIds.png",
        "ulm/ulm_000001_000019_gtFine_labelIds.png",
        "ulm/ulm_000001_000019_gtFine_polygons.json",
    )
    pairs = pair_folders(images, labels)
    assert names(pairs, images, labels) == [
        ("aachen_000001_000019_leftImg8bit.png", "aachen/aachen_000001_000019_gtFine_labelIds.png"),
        (
            "deep/er/ulm_000000_000019_synthesized_image.jpg",
            "ulm/ulm_000000_000019_gtFine_labelIds.png",
        ),
        ("ulm_000001_000019.PNG", "ulm/ulm_000001_000019_gtFine_labelIds.png"),
    ]
    assert (pairs.matched_by, pairs.unpaired_images, pairs.unpaired_labels) == (
        FRAMES,
        [],
        [],
    )


KINDS = ("labelTrainIds", "trainIds", "labelIds", "instanceIds", "instanceTrainIds", "color")


@pytest.mark.parametrize(
    ("present", "chosen"),
    [
        (KINDS, "labelTrainIds"),
        (KINDS[1:], "trainIds"),
        (KINDS[2:], "labelIds"),
        (("color", "instanceIds", "instanceTrainIds", "custom"), "custom"),
        (("color",), "color"),  # reading it is an error
    ],
)
def test_preferred_label_map_of_a_frame_is_chosen(
    images: Path, labels: Path, present: tuple[str, ...], chosen: str
) -> None:
    touch(images, "ulm_000000_000019_leftImg8bit.png")
    touch(labels, *(f"ulm/ulm_000000_000019_gtFine_{kind}.png" for kind in present))
    pairs = pair_folders(images, labels)
    assert names(pairs, images, labels) == [
        ("ulm_000000_000019_leftImg8bit.png", f"ulm/ulm_000000_000019_gtFine_{chosen}.png")
    ]
    assert pairs.unpaired_labels == []


def test_label_suffix_chooses_another_kind(images: Path, labels: Path) -> None:
    touch(images, "ulm_000000_000019_leftImg8bit.png")
    touch(labels, *(f"ulm_000000_000019_gtFine_{kind}.png" for kind in KINDS))
    pairs = pair_folders(images, labels, label_suffix="_labelIds")
    assert names(pairs, images, labels)[0][1] == "ulm_000000_000019_gtFine_labelIds.png"


def test_several_images_of_a_frame_are_an_error_without_a_suffix(
    images: Path, labels: Path
) -> None:
    touch(
        images,
        "ulm_000000_000019_leftImg8bit.png",
        "ulm_000000_000019_rightImg8bit.png",
        "zurich_000000_000019_leftImg8bit.png",
    )
    touch(labels, "ulm_000000_000019_gtFine_labelIds.png", "zurich_000000_000019_x.png")
    with pytest.raises(DrnError, match=r"several files of frame ulm_000000_000019: ") as caught:
        pair_folders(images, labels)
    assert caught.value.message.startswith(f"{images}: ")
    assert "_leftImg8bit.png and ulm_000000_000019_rightImg8bit.png" in caught.value.message
    assert str(caught.value.hint).endswith("--image-suffix _leftImg8bit")
    pairs = pair_folders(images, labels, "_leftImg8bit")
    assert len(pairs.samples) == 2
    assert pairs.unpaired_images == []


def test_several_labels_of_a_frame_are_an_error_without_a_suffix(
    images: Path, labels: Path
) -> None:
    touch(images, "ulm_000000_000019.png")
    touch(labels, "ulm_000000_000019_mine.png", "ulm_000000_000019_yours.png")
    with pytest.raises(DrnError, match=r"several files of frame ulm_000000_000019: ") as caught:
        pair_folders(images, labels)
    assert caught.value.message.startswith(f"{labels}: ")
    assert str(caught.value.hint).endswith("--label-suffix _mine")
    pairs = pair_folders(images, labels, label_suffix="_yours")
    assert names(pairs, images, labels) == [
        ("ulm_000000_000019.png", "ulm_000000_000019_yours.png")
    ]


def test_equal_names_in_two_subfolders_are_named_with_their_paths(
    images: Path, labels: Path
) -> None:
    """As in an output folder of `drn predict`: no suffix distinguishes them."""
    touch(images, "colour/ulm_000000_000019.png", "index/ulm_000000_000019.png")
    touch(labels, "ulm_000000_000019_gtFine_labelIds.png")
    with pytest.raises(DrnError, match=r"several files of frame ulm_000000_000019: ") as caught:
        pair_folders(images, labels)
    assert "colour/ulm_000000_000019.png" in caught.value.message
    assert "index/ulm_000000_000019.png" in caught.value.message
    assert "suffix" not in str(caught.value.hint)


def test_unpaired_frames_are_listed(images: Path, labels: Path) -> None:
    touch(images, "ulm_000000_000019_a.png", "ulm_000002_000019_a.png", "holiday.jpg")
    touch(
        labels,
        "ulm_000000_000019_gtFine_labelIds.png",
        "ulm_000001_000019_gtFine_labelIds.png",
        "ulm_000001_000019_gtFine_color.png",
    )
    pairs = pair_folders(images, labels)
    assert len(pairs.samples) == 1
    assert pairs.unpaired_images == below(images, "holiday.jpg", "ulm_000002_000019_a.png")
    [lone] = pairs.unpaired_labels
    assert lone.name.startswith("ulm_000001_000019_")


def test_label_map_without_a_frame_is_listed(images: Path, labels: Path) -> None:
    touch(images, "ulm_000000_000019.png")
    touch(labels, "ulm_000000_000019_gtFine_labelIds.png", "holiday.png")
    assert pair_folders(images, labels).unpaired_labels == below(labels, "holiday.png")


def test_frame_numbers_have_six_digits(images: Path, labels: Path) -> None:
    touch(images, "ulm_000000_000019.png", "ulm_000000_0000191.png")
    touch(labels, "ulm_000000_000019_labelIds.png")
    pairs = pair_folders(images, labels)
    assert [one.image.name for one in pairs.samples] == ["ulm_000000_000019.png"]
    assert pairs.unpaired_images == below(images, "ulm_000000_0000191.png")


@pytest.mark.parametrize(
    ("image_names", "label_names", "method"),
    [
        (["a.jpg", "b.jpg"], ["a.png", "b.png"], "labels: the same stem, 2 pairs"),
        (["a.png", "b.png"], ["a_mask.png", "b_mask.png"], "labels: stem + _mask, 2 pairs"),
        (["x/a.png", "y/a.png"], ["x/a.png", "y/a.png"], "labels: the same stem, 2 pairs"),
        (["flat_a.png", "flat_b.png"], ["x/flat_a.png", "y/flat_b.png"], "labels: the same stem"),
    ],
)
def test_files_without_frames_are_paired_by_name(
    images: Path, labels: Path, image_names: list[str], label_names: list[str], method: str
) -> None:
    touch(images, *image_names)
    touch(labels, *label_names)
    pairs = pair_folders(images, labels)
    assert names(pairs, images, labels) == list(zip(image_names, label_names, strict=True))
    assert pairs.matched_by.startswith(f"name ({method}")
    assert (pairs.unpaired_images, pairs.unpaired_labels) == ([], [])


def test_unpaired_files_are_listed(images: Path, labels: Path) -> None:
    touch(images, "z.png", "a.png", "b.png", "c.png")
    touch(labels, "a.png", "b.png", "deep/y.png")
    pairs = pair_folders(images, labels)
    assert names(pairs, images, labels) == [("a.png", "a.png"), ("b.png", "b.png")]
    assert pairs.unpaired_images == below(images, "c.png", "z.png")
    assert pairs.unpaired_labels == below(labels, "deep/y.png")


def test_suffixes_choose_among_files_without_frames(images: Path, labels: Path) -> None:
    touch(images, "a_left.png", "a_right.png", "b_left.png", "b_right.png")
    touch(labels, "a_fine.png", "a_coarse.png", "b_fine.png", "b_coarse.png")
    pairs = pair_folders(images, labels, "_right", "_coarse")
    assert names(pairs, images, labels) == [
        ("a_right.png", "a_coarse.png"),
        ("b_right.png", "b_coarse.png"),
    ]
    assert (pairs.unpaired_images, pairs.unpaired_labels) == ([], [])


def test_names_differ_by_nothing_but_given_suffixes(images: Path, labels: Path) -> None:
    touch(images, "a_right.png")
    touch(labels, "a_night_coarse.png")
    assert len(pair_folders(images, labels).samples) == 1
    with pytest.raises(DrnError, match="no label name matches an image name"):
        pair_folders(images, labels, "_right", "_coarse")


def test_no_pair_is_an_error(images: Path, labels: Path) -> None:
    touch(images, "a.png", "b.png")
    touch(labels, "x.png", "y.png")
    with pytest.raises(DrnError, match="no label name matches an image name"):
        pair_folders(images, labels)


def test_different_frames_are_not_paired(images: Path, labels: Path) -> None:
    """The sequence number is not taken for a suffix, though all images share one."""
    touch(images, "ulm_000000_000019.png", "aachen_000000_000019.png")
    touch(labels, "ulm_000001_000019.png", "aachen_000001_000019.png")
    with pytest.raises(DrnError, match=r"no frame in common \(images have"):
        pair_folders(images, labels)


def test_hidden_files_and_other_formats_are_ignored(images: Path, labels: Path) -> None:
    touch(images, "a.png", "._a.png", "a.txt", "b.png/inside.txt")
    touch(labels, "a.png", ".DS_Store", "a.json")
    pairs = pair_folders(images, labels)
    assert names(pairs, images, labels) == [("a.png", "a.png")]
    assert (pairs.unpaired_images, pairs.unpaired_labels) == ([], [])


@pytest.mark.parametrize("which", ["images", "labels"])
@pytest.mark.parametrize("wrong", ["missing", "empty", "suffix"])
def test_missing_and_empty_folders_are_errors_with_their_path(
    tmp_path: Path, images: Path, labels: Path, which: str, wrong: str
) -> None:
    touch(images, "a.png")
    touch(labels, "a.png")
    folders, suffixes = {"images": images, "labels": labels}, {"images": None, "labels": None}
    expected = {
        "missing": "nowhere: no such folder",
        "empty": "empty: no images here (left out: unsupported extension 1 (notes.txt))",
        "suffix": f"{which}: no images here whose name ends with _left",
    }[wrong]
    if wrong == "suffix":
        suffixes[which] = "_left"
    else:
        folders[which] = tmp_path / {"missing": "nowhere", "empty": "empty"}[wrong]
    touch(tmp_path / "empty", "notes.txt")
    with pytest.raises(DrnError) as caught:
        pair_folders(folders["images"], folders["labels"], suffixes["images"], suffixes["labels"])
    assert caught.value.message == f"{tmp_path}/{expected}"

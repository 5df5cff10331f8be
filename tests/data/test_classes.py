import csv
from importlib.resources import files

import numpy as np
import pytest

from drn_cli.data.classes import (
    ClassSet,
    camvid,
    camvid_colours,
    camvid_split,
    cityscapes,
    cityscapes_train_ids,
    generic,
)


def test_cityscapes_ids_match_the_table() -> None:
    table = files("drn_cli.data") / "tables" / "cityscapes_labels.csv"
    rows = list(csv.DictReader(table.read_text(encoding="utf-8").splitlines()))
    assert len(rows) == 35
    mapping = cityscapes_train_ids()
    assert mapping.dtype == np.uint8
    assert mapping.shape == (256,)
    for row in rows:
        if int(row["id"]) >= 0:
            assert mapping[int(row["id"])] == int(row["train_id"]), row["name"]
    assert (mapping[34:] == 255).all()


@pytest.mark.parametrize(
    ("label_id", "train_id"), [(0, 255), (7, 0), (8, 1), (9, 255), (29, 255), (31, 16), (33, 18)]
)
def test_well_known_cityscapes_ids(label_id: int, train_id: int) -> None:
    assert cityscapes_train_ids()[label_id] == train_id


def test_license_plate_with_id_minus_one_has_no_entry() -> None:
    mapping = cityscapes_train_ids()
    assert mapping[-1] == 255
    assert sorted(mapping[mapping != 255].tolist()) == list(range(19))


def test_cityscapes_classes_are_in_the_order_of_train_ids() -> None:
    classes = cityscapes()
    assert len(classes) == 19
    assert classes.names[0] == "road"
    assert classes.names[13] == "car"
    assert classes.names[18] == "bicycle"
    assert classes.colours[0] == (128, 64, 128)
    assert classes.colours[13] == (0, 0, 142)
    assert "license plate" not in classes.names


def test_camvid_classes_are_those_of_the_segnet_copy() -> None:
    classes = camvid()
    assert dict(zip(classes.names, classes.colours, strict=True)) == {
        "Sky": (128, 128, 128),
        "Building": (128, 0, 0),
        "Pole": (192, 192, 128),
        "Road": (128, 64, 128),
        "Pavement": (60, 40, 222),
        "Tree": (128, 128, 0),
        "SignSymbol": (192, 128, 128),
        "Fence": (64, 64, 128),
        "Car": (64, 0, 128),
        "Pedestrian": (64, 64, 0),
        "Bicyclist": (0, 128, 192),
    }
    assert classes.names[3] == "Road"
    assert classes.names[10] == "Bicyclist"


def test_camvid_colors_are_the_original_and_the_evaluated_ones() -> None:
    colours = camvid_colours()
    assert len(colours) == 32 + 11
    assert {number for _, number, _ in colours} == {*range(11), 255}
    ids = {name: number for name, number, _ in colours}
    for name, number in {
        "Wall": 1,
        "LaneMkgsDriv": 3,
        "Sidewalk": 4,
        "Train": 8,
        "Void": 255,
    }.items():
        assert ids[name] == number
    by_colour: dict[tuple[int, int, int], int] = {}
    for _, number, colour in colours:
        assert by_colour.setdefault(colour, number) == number, colour
    assert len(by_colour) == 33
    evaluated = dict(zip(camvid().colours, range(11), strict=True))
    assert evaluated.items() <= by_colour.items()


def test_camvid_split_is_the_usual_one() -> None:
    split = camvid_split()
    counts = [list(split.values()).count(part) for part in ("train", "val", "test")]
    assert counts == [367, 101, 233]
    assert split["0001TP_006690"] == "train"
    assert split["0016E5_07959"] == "val"
    assert split["0001TP_008550"] == "test"


def test_palette_is_black_beyond_the_classes() -> None:
    palette = ClassSet(("a", "b"), ((1, 2, 3), (250, 251, 252))).palette()
    assert len(palette) == 768
    assert palette[:6] == bytes([1, 2, 3, 250, 251, 252])
    assert not any(palette[6:])


def test_generic_colors_are_unique_and_not_that_of_ignored() -> None:
    for count in range(2, 256):
        classes = generic(count)
        assert len(classes) == len(classes.colours) == count
        assert len(set(classes.names)) == count
        assert all(0 <= value <= 255 for colour in classes.colours for value in colour)
        if count not in (11, 19):
            assert len(set(classes.colours)) == count, count
            assert (0, 0, 0) not in classes.colours


def test_generic_colors_are_those_of_pascal_voc() -> None:
    assert generic(4).colours == ((128, 0, 0), (0, 128, 0), (128, 128, 0), (0, 0, 128))
    assert generic(20).colours[19] == (0, 64, 128)


def test_19_and_11_classes_are_cityscapes_and_camvid() -> None:
    assert generic(19) == cityscapes()
    assert generic(11) == camvid()
    assert generic(12).names[:2] == ("class 0", "class 1")

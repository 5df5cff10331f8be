"""Class ids of class files and of label values."""

import pytest

from drn_cli.data.prepare.class_files import NamedClass
from drn_cli.data.prepare.class_tables import (
    map_named_classes,
    map_numbered_classes,
    parse_ignored,
)
from drn_cli.errors import DrnError


def rows(*given: tuple) -> list[NamedClass]:
    return [NamedClass(name, color, value, "c.csv:1") for name, color, value in given]


RED, GREEN, BLUE = (255, 0, 0), (0, 255, 0), (0, 0, 255)


def test_void_is_ignored_and_equal_names_are_one_class() -> None:
    grey = (9, 9, 9)
    made = map_named_classes(
        rows(("Void", RED, None), ("car", GREEN, None), ("car", BLUE, None), ("sky", grey, None))
    )
    assert made.class_set.names == ("car", "sky")
    assert made.class_set.colours == (GREEN, grey)
    assert made.colors == {RED: 255, GREEN: 0, BLUE: 0, grey: 1}
    assert made.values == {0: 255, 1: 0, 2: 0, 3: 1, 255: 255}
    assert not made.has_values


def test_file_values_define_order_and_255_can_be_a_class() -> None:
    made = map_named_classes(
        rows(("object", None, 255), ("nothing", None, 0), ("unlabeled", None, 3))
    )
    assert made.class_set.names == ("nothing", "object")
    assert made.values == {255: 1, 0: 0, 3: 255}
    assert made.has_values
    assert len(set(made.class_set.colours)) == 2


def test_ignores_by_name_or_value() -> None:
    three = rows(("a", None, None), ("b", None, None), ("c", None, None))
    assert map_named_classes(three, ["A"]).values == {0: 255, 1: 0, 2: 1, 255: 255}
    made = map_named_classes(three, [], [1, 9])
    assert made.class_set.names == ("a", "c")
    assert made.values == {0: 0, 1: 255, 2: 1, 9: 255, 255: 255}


def test_too_few_or_too_many_classes() -> None:
    with pytest.raises(DrnError, match=r"c.csv: contains 0 classes"):
        map_named_classes(rows(("void", RED, None)))
    with pytest.raises(DrnError, match=r"c.csv: contains 1 class besides void") as caught:
        map_named_classes(rows(("void", RED, None), ("car", GREEN, None)))
    assert "background" in str(caught.value.hint)
    with pytest.raises(DrnError, match=r"contains 256 classes"):
        map_named_classes(rows(*((str(n), (n, 0, 0), None) for n in range(256))))


def test_numbered_classes() -> None:
    made = map_numbered_classes([0, 1, 3, 2, 7], [0, 7])
    assert made.class_set.names == ("class 1", "class 2", "class 3")
    assert made.values == {0: 255, 1: 0, 2: 1, 3: 2, 7: 255, 255: 255}


@pytest.mark.parametrize(
    ("values", "ignored", "message"),
    [
        ([0, 128], [], r"values 0, 128; .* make 129 classes, 127 of .* pixels \(1 to 127\)"),
        ([1, 2, 3, 7], [], r"values 1, 2, 3, 7; .* make 8 classes, 4 of .* pixels \(0, 4 to 6\)"),
        ([0, 2, 5, 7], [0, 7], r"values 2, 5; .* make 5 classes, 3 of .* pixels \(1, 3 to 4\)"),
    ],
)
def test_gaps_between_values_are_refused(
    values: list[int], ignored: list[int], message: str
) -> None:
    with pytest.raises(DrnError, match=message) as caught:
        map_numbered_classes(values, ignored)
    assert "--write-classes" in str(caught.value.hint)


@pytest.mark.parametrize("count", [11, 19])
def test_numbered_classes_are_not_a_known_set(count: int) -> None:
    made = map_numbered_classes(range(count))
    assert made.class_set.names[0] == "class 0"
    assert len(set(made.class_set.colours)) == count


@pytest.mark.parametrize("values", [[], [0]])
def test_single_value_is_refused(values: list[int]) -> None:
    with pytest.raises(DrnError, match="contain fewer than two classes") as caught:
        map_numbered_classes(values)
    assert "name,id" in str(caught.value.hint)


def test_parse_ignored() -> None:
    known = rows(("a", None, None), ("7", None, None))
    assert parse_ignored(["A", "7", "8"], known) == (["A", "7"], [8])
    for wrong in ("road", "256", "-1"):
        with pytest.raises(DrnError, match=f"--ignore {wrong}: neither"):
            parse_ignored([wrong], known)

"""From named classes, or from numbers, to ids."""

import pytest

from drn_cli.data.prepare.class_files import NamedClass
from drn_cli.data.prepare.class_tables import named, numbered, sort_out
from drn_cli.errors import DrnError


def rows(*given: tuple) -> list[NamedClass]:
    return [NamedClass(name, colour, value, "c.csv:1") for name, colour, value in given]


RED, GREEN, BLUE = (255, 0, 0), (0, 255, 0), (0, 0, 255)


def test_void_is_no_class_and_rows_of_one_name_are_one() -> None:
    grey = (9, 9, 9)
    made = named(
        rows(("Void", RED, None), ("car", GREEN, None), ("car", BLUE, None), ("sky", grey, None))
    )
    assert made.class_set.names == ("car", "sky")
    assert made.class_set.colours == (GREEN, grey)
    assert made.colours == {RED: 255, GREEN: 0, BLUE: 0, grey: 1}
    assert made.values == {0: 255, 1: 0, 2: 0, 3: 1, 255: 255}
    assert not made.has_values


def test_given_values_decide_about_the_order_and_255_may_be_a_class() -> None:
    made = named(rows(("object", None, 255), ("nothing", None, 0), ("unlabeled", None, 3)))
    assert made.class_set.names == ("nothing", "object")
    assert made.values == {255: 1, 0: 0, 3: 255}
    assert made.has_values
    assert len(set(made.class_set.colours)) == 2


def test_what_is_ignored_by_name_or_value_is_no_class() -> None:
    three = rows(("a", None, None), ("b", None, None), ("c", None, None))
    assert named(three, ["A"]).values == {0: 255, 1: 0, 2: 1, 255: 255}
    made = named(three, [], [1, 9])
    assert made.class_set.names == ("a", "c")
    assert made.values == {0: 0, 1: 255, 2: 1, 9: 255, 255: 255}


def test_nothing_left_and_too_many_are_errors() -> None:
    with pytest.raises(DrnError, match=r"c.csv: names 0 classes"):
        named(rows(("void", RED, None)))
    with pytest.raises(DrnError, match=r"c.csv: names 1 class besides void") as caught:
        named(rows(("void", RED, None), ("car", GREEN, None)))
    assert "background" in str(caught.value.hint)
    with pytest.raises(DrnError, match=r"names 256 classes"):
        named(rows(*((str(n), (n, 0, 0), None) for n in range(256))))


def test_numbers_alone() -> None:
    made = numbered([0, 1, 3, 2, 7], [0, 7])
    assert made.class_set.names == ("class 1", "class 2", "class 3")
    assert made.values == {0: 255, 1: 0, 2: 1, 3: 2, 7: 255, 255: 255}


@pytest.mark.parametrize(
    ("values", "ignored", "message"),
    [
        ([0, 128], [], r"values 0, 128; .* make 129 classes, 127 of .* pixel \(1 to 127\)"),
        ([1, 2, 3, 7], [], r"values 1, 2, 3, 7; .* make 8 classes, 4 of .* pixel \(0, 4 to 6\)"),
        ([0, 2, 5, 7], [0, 7], r"values 2, 5; .* make 5 classes, 3 of .* pixel \(1, 3 to 4\)"),
    ],
)
def test_gaps_are_no_classes(values: list[int], ignored: list[int], message: str) -> None:
    with pytest.raises(DrnError, match=message) as caught:
        numbered(values, ignored)
    assert "--write-classes" in str(caught.value.hint)


@pytest.mark.parametrize("count", [11, 19])
def test_numbers_are_not_taken_for_a_known_set(count: int) -> None:
    made = numbered(range(count))
    assert made.class_set.names[0] == "class 0"
    assert len(set(made.class_set.colours)) == count


@pytest.mark.parametrize("values", [[], [0]])
def test_a_single_number_is_no_classes(values: list[int]) -> None:
    with pytest.raises(DrnError, match="hold fewer than two classes") as caught:
        numbered(values)
    assert "name,id" in str(caught.value.hint)


def test_names_and_values_are_told_apart() -> None:
    known = rows(("a", None, None), ("7", None, None))
    assert sort_out(["A", "7", "8"], known) == (["A", "7"], [8])
    for wrong in ("road", "256", "-1"):
        with pytest.raises(DrnError, match=f"--ignore {wrong}: neither"):
            sort_out([wrong], known)

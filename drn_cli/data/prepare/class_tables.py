"""From the classes that a file names, or from numbers alone, to ids of colours and label values."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from drn_cli.data.classes import IGNORED, ClassSet, Colour, generic
from drn_cli.data.prepare.class_files import NamedClass
from drn_cli.errors import DrnError

VOID_NAMES = frozenset({"void", "ignore", "ignored", "unlabeled", "unlabelled"})


@dataclass(frozen=True, slots=True)
class Classes:
    """Classes, and what stands for each in labels; 255 stands for what is ignored.

    Attributes:
        class_set: Their names and colours, without those that are ignored.
        colours: The id of each colour; empty if no colours are named.
        values: The id of each label value.
        has_values: Whether somebody gave these values; otherwise they count from 0.
    """

    class_set: ClassSet
    colours: Mapping[Colour, int]
    values: Mapping[int, int]
    has_values: bool


def named(
    rows: Sequence[NamedClass],
    ignored: Sequence[str] = (),
    ignored_values: Sequence[int] = (),
) -> Classes:
    """Give ids to the classes of a file: in the order of their values, or else of their rows.

    Args:
        rows: The classes. Rows of the same name are one class.
        ignored: Names to ignore besides void, ignore and unlabeled.
        ignored_values: Label values to ignore; a class without any other is none.

    Raises:
        DrnError: Fewer than two are left, or more classes than an id can tell apart.
    """
    where = rows[0].where.rpartition(":")[0]
    void = VOID_NAMES | {name.casefold() for name in ignored}
    has_values = rows[0].value is not None
    pairs = [(row.value if row.value is not None else n, row) for n, row in enumerate(rows)]
    if has_values:
        pairs.sort(key=lambda pair: pair[0])
    ids: dict[str, int] = {}
    for value, row in pairs:
        if row.name.casefold() not in void and value not in ignored_values:
            ids.setdefault(row.name, len(ids))
    if not 2 <= len(ids) <= IGNORED:
        noun = "class" if len(ids) == 1 else "classes"
        raise DrnError(
            f"{where}: names {len(ids)} {noun} besides void; 2 to {IGNORED} can be told apart",
            "what is not the class needs one of its own, background" if len(ids) == 1 else None,
        )
    id_of = {row.name: ids.get(row.name, IGNORED) for row in rows}
    given = {row.name: row.colour for _, row in reversed(pairs)}
    made_up = _colours(len(ids))
    class_set = ClassSet(
        tuple(ids), tuple(given[name] or made_up[number] for name, number in ids.items())
    )
    return Classes(
        class_set,
        {row.colour: id_of[row.name] for row in rows if row.colour is not None},
        {IGNORED: IGNORED}
        | {value: id_of[row.name] for value, row in pairs}
        | dict.fromkeys(ignored_values, IGNORED),
        has_values,
    )


def numbered(values: Sequence[int], ignored: Sequence[int] = ()) -> Classes:
    """Make classes of label values alone: from 0 to the highest, without those that are ignored.

    Raises:
        DrnError: Fewer than two are left, or one of them never occurs: 0 and 128 are seldom two of
            129 classes.
    """
    highest = max((value for value in values if value not in ignored), default=0)
    kept = [value for value in range(highest + 1) if value not in ignored]
    if len(kept) < 2:
        found = ", ".join(map(str, values)) or "none"
        left_out = ", ".join(map(str, sorted({*ignored, IGNORED})))
        raise DrnError(
            f"the labels hold fewer than two classes: values {found}; ignored are {left_out}",
            "name every class in --classes FILE, a CSV file: name,id on the first line, then for "
            "example background,0 and object,255",
        )
    gaps = [value for value in kept if value not in values]
    if gaps:
        found = ", ".join(map(str, (value for value in values if value not in ignored)))
        raise DrnError(
            f"the labels hold the values {found}; as they stand they would make {len(kept)} "
            f"classes, {len(gaps)} of them without a pixel ({_ranges(gaps)})",
            "name those that are classes with --classes FILE, which --write-classes FILE begins; "
            "--ignore VALUE ignores one",
        )
    class_set = ClassSet(tuple(f"class {value}" for value in kept), _colours(len(kept)))
    ids = {value: number for number, value in enumerate(kept)}
    table = {IGNORED: IGNORED} | ids | dict.fromkeys(ignored, IGNORED)
    return Classes(class_set, {}, table, has_values=False)


def _ranges(numbers: Sequence[int]) -> str:
    """Write rising numbers as people do: `0, 3, 7 to 12`."""
    parts, start = [], numbers[0]
    for number, following in zip(numbers, [*numbers[1:], None], strict=True):
        if following != number + 1:
            parts.append(f"{start}" if start == number else f"{start} to {number}")
            start = following or 0
    return ", ".join(parts)


def _colours(count: int) -> tuple[Colour, ...]:
    """Make up colours; of few classes too, where `generic` would give those of a known set."""
    return generic(IGNORED + 1).colours[:count]


def sort_out(ignored: Sequence[str], rows: Sequence[NamedClass]) -> tuple[list[str], list[int]]:
    """Tell names of classes and label values apart in what is to be ignored.

    Raises:
        DrnError: Something that is neither.
    """
    names, values = [], []
    known = {row.name.casefold() for row in rows}
    for word in ignored:
        if word.casefold() in known:
            names.append(word)
        elif word.isascii() and word.isdigit() and int(word) <= IGNORED:
            values.append(int(word))
        else:
            raise DrnError(
                f"--ignore {word}: neither a class of the class file nor a value from 0 to 255"
            )
    return names, values

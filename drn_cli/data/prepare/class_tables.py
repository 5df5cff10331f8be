"""Map colors and label values to class ids, from a class file or from the label values alone."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from drn_cli.data.classes import IGNORED, ClassSet, Colour, generic
from drn_cli.data.prepare.class_files import NamedClass
from drn_cli.errors import DrnError

VOID_NAMES = frozenset({"void", "ignore", "ignored", "unlabeled", "unlabelled"})


@dataclass(frozen=True, slots=True)
class ClassMapping:
    """Class ids of the colors and values in labels; ignored ones map to 255."""

    class_set: ClassSet  # names and colors of the classes, without ignored ones
    colors: Mapping[Colour, int]  # class id of each color; empty if the class file has no colors
    values: Mapping[int, int]  # class id of each label value
    has_values: bool  # whether the class file has label values; otherwise they count from 0


def map_named_classes(
    rows: Sequence[NamedClass], ignored: Sequence[str] = (), ignored_values: Sequence[int] = ()
) -> ClassMapping:
    """Assign ids to the classes of a class file, in the order of their values or else their rows.

    Args:
        rows: Rows of the class file. Rows of the same name are one class.
        ignored: Names to ignore besides void, ignore and unlabeled.
        ignored_values: Label values to ignore; a class with no other value is dropped.

    Raises:
        DrnError: Fewer than 2 or more than 255 classes remain.
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
            f"{where}: contains {len(ids)} {noun} besides void; 2 to {IGNORED} are supported",
            "add a background class for all other pixels" if len(ids) == 1 else None,
        )
    id_of = {row.name: ids.get(row.name, IGNORED) for row in rows}
    colors = {row.name: row.color for _, row in reversed(pairs)}
    generated = _colors(len(ids))
    class_set = ClassSet(
        tuple(ids), tuple(colors[name] or generated[number] for name, number in ids.items())
    )
    return ClassMapping(
        class_set,
        {row.color: id_of[row.name] for row in rows if row.color is not None},
        {IGNORED: IGNORED}
        | {value: id_of[row.name] for value, row in pairs}
        | dict.fromkeys(ignored_values, IGNORED),
        has_values,
    )


def map_numbered_classes(values: Sequence[int], ignored: Sequence[int] = ()) -> ClassMapping:
    """Use label values as classes: from 0 to the highest value, without ignored ones.

    Raises:
        DrnError: Fewer than two classes remain, or one of them never occurs: labels of 0 and 128
            rarely mean 129 classes.
    """
    highest = max((value for value in values if value not in ignored), default=0)
    kept = [value for value in range(highest + 1) if value not in ignored]
    if len(kept) < 2:
        found = ", ".join(map(str, values)) or "none"
        left_out = ", ".join(map(str, sorted({*ignored, IGNORED})))
        raise DrnError(
            f"the labels contain fewer than two classes: values {found}; ignored: {left_out}",
            "list every class in a CSV file for --classes FILE: the header name,id, then for "
            "example background,0 and object,255",
        )
    gaps = [value for value in kept if value not in values]
    if gaps:
        found = ", ".join(map(str, (value for value in values if value not in ignored)))
        raise DrnError(
            f"the labels contain the values {found}; as class ids they make {len(kept)} classes, "
            f"{len(gaps)} of them without pixels ({_ranges(gaps)})",
            "list the classes in a file for --classes FILE (--write-classes FILE creates a "
            "template), or ignore a value with --ignore VALUE",
        )
    class_set = ClassSet(tuple(f"class {value}" for value in kept), _colors(len(kept)))
    ids = {value: number for number, value in enumerate(kept)}
    table = {IGNORED: IGNORED} | ids | dict.fromkeys(ignored, IGNORED)
    return ClassMapping(class_set, {}, table, has_values=False)


def _ranges(numbers: Sequence[int]) -> str:
    """Format ascending numbers as ranges: `0, 3, 7 to 12`."""
    parts, start = [], numbers[0]
    for number, following in zip(numbers, [*numbers[1:], None], strict=True):
        if following != number + 1:
            parts.append(f"{start}" if start == number else f"{start} to {number}")
            start = following or 0
    return ", ".join(parts)


def _colors(count: int) -> tuple[Colour, ...]:
    """Return distinct colors; `generic(19)` would return the colors of Cityscapes."""
    return generic(IGNORED + 1).colours[:count]


def parse_ignored(
    ignored: Sequence[str], rows: Sequence[NamedClass]
) -> tuple[list[str], list[int]]:
    """Split the values of --ignore into class names and label values; DrnError if one is neither.

    A number that is also a class name is that class.
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
                f"--ignore {word}: neither a class in the class file nor a value from 0 to 255"
            )
    return names, values

"""Files in which people name their classes: CSV, `R G B name` lines, plain names, or JSON."""

import csv
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from drn_cli.data.classes import Colour
from drn_cli.errors import DrnError
from drn_cli.files import read_json, read_text

FORMS = (
    "a class file is CSV with the header name,r,g,b (and id, if label values are not 0, 1, 2, ...),"
    " or lines `R G B name`, or one name a line, or a JSON list"
)
HEADER = {
    **{"name": "name", "class": "name", "label": "name"},
    **{"r": "r", "g": "g", "b": "b", "red": "r", "green": "g", "blue": "b"},
    **{"id": "id", "value": "id"},
}
COLOUR_LINE = re.compile(r"(\d+)[\s,]+(\d+)[\s,]+(\d+)[\s,]+(\S.*)")


@dataclass(frozen=True, slots=True)
class NamedClass:
    """One row of a class file.

    Attributes:
        name: As it is written there, without spaces around it.
        colour: What shows it in colour labels, if the file says so.
        value: What stands for it in labels of single values, if the file says so.
        where: File and line, for messages.
    """

    name: str
    colour: Colour | None
    value: int | None
    where: str


def read_class_file(path: Path) -> list[NamedClass]:
    """Read the classes that a file names, in its order. Several rows may share a name.

    Raises:
        DrnError: The file is missing, empty or of another form; a colour or value is out of
            range, is given twice, or is given for some rows only.
    """
    rows = _json(path) if path.suffix.lower() == ".json" else _lines(path)
    if not rows:
        raise DrnError(f"{path}: names no class", FORMS)
    nameless = [row.where for row in rows if not row.name]
    if nameless:
        raise DrnError(f"{nameless[0]}: has no name", FORMS)
    _check(rows, "a colour", lambda row: row.colour)
    _check(rows, "an id", lambda row: row.value)
    return rows


def _check(rows: Sequence[NamedClass], what: str, part: Callable[[NamedClass], Any]) -> None:
    """Refuse what only some rows have, and what two rows of different names share."""
    without = [row for row in rows if part(row) is None]
    if without and len(without) < len(rows):
        raise DrnError(f"{without[0].where}: {without[0].name} has not {what}, others have")
    first: dict[Any, NamedClass] = {}
    for row in rows if not without else ():
        before = first.setdefault(part(row), row)
        if before.name != row.name:
            raise DrnError(f"{row.where}: {row.name} has {what} that {before.name} has already")


def _lines(path: Path) -> list[NamedClass]:
    text = read_text(path)
    lines = [(f"{path}:{n}", line.strip()) for n, line in enumerate(text.split("\n"), start=1)]
    lines = [(where, line) for where, line in lines if line]
    if not lines:
        return []
    header = [HEADER.get(cell.lower()) for cell in _cells(lines[0][1])]
    if "name" in header:
        return [_table_row(header, line, where) for where, line in lines[1:]]
    if all(COLOUR_LINE.fullmatch(line) for _, line in lines):
        return [_colour_row(line, where) for where, line in lines]
    for where, line in lines:
        if "," in line or COLOUR_LINE.fullmatch(line):
            raise DrnError(f"{where}: {line!r} is no class name", FORMS)
    return _distinct([NamedClass(line, None, None, where) for where, line in lines])


def _cells(line: str) -> list[str]:
    return [cell.strip() for cell in next(csv.reader([line], skipinitialspace=True))]


def _table_row(header: list[str | None], line: str, where: str) -> NamedClass:
    cells = _cells(line)
    if len(cells) < len(header):
        raise DrnError(f"{where}: {line!r} has {len(cells)} cells, the header {len(header)}", FORMS)
    row = {key: cell for key, cell in zip(header, cells, strict=False) if key}
    colour = [row[key] for key in "rgb" if key in row]
    return NamedClass(
        row["name"],
        _colour(colour, where) if colour else None,
        _number(row["id"], where) if "id" in row else None,
        where,
    )


def _colour_row(line: str, where: str) -> NamedClass:
    match = COLOUR_LINE.fullmatch(line)
    assert match is not None
    return NamedClass(match[4], _colour(match.groups()[:3], where), None, where)


def _json(path: Path) -> list[NamedClass]:
    entries = read_json(path)
    if not isinstance(entries, list):
        raise DrnError(f"{path}: should hold a list", FORMS)
    named = [(f"{path}: entry {number}", entry) for number, entry in enumerate(entries, start=1)]
    if all(isinstance(entry, str) for entry in entries):
        return _distinct([NamedClass(entry.strip(), None, None, where) for where, entry in named])
    return [_object(entry, where) for where, entry in named]


def _object(entry: Any, where: str) -> NamedClass:
    if not isinstance(entry, dict) or not isinstance(entry.get("name"), str):
        raise DrnError(
            f"{where}: {json.dumps(entry)} is no class",
            'write names, or {"name": "road", "color": [128, 64, 128], "id": 7}',
        )
    colour = next((entry[key] for key in ("color", "colour", "rgb") if key in entry), None)
    if colour is not None and not isinstance(colour, list):
        raise DrnError(f"{where}: {json.dumps(colour)} is no colour; write [red, green, blue]")
    return NamedClass(
        entry["name"].strip(),
        None if colour is None else _colour(colour, where),
        _number(entry["id"], where) if "id" in entry else None,
        where,
    )


def _colour(parts: Sequence[Any], where: str) -> Colour:
    if len(parts) != 3:
        raise DrnError(f"{where}: a colour has three parts, red, green and blue", FORMS)
    red, green, blue = (_number(part, where) for part in parts)
    return (red, green, blue)


def _number(part: Any, where: str) -> int:
    text = str(part).strip()
    if not re.fullmatch(r"\d{1,3}", text, re.ASCII) or int(text) > 255:
        raise DrnError(f"{where}: {text!r} should be a whole number from 0 to 255")
    return int(text)


def _distinct(rows: list[NamedClass]) -> list[NamedClass]:
    """Refuse a name that comes twice where nothing but its place stands for it."""
    seen: dict[str, NamedClass] = {}
    for row in rows:
        if seen.setdefault(row.name, row) is not row:
            raise DrnError(f"{row.where}: names {row.name} again, after {seen[row.name].where}")
    return rows

"""Class files: CSV, `R G B name` lines, one name per line, or JSON."""

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

FORMATS = (
    "a class file is CSV with the header name,r,g,b (and id, if label values are not 0, 1, 2, ...),"
    " or lines `R G B name`, or one name per line, or a JSON list"
)
HEADER = {
    **{"name": "name", "class": "name", "label": "name"},
    **{"r": "r", "g": "g", "b": "b", "red": "r", "green": "g", "blue": "b"},
    **{"id": "id", "value": "id"},
}
COLOR_LINE = re.compile(r"(\d+)[\s,]+(\d+)[\s,]+(\d+)[\s,]+(\S.*)")


@dataclass(frozen=True, slots=True)
class NamedClass:
    """One row of a class file."""

    name: str  # class name, stripped
    color: Colour | None  # RGB color of the class in color labels, if the file has colors
    value: int | None  # label value of the class, if the file has ids
    where: str  # file and line, for messages


def read_class_file(path: Path) -> list[NamedClass]:
    """Read the rows of a class file in order. Several rows may have the same name.

    Raises:
        DrnError: The file is missing, empty or has another format; or a color or id is out of
            range, belongs to two classes, or is missing in some rows only.
    """
    rows = _json(path) if path.suffix.lower() == ".json" else _lines(path)
    if not rows:
        raise DrnError(f"{path}: contains no classes", FORMATS)
    if nameless := [row.where for row in rows if not row.name]:
        raise DrnError(f"{nameless[0]}: class name missing", FORMATS)
    _check(rows, "color", lambda row: row.color)
    _check(rows, "id", lambda row: row.value)
    return rows


def _check(rows: Sequence[NamedClass], what: str, get: Callable[[NamedClass], Any]) -> None:
    """Check that all rows or none have a field, and that no two classes share its value."""
    without = [row for row in rows if get(row) is None]
    if without and len(without) < len(rows):
        row = without[0]
        raise DrnError(f"{row.where}: {row.name} has no {what}, but other classes have one")
    first: dict[Any, NamedClass] = {}
    for row in rows if not without else ():
        before = first.setdefault(get(row), row)
        if before.name != row.name:
            raise DrnError(f"{row.where}: {row.name} has the same {what} as {before.name}")


def _lines(path: Path) -> list[NamedClass]:
    text = read_text(path)
    lines = [(f"{path}:{n}", line.strip()) for n, line in enumerate(text.split("\n"), start=1)]
    lines = [(where, line) for where, line in lines if line]
    if not lines:
        return []
    header = [HEADER.get(cell.lower()) for cell in _cells(lines[0][1])]
    if "name" in header:
        return [_table_row(header, line, where) for where, line in lines[1:]]
    matches = [COLOR_LINE.fullmatch(line) for _, line in lines]
    if all(matches):
        return [
            NamedClass(match[4], _color(match.groups()[:3], where), None, where)
            for match, (where, _) in zip(matches, lines, strict=True)
            if match
        ]
    for match, (where, line) in zip(matches, lines, strict=True):
        if match or "," in line:
            raise DrnError(f"{where}: {line!r} is not a class name", FORMATS)
    return _distinct([NamedClass(line, None, None, where) for where, line in lines])


def _cells(line: str) -> list[str]:
    return [cell.strip() for cell in next(csv.reader([line], skipinitialspace=True))]


def _table_row(header: list[str | None], line: str, where: str) -> NamedClass:
    cells = _cells(line)
    if len(cells) < len(header):
        raise DrnError(
            f"{where}: {line!r} has {len(cells)} columns, the header has {len(header)}", FORMATS
        )
    row = {key: cell for key, cell in zip(header, cells, strict=False) if key}
    color = [row[key] for key in "rgb" if key in row]
    return NamedClass(
        row["name"],
        _color(color, where) if color else None,
        _number(row["id"], where) if "id" in row else None,
        where,
    )


def _json(path: Path) -> list[NamedClass]:
    entries = read_json(path)
    if not isinstance(entries, list):
        raise DrnError(f"{path}: expected a list of classes", FORMATS)
    named = [(f"{path}: entry {number}", entry) for number, entry in enumerate(entries, start=1)]
    if all(isinstance(entry, str) for entry in entries):
        return _distinct([NamedClass(entry.strip(), None, None, where) for where, entry in named])
    return [_object(entry, where) for where, entry in named]


def _object(entry: Any, where: str) -> NamedClass:
    if not isinstance(entry, dict) or not isinstance(entry.get("name"), str):
        raise DrnError(
            f"{where}: {json.dumps(entry)} is not a class",
            'use names, or {"name": "road", "color": [128, 64, 128], "id": 7}',
        )
    color = next((entry[key] for key in ("color", "colour", "rgb") if key in entry), None)
    if color is not None and not isinstance(color, list):
        raise DrnError(f"{where}: {json.dumps(color)} is not a color", "use [red, green, blue]")
    return NamedClass(
        entry["name"].strip(),
        None if color is None else _color(color, where),
        _number(entry["id"], where) if "id" in entry else None,
        where,
    )


def _color(parts: Sequence[Any], where: str) -> Colour:
    if len(parts) != 3:
        raise DrnError(f"{where}: a color needs three values: red, green and blue", FORMATS)
    red, green, blue = (_number(part, where) for part in parts)
    return (red, green, blue)


def _number(part: Any, where: str) -> int:
    text = str(part).strip()
    if not re.fullmatch(r"\d{1,3}", text, re.ASCII) or int(text) > 255:
        raise DrnError(f"{where}: expected an integer from 0 to 255, got {text!r}")
    return int(text)


def _distinct(rows: list[NamedClass]) -> list[NamedClass]:
    """Check that names are unique in a file in which the position of a name is its id."""
    seen: dict[str, NamedClass] = {}
    for row in rows:
        if seen.setdefault(row.name, row) is not row:
            raise DrnError(
                f"{row.where}: duplicate class {row.name}, first in {seen[row.name].where}"
            )
    return rows

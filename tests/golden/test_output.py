"""Recorded output fits a terminal of 80 columns, and its JSON is documented."""

import re
from collections.abc import Iterator
from typing import Any

import yaml

from .test_golden import HERE

COLUMNS = 80
BETWEEN = re.compile(r"\S {2,}\S")  # two columns of a table
SCHEMAS = ("recipes schema", "recipes show")  # their keys are those of a recipe


def recorded(key: str) -> Iterator[tuple[str, str, Any]]:
    """Yield the name of each case that has recorded a key, its command and the value."""
    for path in sorted(HERE.glob("*.yaml")):
        for case in yaml.load(path.read_text(), yaml.CSafeLoader):
            if key in case:
                yield f"{path.stem}: {case['name']}", case["drn"], case[key]


def test_tables_fit():
    wide = [
        f"{name}: {line}"
        for name, _, text in recorded("stdout")
        for line in text.splitlines()
        if len(line) > COLUMNS and BETWEEN.search(line)
    ]
    assert not wide, "\n".join(wide)


def test_json_keys_are_documented():
    page = HERE.parents[1] / "docs" / "json.md"
    documented = set(re.findall(r"`(\w+)`", page.read_text()))
    unknown = {
        key: name
        for name, command, document in recorded("json")
        for entry in (document if isinstance(document, list) else [document])
        for key in entry
        if key not in documented and not command.startswith(SCHEMAS)
    }
    assert not unknown

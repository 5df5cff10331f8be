"""Recorded output fits 80 columns and its JSON is documented; examples of the help fit too."""

import re
from collections.abc import Iterator
from typing import Any

import pytest
import typer
import yaml
from rich.text import Text

from drn_cli.cli.app import app

from .test_golden import HERE

COLUMNS = 80
MARGIN = 2  # columns that the help leaves free
BETWEEN = re.compile(r"\S {2,}\S")  # two columns of a table
SCHEMAS = ("recipes schema", "recipes show")  # their keys are those of a recipe


def recorded(key: str) -> Iterator[tuple[str, str, Any]]:
    """Yield the name of each case that has recorded a key, its command and the value."""
    for path in sorted(HERE.glob("*.yaml")):
        for case in yaml.load(path.read_text(), yaml.CSafeLoader):
            if key in case:
                yield f"{path.stem}: {case['name']}", case["drn"], case[key]


def commands(command: Any, name: str = "drn") -> Iterator[Any]:
    yield pytest.param(command, id=name)
    for word, inner in getattr(command, "commands", {}).items():
        yield from commands(inner, f"{name} {word}")


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


@pytest.mark.parametrize("command", list(commands(typer.main.get_command(app))))
def test_examples_fit(command):
    epilog = Text.from_markup(command.epilog or "").plain
    assert re.search(r"\bdrn \w", epilog), "no examples"
    wide = [line for line in epilog.splitlines() if len(line) > COLUMNS - MARGIN]
    assert not wide, "\n".join(wide)

"""Every command in the documentation and in our help is valid."""

import re
import shlex
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
import typer
from pydantic import BaseModel

from drn_cli.cli.app import app
from drn_cli.errors import DrnError
from drn_cli.recipe.loading import load_recipe, shipped_recipe
from drn_cli.recipe.schema import Recipe

from .commands import commands_in_epilog, commands_in_page
from .markdown import PAGES, ROOT, inline_code

DRN: Any = typer.main.get_command(app)
OURS = ".yaml"  # suffix of a user's recipe
STAND_IN = "drn_d_22_camvid"  # used in its place
# Verbs that take a recipe and KEY=VALUE, and the parameter with the recipe's name.
WITH_RECIPE = {
    ("train",): "recipe",
    ("recipes", "show"): "recipe",
    ("recipes", "check"): "recipe",
    ("data", "show"): "recipe",
    ("recipes", "copy"): "name",
    ("demo",): "",
}


def verbs(command: Any = DRN, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Yield every group and verb with its path of words."""
    yield path, command
    for name, inner in getattr(command, "commands", {}).items():
        yield from verbs(inner, (*path, name))


def find(words: Sequence[str]) -> tuple[tuple[str, ...], Any, list[str]]:
    """Return path and command of the verb that the words start with, and the other words."""
    path: tuple[str, ...] = ()
    command, rest = DRN, [word for word in words if word != "--debug"]
    while hasattr(command, "commands") and rest and not rest[0].startswith("-"):
        assert rest[0] in command.commands, f"drn {' '.join((*path, rest[0]))}: no such verb"
        path, command, rest = (*path, rest[0]), command.commands[rest[0]], rest[1:]
    return path, command, rest


def options(command: Any) -> set[str]:
    found = {"--help", "-h"}
    return found.union(*((*each.opts, *each.secondary_opts) for each in command.params))


def check(words: Sequence[str]) -> None:
    """Parse a command without running it, and load its recipe."""
    path, command, rest = find(words)
    if hasattr(command, "commands"):
        assert rest and set(rest) <= options(command), f"drn {' '.join(words)}: no verb"
        return
    try:
        given = command.make_context(" ".join(path), list(rest)).params
    except typer.Exit:  # --help
        return
    if path in WITH_RECIPE:
        check_recipe(given.get(WITH_RECIPE[path]), given.get("overrides") or [])


def check_recipe(name: str | None, overrides: Sequence[str]) -> None:
    if name is not None and "=" in name:  # drn train --resume RUN KEY=VALUE
        overrides, name = [name, *overrides], None
    load_recipe(STAND_IN if name is None or name.endswith(OURS) else name, overrides)


def keys(section: type[BaseModel] = Recipe, name: str = "") -> Iterator[str]:
    for key, field in section.model_fields.items():
        yield name + key
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from keys(field.annotation, f"{name}{key}.")


KEYS = frozenset(keys())
SECTIONS = tuple(f"{key}." for key in KEYS if "." not in key)
FILES = (".txt", ".csv", ".md", ".html", ".json", ".jsonl", ".png", ".tar")


def check_in_line(words: Sequence[str]) -> None:
    """Check an inline command, which may be incomplete and have placeholders."""
    if words[1:2] and words[1].isupper():  # drn VERB --help
        return
    path, command, rest = find(words[1:])
    for word in rest:
        if word.startswith("--"):
            assert word.partition("=")[0] in options(command), f"{' '.join(words)}: no {word}"
    if path == ("train",) or path[:1] == ("recipes",):
        named = [word for word in rest[:1] if word.islower() and not word.startswith("-")]
        for word in named:
            if "=" not in word and not word.endswith(OURS):
                shipped_recipe(word)
        for word in rest:
            if "=" in word and not word.startswith("-"):
                check_setting(word)


def check_setting(text: str) -> None:
    """Check a recipe key, and its value unless that is a placeholder such as DIR."""
    key, given, value = text.partition("=")
    assert key in KEYS, f"{text}: no such key of a recipe"
    if given and not value.isupper():
        load_recipe(STAND_IN, [text])


def shown() -> Iterator[Any]:
    for page in PAGES:
        for number, words in commands_in_page(page.read_text(encoding="utf-8")):
            yield pytest.param(words, id=f"{page.relative_to(ROOT)}:{number}")
    for path, command in verbs():
        for number, words in commands_in_epilog(command.epilog or ""):
            yield pytest.param(words, id=f"{' '.join(('drn', *path))} --help:{number}")


def mentioned() -> Iterator[Any]:
    for page in PAGES:
        for number, code in inline_code(page.read_text(encoding="utf-8")):
            if code.startswith("drn ") or is_setting(code):
                yield pytest.param(code, id=f"{page.relative_to(ROOT)}:{number}:{code}")


def is_setting(code: str) -> bool:
    """Return True for recipe keys, not for files (`train.txt`) or Python (`model.features`)."""
    key, given, _ = code.partition("=")
    if not re.fullmatch(r"[a-z_]+(\.[a-z_]+)+", key) or " " in code or key.endswith(FILES):
        return False
    python = key.startswith("model.") and not given
    return key in KEYS or (key.startswith(SECTIONS) and not python)


@pytest.mark.parametrize("words", list(shown()))
def test_shown_command_is_valid(words: list[str]) -> None:
    check(words)


@pytest.mark.parametrize("code", list(mentioned()))
def test_inline_command_or_key_exists(code: str) -> None:
    if code.startswith("drn "):
        check_in_line(shlex.split(code.partition(" < ")[0]))
    else:
        check_setting(code)


def test_every_verb_has_an_example() -> None:
    for path, command in verbs():
        if not hasattr(command, "commands"):
            words = [words for _, words in commands_in_epilog(command.epilog or "")]
            assert any(tuple(each[: len(path)]) == path for each in words), f"drn {' '.join(path)}"


def test_every_verb_is_documented() -> None:
    written = "\n".join(page.read_text(encoding="utf-8") for page in PAGES)
    for path, command in verbs():
        if not hasattr(command, "commands"):
            assert f"drn {' '.join(path)}" in written, f"drn {' '.join(path)} is on no page"


PAGE = """\
Install it, and run `drn eval --ms`:

```sh
pip install . && drn demo   # everything
LIMIT=3 drn train drn_d_22_camvid \\
    train.lr=0.01 --gpus 2 > log.txt
```

    drn eval                the newest run
    drn predict - --out - < 'a b.jpg' | drn runs
    torchrun --nproc-per-node 2 -m drn_cli train demo

* a list

    srun --label drn train demo --run-dir "$HOME/x"
    git clone somewhere/drn drn

```python
drn = "drn eval"
```
"""


def test_commands_are_found_only_in_shell_blocks() -> None:
    assert list(commands_in_page(PAGE)) == [
        (4, ["demo"]),
        (5, ["train", "drn_d_22_camvid", "train.lr=0.01", "--gpus", "2"]),
        (9, ["eval"]),
        (10, ["predict", "-", "--out", "-"]),
        (10, ["runs"]),
        (11, ["train", "demo"]),
        (15, ["train", "demo", "--run-dir", "$HOME/x"]),
    ]


def test_commands_are_found_in_examples_of_help() -> None:
    epilog = "[bold]Examples[/]\n\n  drn eval --ms     six sizes\n\nExample: [bold]drn runs[/]"
    assert list(commands_in_epilog(epilog)) == [(3, ["eval", "--ms"]), (5, ["runs"])]


@pytest.mark.parametrize(
    "line",
    [
        "evaluate",
        "data prepared",
        "data",
        "eval --mss",
        "eval --split training",
        "data prepare camvid",
        "train drn_d_22_camvid --gpus none",
        "train drn_d_23_camvid",
        "train drn_d_22_camvid train.learning_rate=1",
        "train mine.yaml train.lr=-1",
        "train --resume runs/trial train.lrr=1",
        "recipes copy camvid",
        "data show data/camvid --recipe camvid",
        "demo train.epoch=1",
    ],
)
def test_invalid_command_fails(line: str) -> None:
    with pytest.raises((AssertionError, DrnError, typer.BadParameter.__mro__[1])):
        check(line.split())


@pytest.mark.parametrize(
    "line", ["drn evaluate", "drn eval --mss", "drn train camvid", "drn train RECIPE train.lrr=1"]
)
def test_invalid_inline_command_fails(line: str) -> None:
    with pytest.raises((AssertionError, DrnError)):
        check_in_line(line.split())


def test_recipe_keys_are_distinguished_from_files() -> None:
    keys = ("train.lr", "train.rate", "data.cache=disk", "model.arc=x", "train.schedule")
    others = ("train.txt", "lr", "model.features", "model.load(FILE)", "val_boxes.csv")
    assert all(is_setting(code) for code in keys)
    assert not any(is_setting(code) for code in others)
    with pytest.raises(AssertionError):
        check_setting("train.rate")
    with pytest.raises(DrnError):
        check_setting("data.cache=tape")
    check_setting("data.root=DIR")

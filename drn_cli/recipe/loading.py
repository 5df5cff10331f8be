"""From a name or a file and some overrides to a checked recipe, and back to YAML."""

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from drn_cli.errors import DrnError
from drn_cli.files import decode_text
from drn_cli.recipe.mistakes import explain
from drn_cli.recipe.schema import Recipe
from drn_cli.recipe.shipped import shipped_recipe, shipped_recipes
from drn_cli.recipe.yaml_source import (
    LARGEST,
    Located,
    merge,
    plain,
    read_mapping,
    read_override,
)

__all__ = [
    "LoadedRecipe",
    "find_recipe",
    "json_schema",
    "load_recipe",
    "read_text",
    "resolved_yaml",
    "shipped_recipes",
]

_EXTENDS = "extends"
_LONGEST_CHAIN = 16  # recipes of which each extends the next
_PIPES = ("/dev/fd/", "/dev/stdin", "/proc/self/fd/")  # the shell's <(...)


@dataclass(frozen=True, slots=True)
class LoadedRecipe:
    """A checked recipe and where it came from.

    Attributes:
        name: The file's name without its suffix; run folders are named after it.
        path: The file.
        recipe: Everything resolved: what it extends, overrides, defaults.
        overrides: As they were given.
    """

    name: str
    path: str
    recipe: Recipe
    overrides: tuple[str, ...]


def load_recipe(name_or_path: str, overrides: Sequence[str] = ()) -> LoadedRecipe:
    """Find, read, resolve and check a recipe.

    Args:
        name_or_path: A shipped recipe's name or a YAML file.
        overrides: `KEY=VALUE` with dotted keys and YAML values, applied last.

    Raises:
        DrnError: No such recipe, or a mistake in it, in one it extends or in an override. The
            message has a line for each mistake, with file, line and key.
    """
    file = find_recipe(name_or_path)
    tree = _resolve(file, chain=())
    for override in overrides:
        tree = merge(tree, read_override(override))
    try:
        recipe = Recipe.model_validate(plain(tree))
    except ValidationError as error:
        raise explain(error, tree, str(file)) from error
    return LoadedRecipe(_stem(file), str(file), recipe, tuple(overrides))


def resolved_yaml(recipe: Recipe) -> str:
    """Write a recipe with every field, in the order of the schema; loading it gives it back."""
    return yaml.safe_dump(
        recipe.model_dump(mode="json"), sort_keys=False, allow_unicode=True, width=100
    )


def json_schema() -> dict[str, Any]:
    """Describe recipe files, for editors that complete and check YAML.

    No key is required in it: a file may leave to the one it extends whatever it likes.
    """
    schema = Recipe.model_json_schema()
    for section in (schema, *schema["$defs"].values()):
        section.pop("required", None)
    schema["properties"] = {
        _EXTENDS: {
            "type": "string",
            "description": "Recipe to build on: a shipped name, or a path from this file.",
        },
        **schema["properties"],
    }
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}


def find_recipe(name_or_path: str, beside: Path | None = None) -> Traversable:
    """Find the file of a recipe.

    What has a path separator, ends in .yaml or .yml or is there as a file is a file; anything
    else is the name of a shipped recipe.

    Args:
        name_or_path: What somebody asked for.
        beside: Folder that a relative path starts from, if not the current one.

    Raises:
        DrnError: There is no such file, it is not a regular one, or no recipe has that name.
    """
    path = beside / name_or_path if beside else Path(name_or_path)
    try:
        if path.is_file():
            return path
        if "/" not in name_or_path and not name_or_path.endswith((".yaml", ".yml")):
            return shipped_recipe(name_or_path)
        if path.is_dir():
            raise DrnError(f"{path}: is a folder, not a recipe", "name a .yaml file")
        if path.exists():
            if path.is_fifo() and beside is None and str(path).startswith(_PIPES):
                return path
            raise DrnError(f"{path}: is not a regular file", "name a .yaml file")
    except OSError as error:  # a folder that is closed to us, or a name that is too long
        raise DrnError(f"{path}: cannot be read: {error.strerror or error}") from error
    raise DrnError(f"{path}: no such file", "`drn recipes list` names the shipped recipes")


def read_text(file: Traversable) -> str:
    """Read a recipe's file as it stands.

    Raises:
        DrnError: It cannot be read, is too large for a recipe, or is not UTF-8 text.
    """
    try:
        with file.open("rb") as opened:
            content = opened.read(LARGEST + 1)
    except OSError as error:
        raise DrnError(f"{file}: cannot be read: {error.strerror or error}") from error
    if len(content) > LARGEST:
        raise DrnError(
            f"{file}: is larger than {LARGEST // 1024} KiB", "a recipe is a few lines of YAML"
        )
    return decode_text(content, str(file))


def _resolve(file: Traversable, chain: tuple[Traversable, ...]) -> Located:
    """Read a file on top of what it extends; `chain` holds those that led here."""
    tree = read_mapping(read_text(file), str(file))
    extends = tree.value.pop(_EXTENDS, None)
    if extends is None:
        return tree
    where = extends.at(_EXTENDS)
    if not isinstance(extends.value, str):
        raise DrnError(f"{where}: should be the name or the path of a recipe")
    try:
        base = find_recipe(extends.value, file.parent if isinstance(file, Path) else None)
    except DrnError as error:
        raise DrnError(f"{where}: {error.message}", error.hint) from error
    chain = (*chain, file)
    if len(chain) == _LONGEST_CHAIN:
        raise DrnError(
            f"{where}: {_LONGEST_CHAIN} recipes extend one another already",
            "copy what the last ones say into one file",
        )
    if _identity(base) in map(_identity, chain):
        names = " -> ".join(str(link) for link in (*chain, base))
        raise DrnError(f"{where}: a recipe cannot extend itself: {names}")
    return merge(_resolve(base, chain), tree)


def _identity(file: Traversable) -> str:
    return str(file.resolve() if isinstance(file, Path) else file)


def _stem(file: Traversable) -> str:
    return file.name.removesuffix(".yaml").removesuffix(".yml")

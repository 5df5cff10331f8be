"""Shell completion, and hints where a recipe key is given as an option.

Nothing here imports torch, so that completion takes less than half a second.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast, get_args

import typer
from typer.core import TyperCommand

from drn_cli.errors import DrnError

# The base of typer's usage errors; its module differs between releases of typer.
UsageError = cast("type[typer.BadParameter]", typer.BadParameter.__base__)

# Options of other training scripts, and the recipe keys with the same meaning.
ALIASES = {
    "data": "data.root",
    "optimizer": "train.optimiser.kind",
    "crop-size": "augment.crop",
    "schedule": "train.schedule.kind",
    "pretrained": "model.weights",
    "num-workers": "data.workers",
}


class RecipeCommand(TyperCommand):
    """A command with recipe keys: the error for `--lr 0.1` suggests `train.lr=0.1`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        try:
            return super().parse_args(ctx, list(args))
        except UsageError as error:
            option = getattr(error, "option_name", None)
            keys = _keys_like(option.lstrip("-")) if isinstance(option, str) else []
            if not keys:
                raise
            value = _value_of(str(option), args)
            given = " or ".join(f"{key}={value}" for key in keys)
            hint = f"(recipe keys are given as {given})"
            raise UsageError(f"{error.message} {hint}", ctx) from None


def complete_recipe(incomplete: str) -> list[str]:
    """Complete a recipe: shipped names, YAML files and folders."""
    from drn_cli.recipe.loading import shipped_recipes

    names = [name for name in shipped_recipes() if name.startswith(incomplete)]
    found = names + _paths(incomplete, (".yaml", ".yml"))
    return found or complete_key(incomplete)  # keys come first after --resume


def complete_key(incomplete: str) -> list[str]:
    """Complete `KEY=VALUE`: recipe keys, and after `=` the values of enumerations."""
    from drn_cli.networks.catalog import list_models

    key, equals, _ = incomplete.partition("=")
    annotations = dict(_keys())
    if not equals:
        return [f"{name}=" for name in annotations if name.startswith(key)]
    if key == "model.arch":
        values: list[str] = list_models()
    else:
        values = list(_choices(annotations.get(key)))
    return [word for value in values if (word := f"{key}={value}").startswith(incomplete)]


def complete_architecture(incomplete: str) -> list[str]:
    from drn_cli.networks.catalog import list_models

    return [name for name in list_models() if name.startswith(incomplete)]


def complete_run(incomplete: str) -> list[str]:
    """Complete a run directory: runs below ./runs, newest first, and other folders."""
    return [*_runs(incomplete), *_paths(incomplete, ())]


def complete_resume(incomplete: str) -> list[str]:
    """Complete the value of `--resume`: auto, a run directory or a checkpoint."""
    auto = ["auto"] if "auto".startswith(incomplete) else []
    return [*auto, *_runs(incomplete), *_paths(incomplete, (".pt",))]


def complete_weights(incomplete: str) -> list[str]:
    """Complete weights: run directories, architectures, and files of weights or exports."""
    endings = (".safetensors", ".pt", ".pth", ".onnx", ".pt2", ".xml")
    names = complete_architecture(incomplete) if incomplete else []
    return [*_runs(incomplete), *names, *_paths(incomplete, endings)]


def _runs(incomplete: str) -> list[str]:
    from drn_cli.runs import find_runs

    try:
        folders = [run.folder for run in find_runs()]
        newest = sorted(folders, key=lambda folder: folder.stat().st_mtime, reverse=True)
    except (DrnError, OSError):
        return []
    return [str(folder) for folder in newest if str(folder).startswith(incomplete)]


def _paths(incomplete: str, endings: tuple[str, ...]) -> list[str]:
    """List folders (with a slash) and files with the endings that complete a word."""
    folder, slash, start = incomplete.rpartition("/")
    try:
        entries = sorted(Path(folder + slash or ".").iterdir())
    except OSError:
        return []
    return [
        f"{folder}{slash}{entry.name}{'/' if entry.is_dir() else ''}"
        for entry in entries
        if entry.name.startswith(start)
        and (start or not entry.name.startswith("."))
        and (entry.is_dir() or entry.name.endswith(endings or ("/",)))
    ]


def _keys_like(option: str) -> list[str]:
    """Return the recipe keys that an unknown option may mean; its name is without dashes."""
    if option in ALIASES:
        return [ALIASES[option]]
    name = option.replace("-", "_")
    keys = [key for key, _ in _keys()]
    return [key for key in keys if key == name or key.rpartition(".")[2] == name]


def _keys(model: Any = None, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the dotted keys of a recipe with the types of their values."""
    from pydantic import BaseModel

    from drn_cli.recipe.schema import Recipe

    for name, field in (model or Recipe).model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            yield from _keys(kind, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", kind


def _choices(kind: Any) -> Iterator[str]:
    """Yield the values of an enumerable type: literals, true and false, null."""
    if kind is bool:
        yield from ("true", "false")
    elif kind is type(None):
        yield "null"
    for inner in get_args(kind):
        if isinstance(inner, str):
            yield inner
        elif not isinstance(inner, int | float):
            yield from _choices(inner)


def _value_of(option: str, words: list[str]) -> str:
    """Return the value given for an option (`--lr 0.1`, `--lr=0.1`), or VALUE if there is none."""
    for word, following in zip(words, [*words[1:], ""], strict=True):
        name, equals, value = word.partition("=")
        if name == option:
            value = value if equals else following
            return value if value and not value.startswith("--") else "VALUE"
    return "VALUE"

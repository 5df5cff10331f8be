"""What pydantic says about a recipe, in words that name the file, the line and the key."""

import inspect
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import TypeGuard

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from drn_cli.errors import DrnError
from drn_cli.recipe.schema import Recipe
from drn_cli.recipe.yaml_source import Located, plain, show

_KINDS = {
    "int": "should be a whole number",
    "float": "should be a number",
    "finite": "should be a finite number",
    "bool": "should be true or false",
    "string": "should be text",
    "tuple": "should be a list",
}


@dataclass(frozen=True, slots=True)
class _Mistake:
    where: str
    what: str
    hint: str | None

    def __str__(self) -> str:
        line = f"{self.where}: {self.what}"
        return f"{line} ({self.hint})" if self.hint else line


def explain(error: ValidationError, tree: Located, file: str) -> DrnError:
    """Turn every error into one line, those about keys that are there first.

    Args:
        error: From `Recipe.model_validate`.
        tree: What was validated, with its places.
        file: The recipe, to blame for what is missing.
    """
    by_key: dict[tuple[str | int, ...], list[ErrorDetails]] = {}
    for detail in error.errors(include_url=False):
        loc = _blamed(detail)
        if detail["type"] != "missing":
            # pydantic adds a name for each member of a union; the tree knows where keys end
            loc = loc[: _depth(tree, loc)]
        by_key.setdefault(loc, []).append(detail)
    there: list[tuple[Located, _Mistake]] = []
    missing: list[_Mistake] = []
    for loc, details in by_key.items():
        if details[0]["type"] == "missing":
            missing.append(_Mistake(f"{file}: {_dotted(loc)}", "missing", _meaning(loc)))
        else:
            culprit = _at(tree, loc)
            what, hint = _words(loc, details, show(plain(culprit)))
            there.append((culprit, _Mistake(culprit.at(_dotted(loc)), what, hint)))
    there.sort(key=lambda pair: (pair[0].source, pair[0].line or 0))
    mistakes = [mistake for _, mistake in there] + missing
    if len(mistakes) == 1:
        return DrnError(f"{mistakes[0].where}: {mistakes[0].what}", mistakes[0].hint)
    return DrnError("\n".join(str(mistake) for mistake in mistakes))


def _words(
    loc: tuple[str | int, ...], details: list[ErrorDetails], got: str
) -> tuple[str, str | None]:
    """Say what is wrong with one key, and what would be right."""
    first = details[0]
    if first["type"] == "extra_forbidden":
        return "unknown key", _similar_key(loc)
    if first["type"] == "value_error":
        reason = first["ctx"]["error"]
        if isinstance(reason.__cause__, DrnError):
            return reason.__cause__.message, reason.__cause__.hint
    if first["type"] == "model_type":
        keys = ", ".join(_section(loc).model_fields)
        return f"should be a mapping, got {got}", f"its keys: {keys}"
    wanted = [_rule(detail) for detail in details]
    joined = " or ".join([wanted[0], *(rule.removeprefix("should be ") for rule in wanted[1:])])
    hint = None
    if first["type"] == "literal_error" and isinstance(first["input"], str):
        choices = first["ctx"]["expected"].replace("'", " ").split()
        hint = _did_you_mean(get_close_matches(first["input"], choices, n=1))
    if first["type"] == "string_type" and not isinstance(first["input"], dict | list | None):
        hint = "put it in quotes"
    return f"{joined}, got {got}", hint


def _rule(detail: ErrorDetails) -> str:
    kind = detail["type"]
    if kind == "literal_error":
        choices = str(detail["ctx"]["expected"])
        return "should be " + choices.replace("'", "")
    if kind == "too_short":
        return "should not be empty"
    if kind.endswith(("_type", "_parsing", "_from_float", "_number", "_size")):
        return _KINDS.get(kind.split("_")[0], "cannot be read")
    message = detail["msg"].removeprefix("Value error, ").removeprefix("Input ")
    return message[:1].lower() + message[1:]


def _blamed(detail: ErrorDetails) -> tuple[str | int, ...]:
    """Find the key at fault; a rule over several sections opens its message with it."""
    if detail["loc"] or detail["type"] != "value_error":
        return detail["loc"]
    key, colon, rest = detail["msg"].removeprefix("Value error, ").partition(": ")
    if not colon:
        return ()
    detail["msg"] = rest
    return tuple(key.split("."))


def _similar_key(loc: Sequence[str | int]) -> str | None:
    """Look for the key that was meant: in the same section, else by its name in another one."""
    key = str(loc[-1])
    here = list(_section(loc[:-1]).model_fields)
    if len(loc) == 1:
        here.append("extends")
    if close := get_close_matches(key, here, n=1):
        return _did_you_mean(close)
    elsewhere = [path for path in _keys(Recipe) if path.split(".")[-1] == key]
    return _did_you_mean(elsewhere) or f"known here: {', '.join(here)}"


def _did_you_mean(names: Sequence[str]) -> str | None:
    return f"did you mean {' or '.join(names)}?" if names else None


def _meaning(loc: Sequence[str | int]) -> str | None:
    """Say in a line what a missing key is for."""
    field = _section(loc[:-1]).model_fields[str(loc[-1])]
    if _is_section(field.annotation):
        needed = [
            key for key, inner in field.annotation.model_fields.items() if inner.is_required()
        ]
        return f"{inspect.getdoc(field.annotation)} It needs {', '.join(needed)}"
    return field.description


def _section(loc: Sequence[str | int]) -> type[BaseModel]:
    section: type[BaseModel] = Recipe
    for key in loc:
        annotation = section.model_fields[str(key)].annotation
        assert _is_section(annotation)
        section = annotation
    return section


def _is_section(annotation: object) -> TypeGuard[type[BaseModel]]:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


def _keys(section: type[BaseModel], prefix: str = "") -> Iterator[str]:
    for key, field in section.model_fields.items():
        yield prefix + key
        if _is_section(field.annotation):
            yield from _keys(field.annotation, f"{prefix}{key}.")


def _steps(tree: Located, loc: Sequence[str | int]) -> Iterator[Located]:
    """Walk down to a key, as far as the tree goes."""
    for key in loc:
        inside_list = isinstance(tree.value, list) and isinstance(key, int)
        if not inside_list and not (isinstance(tree.value, dict) and key in tree.value):
            return
        tree = tree.value[key]
        yield tree


def _depth(tree: Located, loc: Sequence[str | int]) -> int:
    return len(list(_steps(tree, loc)))


def _at(tree: Located, loc: Sequence[str | int]) -> Located:
    return [tree, *_steps(tree, loc)][-1]


def _dotted(loc: Sequence[str | int]) -> str:
    text = "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in loc)
    return text.removeprefix(".")

"""Load recipes: find the file, apply `extends` and overrides, validate, write back to YAML."""

import inspect
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any, TypeGuard

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from drn_cli.errors import DrnError
from drn_cli.files import decode_text
from drn_cli.recipe.schema import Recipe

MAX_BYTES = 256 * 1024  # of a file; the shipped recipes have less than 2 KiB
MAX_VALUES = 20_000  # in a file, with aliases expanded
MAX_KEY_PARTS = 8  # in an override; the schema's keys have three
MAX_CHAIN = 16  # recipes of which each extends the next
PIPES = ("/dev/fd/", "/dev/stdin", "/proc/self/fd/")  # the shell's <(...)

Tree = dict[str, Any]
Loc = tuple[str | int, ...]  # path to a value in a tree, as in pydantic's errors
Origins = dict[Loc, tuple[str, int | None]]  # where a value was written: source, line from 1


@dataclass(frozen=True, slots=True)
class LoadedRecipe:
    """A validated recipe and where it came from.

    Attributes:
        name: The file's name without its suffix; run directories are named after it.
        path: The file.
        recipe: All fields, with what it extends, overrides and defaults.
        overrides: The overrides as given.
    """

    name: str
    path: str
    recipe: Recipe
    overrides: tuple[str, ...]


def load_recipe(name_or_path: str, overrides: Sequence[str] = ()) -> LoadedRecipe:
    """Load a shipped recipe or a YAML file.

    Args:
        name_or_path: Name of a shipped recipe, or a YAML file.
        overrides: `KEY=VALUE` with dotted keys and YAML values, applied last.

    Raises:
        DrnError: Not found or invalid; one line for each mistake, with file, line and key.
    """
    file = find_recipe(name_or_path)
    tree, origins = _resolve(file, ())
    for text in overrides:
        override, places = _parse_override(text)
        tree, origins = _merge(tree, override), origins | places
    try:
        recipe = Recipe.model_validate(tree)
    except ValidationError as error:
        raise _explain(error, tree, origins, str(file)) from error
    name = file.name.removesuffix(".yaml").removesuffix(".yml")
    return LoadedRecipe(name, str(file), recipe, tuple(overrides))


def resolved_yaml(recipe: Recipe) -> str:
    """Return every field as YAML, in schema order; loading the text returns the same recipe."""
    values = recipe.model_dump(mode="json")
    return yaml.safe_dump(values, sort_keys=False, allow_unicode=True, width=100)


def diff_recipes(old: Recipe, new: Recipe) -> dict[str, tuple[Any, Any]]:
    """Return the old and the new value of every key that differs, by its dotted name."""

    def leaves(tree: Tree, prefix: str = "") -> Iterator[tuple[str, Any]]:
        for key, value in tree.items():
            if isinstance(value, dict):
                yield from leaves(value, f"{prefix}{key}.")
            else:
                yield prefix + key, value

    before, after = (dict(leaves(recipe.model_dump(mode="json"))) for recipe in (old, new))
    return {key: (before[key], after[key]) for key in after if before[key] != after[key]}


# Finding and reading files


def shipped_recipes(*, bases: bool = False) -> dict[str, Traversable]:
    """Return the recipes that come with the package, by name, in alphabetical order.

    Args:
        bases: Whether to include the recipes that others extend, such as `_camvid`.
    """
    folder = files("drn_cli") / "recipes"
    if not folder.is_dir():  # a checkout has them beside the package; a wheel inside it
        folder = Path(__file__).resolve().parents[2] / "recipes"
    found = {
        file.name.removesuffix(".yaml"): file
        for file in folder.iterdir()
        if file.name.endswith(".yaml") and (bases or not file.name.startswith("_"))
    }
    return dict(sorted(found.items()))


def shipped_recipe(name: str) -> Traversable:
    """Find a shipped recipe, or one of the bases that they extend.

    Raises:
        DrnError: Unknown name.
    """
    if file := shipped_recipes(bases=True).get(name):
        return file
    wanted, known = name.lower().replace("-", "_"), shipped_recipes()
    # Half a name is a fair guess: drn_d_105 or camvid.
    close = [each for each in known if wanted and wanted in each][:3]
    close = close or get_close_matches(wanted, known, n=1)
    raise DrnError(f"unknown recipe {name!r}", _suggest(close) or "`drn recipes list` names them")


def find_recipe(name_or_path: str, beside: Path | None = None) -> Traversable:
    """Find the file of a recipe: an existing file, else a shipped recipe.

    Args:
        name_or_path: A path (with a separator, or ending in .yaml or .yml), or a name.
        beside: Folder that a relative path starts from, if not the current one.

    Raises:
        DrnError: No such file or shipped recipe, or not a regular file.
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
            if path.is_fifo() and beside is None and str(path).startswith(PIPES):
                return path
            raise DrnError(f"{path}: is not a regular file", "name a .yaml file")
    except OSError as error:  # a folder without permission, or a name that is too long
        raise DrnError(f"{path}: cannot be read: {error.strerror or error}") from error
    raise DrnError(f"{path}: no such file", "`drn recipes list` names the shipped recipes")


def read_text(file: Traversable) -> str:
    """Read a recipe file as it is.

    Raises:
        DrnError: It cannot be read, is larger than 256 KiB, or is not UTF-8 text.
    """
    try:
        with file.open("rb") as opened:
            content = opened.read(MAX_BYTES + 1)
    except OSError as error:
        raise DrnError(f"{file}: cannot be read: {error.strerror or error}") from error
    if len(content) > MAX_BYTES:
        hint = "a recipe is a few lines of YAML"
        raise DrnError(f"{file}: is larger than {MAX_BYTES // 1024} KiB", hint)
    return decode_text(content, str(file))


def _resolve(file: Traversable, chain: tuple[Traversable, ...]) -> tuple[Tree, Origins]:
    """Parse a file on top of the one it extends; `chain` holds the files that led to it."""
    tree, origins = parse_recipe(read_text(file), str(file))
    if "extends" not in tree:
        return tree, origins
    where = _where(origins, ("extends",))
    extends = tree.pop("extends")
    if not isinstance(extends, str):
        raise DrnError(f"{where}: should be the name or the path of a recipe")
    try:
        base = find_recipe(extends, file.parent if isinstance(file, Path) else None)
    except DrnError as error:
        raise DrnError(f"{where}: {error.message}", error.hint) from error
    chain = (*chain, file)
    if len(chain) == MAX_CHAIN:
        hint = "merge the last ones into one file"
        raise DrnError(f"{where}: a chain of more than {MAX_CHAIN} recipes", hint)
    real = [str(each.resolve() if isinstance(each, Path) else each) for each in (*chain, base)]
    if real[-1] in real[:-1]:
        names = " -> ".join(map(str, (*chain, base)))
        raise DrnError(f"{where}: a recipe cannot extend itself: {names}")
    below, places = _resolve(base, chain)
    return _merge(below, tree), places | origins


def _merge(base: Any, over: Any) -> Any:
    """Merge mappings key by key; anything else is replaced."""
    if not isinstance(base, dict) or not isinstance(over, dict):
        return over
    return base | {key: _merge(base.get(key), value) for key, value in over.items()}


# Parsing YAML, with the place of every value


def parse_recipe(text: str, source: str) -> tuple[Tree, Origins]:
    """Parse the text of one recipe file, without what it extends.

    Args:
        text: YAML; a mapping.
        source: The file, for messages.

    Raises:
        DrnError: Not valid YAML, not a mapping, a duplicate key or one that is not text, or more
            than 20,000 values.
    """
    tree, origins = _parse(text, source)
    if not origins:
        raise DrnError(f"{source}: is empty", "a recipe is a mapping of keys to values")
    if not isinstance(tree, dict):
        raise DrnError(f"{_where(origins, ())}: should be a mapping, got {_show(tree)}")
    return tree, origins


def _parse_override(text: str) -> tuple[Tree, Origins]:
    """Parse `train.lr=0.02` as a tree with that one value."""
    key, equals, value = text.partition("=")
    parts = key.strip().split(".")
    source = f"command line: {_shorten(text)}"
    if not equals or not all(parts):
        raise DrnError(f"{source}: not KEY=VALUE", "for instance train.lr=0.02")
    if len(parts) > MAX_KEY_PARTS:
        hint = f"keys have at most {MAX_KEY_PARTS}"
        raise DrnError(f"{source}: a key of {len(parts)} parts", hint)
    tree, below = _parse(value, source, in_file=False)  # nothing after the "=" is null
    origins: Origins = {(*parts, *loc): place for loc, place in below.items()}
    origins |= {tuple(parts[:count]): (source, None) for count in range(1, len(parts) + 1)}
    for part in reversed(parts):
        tree = {part: tree}
    return tree, origins


def _parse(text: str, source: str, *, in_file: bool = True) -> tuple[Any, Origins]:
    loader: yaml.SafeLoader | None = None
    try:
        loader = yaml.SafeLoader(text)
        node = loader.get_single_node()
        builder = _TreeBuilder(loader, source, in_file)
        tree = None if node is None else builder.build(node, (), node.start_mark)
        return tree, builder.origins
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = f"{source}:{mark.line + 1}:{mark.column + 1}" if in_file and mark else source
        problem = f"{where}: not valid YAML: {error.problem or error.context}"
        hint = "indent with spaces" if r"'\t'" in str(error.problem) else None
        raise DrnError(problem, hint) from error
    except yaml.reader.ReaderError as error:
        where = f"{source}:{text.count(chr(10), 0, error.position) + 1}" if in_file else source
        code = f"U+{ord(text[error.position]):04X}"
        raise DrnError(f"{where}: not valid YAML: control character {code}") from error
    except RecursionError as error:
        where = f"{source}:{loader.line + 1}" if in_file and loader else source
        raise DrnError(f"{where}: not valid YAML: nested too deeply") from error
    finally:
        if loader is not None:
            loader.dispose()


class _TreeBuilder:
    """Builds plain values from YAML nodes, and records in `origins` where each was written."""

    def __init__(self, loader: yaml.SafeLoader, source: str, in_file: bool) -> None:
        self.loader = loader
        self.source = source
        self.in_file = in_file
        self.origins: Origins = {}

    def build(
        self, node: yaml.Node, loc: Loc, mark: yaml.Mark, parents: tuple[yaml.Node, ...] = ()
    ) -> Any:
        """Build the value of a node below `parents`; `mark` is where its key (or itself) starts."""
        if node in parents:  # nodes are equal only to themselves
            raise DrnError(f"{self._at(node.start_mark)}: an anchor that contains its own alias")
        self.origins[loc] = (self.source, mark.line + 1 if self.in_file else None)
        if len(self.origins) > MAX_VALUES:
            at, hint = self._at(node.start_mark), "shorten the recipe"
            raise DrnError(f"{at}: more than {MAX_VALUES:,} values, with aliases expanded", hint)
        parents = (*parents, node)
        if isinstance(node, yaml.SequenceNode):
            items = enumerate(node.value)
            return [self.build(item, (*loc, n), item.start_mark, parents) for n, item in items]
        if isinstance(node, yaml.ScalarNode):
            return self._scalar(node)
        tree: Tree = {}
        lines: dict[str, int] = {}
        for key_node, value in node.value:
            at = self._at(key_node.start_mark)
            if key_node.tag == "tag:yaml.org,2002:merge":
                hint = "`extends: NAME` builds on another recipe"
                raise DrnError(f"{at}: merge keys (<<) are not supported", hint)
            key = self._scalar(key_node) if isinstance(key_node, yaml.ScalarNode) else None
            if not isinstance(key, str):
                got = key_node.value if isinstance(key_node, yaml.ScalarNode) else "a collection"
                raise DrnError(f"{at}: a key should be text, got {got or 'null'}")
            if key in tree:
                raise DrnError(f"{at}: {key}: duplicate key", f"first on line {lines[key]}")
            lines[key] = key_node.start_mark.line + 1
            tree[key] = self.build(value, (*loc, key), key_node.start_mark, parents)
        return tree

    def _scalar(self, node: yaml.Node) -> Any:
        try:
            value = self.loader.construct_object(node, deep=True)
            if isinstance(value, int) and value.bit_length() > 63:
                raise ValueError("more than a 64-bit integer")
            return value
        except ValueError as error:  # also 2024-02-31, which looks like a date
            at = self._at(node.start_mark)
            raise DrnError(
                f"{at}: {_show(node.value)} cannot be read", "put text in quotes"
            ) from error

    def _at(self, mark: yaml.Mark) -> str:
        return f"{self.source}:{mark.line + 1}" if self.in_file else self.source


# Explaining what pydantic found

EXPECTED = {
    "int": "should be a whole number",
    "float": "should be a number",
    "finite": "should be a finite number",
    "bool": "should be true or false",
    "string": "should be text",
    "tuple": "should be a list",
}


def _explain(error: ValidationError, tree: Tree, origins: Origins, file: str) -> DrnError:
    """Return one line for each mistake, in the order of the files, missing keys last."""
    by_key: dict[Loc, list[ErrorDetails]] = {}
    for detail in error.errors(include_url=False):
        loc = detail["loc"]
        if not loc:  # a rule across sections, whose message starts with the key
            key, _, detail["msg"] = detail["msg"].removeprefix("Value error, ").partition(": ")
            loc = tuple(key.split("."))
        if detail["type"] != "missing" or isinstance(loc[-1], int):  # of a list that is too short
            loc = loc[: len(_walk(tree, loc))]  # without the names of a union's members
        by_key.setdefault(loc, []).append(detail)
    mistakes: list[tuple[bool, str, int, str, str | None]] = []
    for loc, details in by_key.items():
        if len(_walk(tree, loc)) < len(loc):
            mistakes.append((True, "", 0, f"{file}: {_dotted(loc)}: missing", _meaning(loc)))
        else:
            source, line = origins[loc]
            what, hint = _describe(loc, details, _show([tree, *_walk(tree, loc)][-1]))
            mistakes.append((False, source, line or 0, f"{_where(origins, loc)}: {what}", hint))
    mistakes.sort(key=lambda mistake: mistake[:3])
    if len(mistakes) == 1:
        return DrnError(*mistakes[0][3:])
    return DrnError("\n".join(str(DrnError(*mistake[3:])) for mistake in mistakes))


def _describe(loc: Loc, details: list[ErrorDetails], got: str) -> tuple[str, str | None]:
    """Return what is wrong with one key, and a hint."""
    first, hint = details[0], None
    kind, context = first["type"], first.get("ctx", {})
    if kind == "extra_forbidden":
        return "unknown key", _similar_key(loc)
    if kind == "value_error" and isinstance(context["error"].__cause__, DrnError):
        return context["error"].__cause__.message, context["error"].__cause__.hint
    if kind == "model_type":
        keys = ", ".join(_section(loc).model_fields)
        return f"should be a mapping, got {got}", f"its keys: {keys}"
    if kind == "literal_error" and isinstance(first["input"], str):
        choices = context["expected"].replace("'", " ").split()
        hint = _suggest(get_close_matches(first["input"], choices, n=1))
    if kind == "string_type" and not isinstance(first["input"], dict | list | None):
        hint = "put it in quotes"
    wanted = list(dict.fromkeys(map(_expected, details)))
    wanted[1:] = [text.removeprefix("should be ") for text in wanted[1:]]
    return f"{' or '.join(wanted)}, got {got}", hint


def _expected(detail: ErrorDetails) -> str:
    kind = detail["type"]
    if kind == "literal_error":
        return "should be " + str(detail["ctx"]["expected"]).replace("'", "")
    if kind in ("missing", "too_long"):
        return f"should have {'more' if kind == 'missing' else 'fewer'} values"
    if kind == "too_short":
        return "should not be empty"
    if kind.endswith(("_type", "_parsing", "_from_float", "_number", "_size")):
        return EXPECTED.get(kind.split("_")[0], "cannot be read")
    message = detail["msg"].removeprefix("Value error, ").removeprefix("Input ")
    return message[:1].lower() + message[1:]


def _similar_key(loc: Loc) -> str | None:
    """Suggest a similar key of the same section, else one of that name in another section."""

    def keys(section: type[BaseModel], prefix: str = "") -> Iterator[str]:
        for key, field in section.model_fields.items():
            yield prefix + key
            if _is_section(field.annotation):
                yield from keys(field.annotation, f"{prefix}{key}.")

    here = [*_section(loc[:-1]).model_fields, *(["extends"] if len(loc) == 1 else [])]
    close = get_close_matches(str(loc[-1]), here, n=1)
    close = close or [key for key in keys(Recipe) if key.rpartition(".")[2] == loc[-1]]
    return _suggest(close) or f"known here: {', '.join(here)}"


def _suggest(names: Sequence[str]) -> str | None:
    return f"did you mean {' or '.join(names)}?" if names else None


def _meaning(loc: Loc) -> str | None:
    """Return the description of a missing key, or of a section and the keys it needs."""
    field = _section(loc[:-1]).model_fields[str(loc[-1])]
    if not _is_section(field.annotation):
        return field.description
    needed = [key for key, inner in field.annotation.model_fields.items() if inner.is_required()]
    return f"{inspect.getdoc(field.annotation)} It needs {', '.join(needed)}"


def _section(loc: Loc) -> type[BaseModel]:
    section: type[BaseModel] = Recipe
    for key in loc:
        annotation = section.model_fields[str(key)].annotation
        assert _is_section(annotation)
        section = annotation
    return section


def _is_section(annotation: object) -> TypeGuard[type[BaseModel]]:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


def _walk(tree: Any, loc: Loc) -> list[Any]:
    """Return the values on the way down to a key, as far as the tree goes."""
    found: list[Any] = []
    for key in loc:
        inside_list = isinstance(tree, list) and isinstance(key, int) and key < len(tree)
        if not inside_list and not (isinstance(tree, dict) and key in tree):
            break
        tree = tree[key]
        found.append(tree)
    return found


def _where(origins: Origins, loc: Loc) -> str:
    """Return where a value was written: `my.yaml:7: train.lr`."""
    source, line = origins[loc]
    key = _dotted(loc)
    if line is not None:
        return f"{source}:{line}: {key}" if key else f"{source}:{line}"
    # `command line: train.lr=-1` names its key; `command line: train={lr: -1}` does not.
    return source if source.startswith(f"command line: {key}=") else f"{source}: {key}"


def _dotted(loc: Loc) -> str:
    text = "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in loc)
    return text.removeprefix(".")


def _show(value: Any) -> str:
    """Return a value as in YAML, at most 60 characters."""
    if isinstance(value, dict):
        return "a mapping"
    if isinstance(value, list):
        return _shorten(f"[{', '.join(map(_show, value))}]")
    if value is None or isinstance(value, bool):
        return "nothing (null)" if value is None else str(value).lower()
    return _shorten(repr(value) if isinstance(value, str) else str(value))


def _shorten(text: str) -> str:
    return text if len(text) <= 60 else f"{text[:57]}..."

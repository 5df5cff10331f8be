"""YAML in which every value remembers the file and line that it came from."""

from dataclasses import dataclass
from typing import Any

import yaml

from drn_cli.errors import DrnError

LARGEST = 256 * 1024  # bytes of a recipe file; those that are shipped have less than 2 KiB
MOST_VALUES = 20_000  # in a file; an alias counts with all that its anchor holds
DEEPEST = 8  # parts of a key; the schema's have three
_MERGE_KEY = "tag:yaml.org,2002:merge"


@dataclass(frozen=True, slots=True)
class Located:
    """A YAML value and where somebody wrote it.

    Attributes:
        value: A scalar, a `list[Located]` or a `dict[str, Located]`.
        source: The file, or `command line: KEY=VALUE`.
        line: Counted from 1: that of the key in a mapping, else that of the value itself.
            None on the command line.
    """

    value: Any
    source: str
    line: int | None

    def at(self, key: str) -> str:
        """Say where this is in an error message: `my.yaml:7: train.lr`."""
        if self.line is not None:
            return f"{self.source}:{self.line}: {key}" if key else f"{self.source}:{self.line}"
        # `command line: train.lr=-1` names its key already; `command line: train={lr: -1}` does not
        named = not key or self.source.startswith(f"command line: {key}=")
        return self.source if named else f"{self.source}: {key}"


def read_mapping(text: str, source: str) -> Located:
    """Read a file's text, which has to be a mapping.

    Raises:
        DrnError: Not YAML, empty, not a mapping, a key that is twice there or is not a string.
    """
    located = _read(text, source, in_file=True)
    if located is None:
        raise DrnError(f"{source}: is empty", "a recipe is a mapping of keys to values")
    if not isinstance(located.value, dict):
        raise DrnError(f"{located.at('')}: should be a mapping, got {show(plain(located))}")
    return located


def read_override(text: str) -> Located:
    """Read `train.lr=0.02` into the mapping that a file would have.

    Raises:
        DrnError: It is not KEY=VALUE, or the value is not YAML.
    """
    key, equals, value = text.partition("=")
    parts = key.strip().split(".")
    source = f"command line: {shorten(text)}"
    if not equals or not all(parts):
        raise DrnError(f"{source}: not KEY=VALUE", "for instance train.lr=0.02")
    if len(parts) > DEEPEST:
        raise DrnError(f"{source}: a key of {len(parts)} parts", f"keys have at most {DEEPEST}")
    # nothing after the "=" is YAML's null, as in a file
    located = _read(value, source, in_file=False) or Located(None, source, None)
    for part in reversed(parts):
        located = Located({part: located}, source, None)
    return located


def merge(base: Located, over: Located) -> Located:
    """Put `over` on `base`: mappings are merged key by key, anything else is replaced."""
    if not isinstance(base.value, dict) or not isinstance(over.value, dict):
        return over
    merged = dict(base.value)
    for key, value in over.value.items():
        merged[key] = merge(merged[key], value) if key in merged else value
    return Located(merged, over.source, over.line)


def plain(located: Located) -> Any:
    """Give the value without its places."""
    if isinstance(located.value, dict):
        return {key: plain(value) for key, value in located.value.items()}
    if isinstance(located.value, list):
        return [plain(value) for value in located.value]
    return located.value


def show(value: Any) -> str:
    """Write a value in a message as one would in YAML, in a few words."""
    if isinstance(value, dict):
        return "a mapping"
    if isinstance(value, list):
        return shorten(f"[{', '.join(show(item) for item in value)}]")
    if value is None:
        return "nothing (null)"
    if isinstance(value, bool):
        return str(value).lower()
    return shorten(repr(value) if isinstance(value, str) else str(value))


def shorten(text: str) -> str:
    """Keep a message to a line that can be read."""
    return text if len(text) <= 60 else f"{text[:57]}..."


def _read(text: str, source: str, *, in_file: bool) -> Located | None:
    loader: yaml.SafeLoader | None = None
    try:
        loader = yaml.SafeLoader(text)
        node = loader.get_single_node()
        return None if node is None else _Reader(loader, source, in_file).locate(node)
    except yaml.MarkedYAMLError as error:
        where = source
        if in_file and error.problem_mark is not None:
            where += f":{error.problem_mark.line + 1}:{error.problem_mark.column + 1}"
        hint = "indent with spaces" if r"'\t'" in str(error.problem) else None
        raise DrnError(
            f"{where}: not valid YAML: {error.problem or error.context}", hint
        ) from error
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


class _Reader:
    """Turns PyYAML's nodes, which know their lines, into `Located` values."""

    def __init__(self, loader: yaml.SafeLoader, source: str, in_file: bool) -> None:
        self.loader = loader
        self.source = source
        self.in_file = in_file
        self.open_nodes: set[int] = set()
        self.values = 0

    def locate(self, node: yaml.Node, line: int | None = None) -> Located:
        line = line or node.start_mark.line + 1
        if id(node) in self.open_nodes:
            raise DrnError(f"{self._at(node)}: an anchor that holds its own alias")
        self.values += 1
        if self.values > MOST_VALUES:
            raise DrnError(
                f"{self._at(node)}: more than {MOST_VALUES:,} values, aliases counted with what "
                "they stand for",
                "write less in one recipe",
            )
        self.open_nodes.add(id(node))
        value: Any
        if isinstance(node, yaml.MappingNode):
            value = self._mapping(node)
        elif isinstance(node, yaml.SequenceNode):
            value = [self.locate(item) for item in node.value]
        else:
            value = self._scalar(node)
        self.open_nodes.discard(id(node))
        return Located(value, self.source, line if self.in_file else None)

    def _mapping(self, node: yaml.MappingNode) -> dict[str, Located]:
        found: dict[str, Located] = {}
        lines: dict[str, int] = {}
        for key_node, value_node in node.value:
            if key_node.tag == _MERGE_KEY:
                raise DrnError(
                    f"{self._at(key_node)}: merge keys (<<) are not read in a recipe",
                    "extends: NAME builds on another recipe",
                )
            key = self._scalar(key_node) if isinstance(key_node, yaml.ScalarNode) else None
            if not isinstance(key, str):
                got = key_node.value if isinstance(key_node, yaml.ScalarNode) else "a collection"
                raise DrnError(f"{self._at(key_node)}: a key should be text, got {got or 'null'}")
            line = key_node.start_mark.line + 1
            if key in found:
                raise DrnError(
                    f"{self._at(key_node)}: {key}: is there already, on line {lines[key]}",
                    "keep one of the two",
                )
            lines[key] = line
            found[key] = self.locate(value_node, line)
        return found

    def _scalar(self, node: yaml.Node) -> Any:
        try:
            value = self.loader.construct_object(node, deep=True)
            if isinstance(value, int) and value.bit_length() > 63:
                raise ValueError("more than a 64-bit integer")
            return value
        except ValueError as error:  # 2024-02-31 looks like a date, and is none
            raise DrnError(
                f"{self._at(node)}: {show(node.value)} cannot be read", "put text in quotes"
            ) from error

    def _at(self, node: yaml.Node) -> str:
        return f"{self.source}:{node.start_mark.line + 1}" if self.in_file else self.source

"""The `drn` commands in shell blocks and in the examples of our help."""

import re
import shlex
from collections.abc import Iterable, Iterator

from rich.text import Text

from .markdown import Line, lines_of

SHELL = ("", "sh", "bash", "shell", "console")
STARTERS = ("srun", "time", "nice", "nohup", "env")  # commands that start the one after them
ASSIGNMENT = re.compile(r"[A-Za-z_]\w*=\S*")
MENTIONED = re.compile(r"(^|\s)(drn|drn_cli)(\s|$)")

Command = tuple[int, list[str]]  # the line, and the words after `drn`


def commands_in_page(text: str) -> Iterator[Command]:
    """Yield the commands of all shell blocks."""
    return commands(line for line in lines_of(text) if line.block in SHELL)


def commands_in_epilog(text: str) -> Iterator[Command]:
    """Yield the commands of a verb's examples, one per line."""
    plain = Text.from_markup(text).plain
    lines = (re.sub(r"^\s*(Examples?: )?", "", line) for line in plain.splitlines())
    return commands(Line(number, line, "") for number, line in enumerate(lines, start=1))


def commands(lines: Iterable[Line]) -> Iterator[Command]:
    """Yield the commands in lines of shell; a backslash at the end continues a line."""
    begun, start = "", 0
    for line in lines:
        text = line.text.strip()
        start = line.number if not begun else start
        begun = f"{begun} {text}".strip()
        if begun.endswith("\\"):
            begun = begun.removesuffix("\\").rstrip()
            continue
        # Text after two or more spaces is an explanation.
        shown, begun = re.split(r"\s{2,}", begun)[0].removeprefix("$ "), ""
        if MENTIONED.search(shown) and not shown.startswith("#"):
            for words in _simple(shown):
                if (found := _ours(words)) is not None:
                    yield start, found


def _simple(line: str) -> Iterator[list[str]]:
    """Split a line at `&&`, `;` and `|`, without redirections."""
    words: list[str] = []
    redirected = False
    tokens = shlex.shlex(line, posix=True, punctuation_chars=True)
    tokens.whitespace_split = True
    for token in tokens:
        if token in ("&&", "||", ";", "|", "&"):
            yield words
            words = []
        elif token[0] in "<>":
            redirected = True
        elif redirected:
            redirected = False
        else:
            words.append(token)
    yield words


def _ours(words: list[str]) -> list[str] | None:
    """Return the words after `drn` or `-m drn_cli`; None for another command."""
    while words and (ASSIGNMENT.fullmatch(words[0]) or words[0] in STARTERS):
        words = words[1:]
        while words and words[0].startswith("-"):
            words = words[1:]
    if words[:1] == ["drn"]:
        return words[1:]
    for place in range(len(words) - 1):
        if words[place : place + 2] == ["-m", "drn_cli"]:
            return words[place + 2 :]
    return None

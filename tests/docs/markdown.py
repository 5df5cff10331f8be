"""The parts of a page of Markdown, as far as ours use it: code blocks, code in lines, prose."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
README = ROOT / "README.md"
PAGES = (README, *sorted((ROOT / "docs").glob("*.md")))
FENCE = re.compile(r"\s*```+\s*(\w*)")
INDENT = " " * 4


@dataclass(frozen=True, slots=True)
class Line:
    """A line of a page.

    Attributes:
        number: From 1.
        text: Without the indentation of an indented block.
        block: The language of the code block that it is in, empty if that says none; None in prose.
    """

    number: int
    text: str
    block: str | None


def lines_of(text: str) -> Iterator[Line]:
    """Give every line but those that open and close code blocks."""
    fenced: str | None = None
    indented, after_blank = False, True
    for number, line in enumerate(text.splitlines(), start=1):
        fence = FENCE.match(line)
        if fence and fenced is None:
            fenced = fence[1]
        elif fence:
            fenced = None
        elif fenced is not None:
            yield Line(number, line, fenced)
        else:
            # In a paragraph or a list, indentation does not make code.
            indented = line.startswith(INDENT) and (indented or after_blank)
            yield Line(
                number, line.removeprefix(INDENT) if indented else line, "" if indented else None
            )
        after_blank = not line.strip()
        if after_blank and fenced is None:
            indented = False


def inline_code(text: str) -> Iterator[tuple[int, str]]:
    """Give the code between backticks in prose, with the number of its line."""
    for line in lines_of(text):
        if line.block is None:
            for found in re.findall(r"`([^`]+)`", line.text):
                yield line.number, found


def prose(text: str) -> str:
    """Give the text without code, in blocks or in lines."""
    lines = [line.text for line in lines_of(text) if line.block is None]
    return re.sub(r"`[^`\n]*`", "", "\n".join(lines))


def headings(text: str) -> Iterator[str]:
    """Give the anchor of each heading, as GitHub makes it of the heading's words."""
    taken: dict[str, int] = {}
    for line in lines_of(text):
        found = re.fullmatch(r"#{1,6} +(.+?)[ #]*", line.text) if line.block is None else None
        if found:
            words = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", found[1]).replace("`", "")
            anchor = re.sub(r"[^\w\- ]", "", words.lower()).replace(" ", "-")
            taken[anchor] = taken.get(anchor, -1) + 1
            yield f"{anchor}-{taken[anchor]}" if taken[anchor] else anchor

"""A small Markdown reader for our pages: code blocks, inline code, prose, headings."""

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
    """A line of a page."""

    number: int  # from 1
    text: str  # without the indentation of an indented code block
    block: str | None  # language of its code block, "" for none; None in prose


def lines_of(text: str) -> Iterator[Line]:
    """Yield every line except the fences of code blocks."""
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
    """Yield the line number and text of inline code."""
    for line in lines_of(text):
        if line.block is None:
            for found in re.findall(r"`([^`]+)`", line.text):
                yield line.number, found


def prose(text: str) -> str:
    """Return the text without code blocks and inline code."""
    lines = [line.text for line in lines_of(text) if line.block is None]
    return re.sub(r"`[^`\n]*`", "", "\n".join(lines))


def headings(text: str) -> Iterator[str]:
    """Yield the anchor of each heading, in the form of GitHub."""
    taken: dict[str, int] = {}
    for line in lines_of(text):
        found = re.fullmatch(r"#{1,6} +(.+?)[ #]*", line.text) if line.block is None else None
        if found:
            words = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", found[1]).replace("`", "")
            anchor = re.sub(r"[^\w\- ]", "", words.lower()).replace(" ", "-")
            taken[anchor] = taken.get(anchor, -1) + 1
            yield f"{anchor}-{taken[anchor]}" if taken[anchor] else anchor

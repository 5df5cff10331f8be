"""Text for terminals, in which nothing that a file or a user named acts on the terminal."""

import re
import sys
from collections.abc import Iterable
from typing import NoReturn

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment

# Control characters (escape sequences begin with one), line separators, what turns the direction
# of writing round, and bytes of file names that are not UTF-8.
_ACTIVE = re.compile("[\0-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
_ACTIVE_OR_LINE = re.compile(f"{_ACTIVE.pattern[:-1]}\n\t]")


def visible(text: str, *, one_line: bool = False) -> str:
    r"""Show characters that act on a terminal as escapes, such as \x1b.

    Args:
        text: What holds names that others chose.
        one_line: Whether line ends and tabs are shown like that too.
    """
    return (_ACTIVE_OR_LINE if one_line else _ACTIVE).sub(_escape, text)


def _escape(found: re.Match[str]) -> str:
    code = ord(found[0])
    if 0xDC80 <= code <= 0xDCFF:  # how Python keeps a byte that is not UTF-8
        return f"\\x{code - 0xDC00:02x}"
    return found[0].encode("unicode_escape").decode()


class Terminal(Console):
    """A console that prints text as it is: no markup, no emoji codes, nothing active in it.

    Styles are for `rich.text.Text`, which never reads a name as markup.

    Args:
        stderr: Whether it prints to stderr.
    """

    def __init__(self, *, stderr: bool = False) -> None:
        stream = sys.stderr if stderr else sys.stdout  # None where it was closed at the start
        watched = stream is not None and stream.isatty()
        super().__init__(
            stderr=stderr,
            highlight=False,
            markup=False,
            emoji=False,
            width=None if watched else 160,  # a table in a file keeps its columns whole
        )

    def render(
        self, renderable: RenderableType, options: ConsoleOptions | None = None
    ) -> Iterable[Segment]:
        for segment in super().render(renderable, options):
            if segment.control or not _ACTIVE.search(segment.text):
                yield segment
            else:
                yield Segment(visible(segment.text), segment.style)

    def on_broken_pipe(self) -> NoReturn:
        # rich would end the process here. It calls this where it handles the error.
        self.quiet = True
        raise  # noqa: PLE0704

"""Formatting of numbers and text for people, and safe output of names on a terminal."""

import math
import re
import sys
from collections.abc import Iterable
from typing import NoReturn

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment

# Control characters (also the start of escape sequences), line separators, characters that change
# the direction of text, and bytes of file names that are not UTF-8.
_ACTIVE = re.compile("[\0-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
_ACTIVE_OR_LINE = re.compile(f"{_ACTIVE.pattern[:-1]}\n\t]")


def visible(text: str, *, one_line: bool = False) -> str:
    r"""Escape characters that control a terminal, for instance \x1b.

    Args:
        text: Text with untrusted names.
        one_line: Whether line breaks and tabs are escaped, too.
    """
    return (_ACTIVE_OR_LINE if one_line else _ACTIVE).sub(_escape, text)


def _escape(found: re.Match[str]) -> str:
    code = ord(found[0])
    if 0xDC80 <= code <= 0xDCFF:  # a byte that is not UTF-8 (surrogateescape)
        return f"\\x{code - 0xDC00:02x}"
    return found[0].encode("unicode_escape").decode()


def first_line(error: BaseException | str) -> str:
    """Return the first line of an exception or warning, or its type if it has no text."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def percent(fraction: float, digits: int = 1) -> str:
    """Format a fraction: `41.3 %`."""
    return f"{100 * fraction:.{digits}f} %"


def duration(seconds: float) -> str:
    """Format a time span in its two largest units: `3 h 12 min`."""
    whole = round(seconds)
    days, hours, minutes = whole // 86400, whole // 3600 % 24, whole // 60 % 60
    if days:
        return f"{days} d {hours} h"
    if hours:
        return f"{hours} h {minutes} min"
    if minutes:
        return f"{minutes} min {whole % 60} s"
    return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.1f} s"


def size(count: float) -> str:
    """Format a number of bytes: `8.4 MB`, in powers of 1000."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "bytes" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def four_digits(value: float) -> str:
    """Format a number with four significant digits: `0.4123`, `3.921`, `1200`, `5.2e-5`."""
    if value == 0 or not math.isfinite(value):
        return f"{value + 0.0:g}"  # -0.0 is 0
    if 1000 <= abs(value) < 1e7:
        return f"{value:.0f}"
    mantissa, _, exponent = f"{value:.4g}".partition("e")
    return f"{mantissa}e{int(exponent)}" if exponent else mantissa


class Terminal(Console):
    """A console without markup and emoji codes, which escapes control characters.

    Styled output uses `rich.text.Text`, which does not interpret names as markup.

    Args:
        stderr: Print to stderr.
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
        # rich would exit the process here. It calls this method while it handles the error.
        self.quiet = True
        raise  # noqa: PLE0704

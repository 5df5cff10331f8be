"""Terminal output: results on stdout, everything else on stderr."""

import json
import logging
import re
import sys
import textwrap
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import typer
from rich.console import RenderableType
from rich.style import Style
from rich.table import Table
from rich.text import Text

from drn_cli.errors import DrnError
from drn_cli.formatting import Terminal, visible

if TYPE_CHECKING:
    from tqdm import tqdm

INTERRUPTED = 130  # exit code after Ctrl-C: 128 + SIGINT
PIPE_CLOSED = 141  # exit code after a closed output pipe: 128 + SIGPIPE
MAX_MESSAGE = 4000  # characters of a message that are printed

out = Terminal()
err = Terminal(stderr=True)

# Text with styles: `styled("plain ", ("red", "bold red"))`. Names in it are never markup.
styled = Text.assemble


class _Table(Table):
    def add_row(
        self,
        *cells: RenderableType | None,
        style: str | Style | None = None,
        end_section: bool = False,
    ) -> None:
        plain = (visible(cell, one_line=True) if isinstance(cell, str) else cell for cell in cells)
        super().add_row(*plain, style=style, end_section=end_section)


def table(*columns: str, right: tuple[str, ...] = (), fold: bool = False) -> Table:
    """Return an empty table; text in its cells is shown as it is, in one line.

    Args:
        columns: Titles of the columns.
        right: Titles of the columns with numbers, which are never wrapped.
        fold: Whether the first column may be wrapped, as paths may.
    """
    made = _Table(header_style="bold", box=None, pad_edge=False)
    for number, column in enumerate(columns):
        made.add_column(
            column,
            justify="right" if column in right else "left",
            no_wrap=column in right or (number == 0 and not fold),
            overflow="fold",
        )
    return made


def print_facts(facts: Iterable[tuple[str, str]]) -> None:
    """Print names and values in two columns, at most 80 wide; long words stay whole."""
    rows = [(name, visible(value, one_line=True)) for name, value in facts]
    indent = 2 + max(len(name) for name, _ in rows)
    for name, value in rows:
        lines = textwrap.wrap(value, 80 - indent, break_long_words=False, break_on_hyphens=False)
        echo(name.ljust(indent) + ("\n" + " " * indent).join(lines))


def emit_json(value: Any) -> None:
    """Print the JSON document of a command with `--json`."""
    text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False)
    # Escape characters that act on a terminal, and bytes of file names that are not UTF-8.
    text = re.sub(
        "[\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]",
        lambda found: f"\\u{ord(found[0]):04x}",
        text,
    )
    sys.stdout.write(text + "\n")


def echo(text: str, end: str = "\n") -> None:
    """Print text to stdout unchanged: no wrapping, no markup."""
    sys.stdout.write(visible(text) + end)


def note(message: str) -> None:
    """Print a line of progress or information to stderr."""
    _print("", "", message)


def warn(message: str) -> None:
    _print("warning:", "yellow", message)


def fail(error: DrnError) -> None:
    """Print an error in one line, and its hint if it has one."""
    _print("error:", "bold red", error.message, error.hint)


def exit_if_failed(failed: bool | Sequence[object]) -> None:
    """Exit with code 1 if images failed; they were reported before."""
    from drn_cli.distributed.launch import worker_exit_code

    if failed:
        raise typer.Exit(worker_exit_code(1))


def _print(label: str, style: str, message: str, hint: str | None = None) -> None:
    from tqdm import tqdm

    parts = [(f"{label} ", style)] if label else []
    if len(message) > MAX_MESSAGE:  # it may quote a line of megabytes
        left_out = f" [... {len(message) - MAX_MESSAGE:,} characters ...] "
        message = f"{message[: MAX_MESSAGE // 2]}{left_out}{message[-MAX_MESSAGE // 2 :]}"
    # A newline in a file name must not begin a line that looks like a message.
    text = styled(*parts, re.sub(r"\n(?=[^ \n])", "\n  ", visible(message)))
    if hint:
        text.append_text(styled(" ", ("->", "dim"), f" {visible(hint)}"))
    with tqdm.external_write_mode(file=sys.stderr):  # clears progress bars meanwhile
        err.print(text, soft_wrap=True)


def bar(total: int, *, shown: bool = True, unit: str = "image") -> "tqdm[Any]":
    """Return a progress bar on stderr, hidden without a terminal; rank 0 shows it."""
    from tqdm import tqdm

    return tqdm(total=total, unit=unit, disable=None if shown else True)


class _ConsoleHandler(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        (warn if record.levelno >= logging.WARNING else note)(record.getMessage())


def show_logs() -> None:
    """Print log records of the package, from INFO on, like `note` and `warn`."""
    logger = logging.getLogger("drn_cli")
    logger.setLevel(logging.INFO)
    logger.propagate = False
    if not logger.handlers:
        logger.addHandler(_ConsoleHandler())

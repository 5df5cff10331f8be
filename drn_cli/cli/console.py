"""What a person sees: results on stdout, everything else on stderr."""

import json
import logging
import re
import sys
from collections.abc import Sequence
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

INTERRUPTED = 130  # the exit code after Ctrl-C: 128 + SIGINT, as shells count
LONGEST = 4000  # characters of a message that are printed
PIPE_CLOSED = 141  # 128 + SIGPIPE, as for any program whose reader has left

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
    """Start a table in the house style; text in its cells is shown as it is, in one line.

    Args:
        columns: What they are called.
        right: Those that hold numbers.
        fold: Whether the first column may be broken, as paths may; else it is kept whole.
    """
    made = _Table(header_style="bold", box=None, pad_edge=False)
    for number, column in enumerate(columns):
        made.add_column(
            column,
            justify="right" if column in right else "left",
            no_wrap=number == 0 and not fold,  # it names the row: better whole
            overflow="fold",
        )
    return made


def emit_json(value: Any) -> None:
    """Print the one JSON document of a `--json` run, with nothing else on stdout."""
    text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False)
    # JSON has an escape for what acts on a terminal, and for names of files that are not UTF-8.
    text = re.sub(
        "[\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]",
        lambda found: f"\\u{ord(found[0]):04x}",
        text,
    )
    sys.stdout.write(text + "\n")


def echo(text: str, end: str = "\n") -> None:
    """Print text to stdout as it stands: tabs, spaces and long lines stay what they are."""
    sys.stdout.write(visible(text) + end)


def note(message: str) -> None:
    """Tell what happens, on stderr, in plain text."""
    _print("", "", message)


def warn(message: str) -> None:
    _print("warning:", "yellow", message)


def fail(error: DrnError) -> None:
    """Print an error in one line, and its hint if it has one."""
    _print("error:", "bold red", error.message, error.hint)


def exit_if_failed(failed: bool | Sequence[object]) -> None:
    """Exit with code 1 where images failed, which were reported."""
    from drn_cli.distributed.launch import worker_exit_code

    if failed:
        raise typer.Exit(worker_exit_code(1))


def _print(label: str, style: str, message: str, hint: str | None = None) -> None:
    from tqdm import tqdm

    parts = [(f"{label} ", style)] if label else []
    if len(message) > LONGEST:  # a line of megabytes that a file has
        left_out = f" [... {len(message) - LONGEST:,} characters ...] "
        message = f"{message[: LONGEST // 2]}{left_out}{message[-LONGEST // 2 :]}"
    # A line end in a name must not begin a line that looks like one of ours.
    text = styled(*parts, re.sub(r"\n(?=[^ \n])", "\n  ", visible(message)))
    if hint:
        text.append_text(styled(" ", ("->", "dim"), f" {visible(hint)}"))
    with tqdm.external_write_mode(file=sys.stderr):  # a progress bar steps aside
        err.print(text, soft_wrap=True)


def bar(total: int, *, shown: bool = True, unit: str = "image") -> "tqdm[Any]":
    """Make a progress bar on stderr, for terminals; one process of a job shows it."""
    from tqdm import tqdm

    return tqdm(total=total, unit=unit, disable=None if shown else True)


class _ConsoleHandler(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        (warn if record.levelno >= logging.WARNING else note)(record.getMessage())


def show_logs() -> None:
    """Show what the package logs, from INFO on, in the same manner as `note` and `warn`."""
    logger = logging.getLogger("drn_cli")
    logger.setLevel(logging.INFO)
    logger.propagate = False
    if not logger.handlers:
        logger.addHandler(_ConsoleHandler())

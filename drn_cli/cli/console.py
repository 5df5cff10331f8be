"""What a person sees: results on stdout, everything else on stderr."""

import json
import logging
import sys
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from drn_cli.errors import DrnError

if TYPE_CHECKING:
    from tqdm import tqdm

INTERRUPTED = 130  # the exit code after Ctrl-C: 128 + SIGINT, as shells count

# Where nobody looks at a terminal, a table keeps its columns whole.
out = Console(highlight=False, width=None if sys.stdout.isatty() else 160)
err = Console(stderr=True, highlight=False)


def table(*columns: str, right: tuple[str, ...] = (), fold: bool = False) -> Table:
    """Start a table in the house style.

    Args:
        columns: What they are called.
        right: Those that hold numbers.
        fold: Whether the first column may be broken, as paths may; else it is kept whole.
    """
    made = Table(header_style="bold", box=None, pad_edge=False)
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
    # Names of files need not be UTF-8; JSON has an escape for what is not.
    sys.stdout.write(text.encode(errors="backslashreplace").decode() + "\n")


def note(message: str) -> None:
    """Tell what happens, on stderr, in plain text."""
    from tqdm import tqdm

    with tqdm.external_write_mode(file=sys.stderr):  # a progress bar steps aside
        err.print(escape(message), soft_wrap=True)


def bar(total: int, *, shown: bool = True, unit: str = "picture") -> "tqdm[Any]":
    """Make a progress bar on stderr, for terminals; one process of a job shows it."""
    from tqdm import tqdm

    return tqdm(total=total, unit=unit, disable=None if shown else True)


def warn(message: str) -> None:
    err.print(f"[yellow]warning:[/] {escape(message)}", soft_wrap=True)


def fail(error: DrnError) -> None:
    """Print an error in one line, and its hint if it has one."""
    line = f"[bold red]error:[/] {escape(error.message)}"
    if error.hint:
        line += f" [dim]->[/] {escape(error.hint)}"
    err.print(line, soft_wrap=True)


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

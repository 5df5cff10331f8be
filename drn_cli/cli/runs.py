"""`drn runs`: compare the runs below a folder, and remove some."""

import json
import shutil
import textwrap
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from drn_cli.cli import console
from drn_cli.cli.completion import complete_run
from drn_cli.formatting import visible
from drn_cli.runs import RUNS, Run, find_runs

if TYPE_CHECKING:
    from drn_cli.report.run_history import RunSummary

EPILOG = """[bold]Examples[/]

  drn runs

  drn runs /scratch/experiments --sort best --json

  drn runs runs/drn_d_22_camvid

  drn runs --remove runs/trial

Newest first, with the recipe keys that differ from the first run of the list.
An unfinished run was killed, or is running on another host.
"""

MAX_DIFFERENCES = 6  # recipe keys printed per run; --json has all


@dataclass(frozen=True, slots=True)
class _RunRow:
    """A run directory with its summary, or why it cannot be read."""

    run: Run
    summary: "RunSummary | None"
    problem: str | None
    started: datetime


def runs(
    root: Annotated[
        Path, typer.Argument(metavar="ROOT", help="Folder to search for runs, or a run.")
    ] = RUNS,
    sort: Annotated[
        Literal["started", "best", "epochs", "time", "run"],
        typer.Option(help="Order: newest, best, most epochs or slowest first; run: by name."),
    ] = "started",
    remove: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="RUN",
            autocompletion=complete_run,
            help="Delete a run directory with its checkpoints; may be repeated.",
        ),
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Remove without confirmation.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the list as JSON.")] = False,
) -> None:
    """Compare runs (state, epochs, best score, time, recipe differences), or remove runs."""
    if remove:
        _remove(remove, yes=yes)
        return
    found = [_read_row(run) for run in find_runs(root)]
    found.sort(key=lambda one: one.started, reverse=True)
    found.sort(key=lambda one: _sort_key(one, sort))
    for one in found:
        if one.summary and one.summary.damage:
            console.warn(one.summary.damage)
    differences = _differences(found)
    if as_json:
        console.emit_json(
            [
                one.summary.to_json() | {"differences": changed}
                if one.summary
                else {"run": str(one.run.folder), "error": one.problem}
                for one, changed in zip(found, differences, strict=True)
            ]
        )
    elif found:
        _print(found, differences, root)
    else:
        console.note(f"{root}: no runs (start one with `drn train RECIPE`)")


def _remove(folders: list[Path], *, yes: bool) -> None:
    """Delete run directories, after a confirmation each.

    Raises:
        DrnError: A folder is not a run directory, or a process is training in it.
    """
    from drn_cli.errors import DrnError
    from drn_cli.formatting import size

    for folder in folders:
        if folder.is_symlink() or [run.folder for run in find_runs(folder)] != [folder]:
            raise DrnError(f"{folder}: not a run directory", "`drn runs` lists them")
    for folder in folders:
        total = sum(path.lstat().st_size for path in folder.rglob("*") if not path.is_dir())
        question = f"remove {visible(str(folder), one_line=True)} ({size(total)})?"
        if not yes and not typer.confirm(question, err=True):
            console.note(f"kept {folder}")
            continue
        with Run(folder).claimed():
            shutil.rmtree(folder)
        console.note(f"removed {folder} ({size(total)})")


def _sort_key(one: _RunRow, sort: str) -> tuple[bool, float | str]:
    """Return the sort key of a run; runs without a value come last."""
    if sort == "run":
        return False, str(one.run.folder)
    values = {
        "best": one.summary and one.summary.score,
        "epochs": one.summary and one.summary.epoch,
        "time": one.summary and one.summary.seconds,
    }
    value = values.get(sort)
    return value is None, -(value or 0.0)


def _differences(found: list[_RunRow]) -> list[dict[str, Any]]:
    """Return the recipe keys of each run whose values differ from those of the first run."""
    from drn_cli.report.run_history import recipe_differences

    summaries = [one.summary for one in found if one.summary]
    columns = recipe_differences(summaries)
    rows = iter(
        [
            {key: row[n] for key, row in columns.items() if row[n] != row[0]}
            for n in range(len(summaries))
        ]
    )
    return [next(rows) if one.summary else {} for one in found]


def _read_row(run: Run) -> _RunRow:
    from drn_cli.errors import DrnError
    from drn_cli.report.run_history import run_summary

    try:
        summary = run_summary(run)
    except DrnError as error:
        return _RunRow(run, None, error.message, _changed(run))
    return _RunRow(run, summary, None, summary.started or _changed(run))


def _changed(run: Run) -> datetime:
    """Return when a run directory last changed, for runs without a recorded start."""
    try:
        return datetime.fromtimestamp(run.folder.stat().st_mtime, UTC)
    except (OSError, ValueError, OverflowError):
        return datetime.min.replace(tzinfo=UTC)


def _print(found: list[_RunRow], differences: list[dict[str, Any]], root: Path) -> None:
    from drn_cli.formatting import duration, four_digits
    from drn_cli.report.run_history import SCORE

    numbers = ("best %", "epochs", "time")
    table = console.table("run", "state", "score", *numbers, right=numbers, fold=True)
    names = [
        str(one.run.folder.relative_to(root) if one.run.folder != root else one.run.folder)
        for one in found
    ]
    for name, one in zip(names, found, strict=True):
        if one.summary is None:
            table.add_row(name, console.styled(("broken", "red")), "", "", "", "")
            continue
        score, seconds = one.summary.score, one.summary.seconds
        table.add_row(
            name,
            one.summary.state,
            SCORE[one.summary.task][1],
            "" if score is None else f"{100 * score:.2f}",
            f"{four_digits(one.summary.epoch)}/{four_digits(one.summary.epochs)}",
            "" if seconds is None else duration(seconds),
        )
    console.out.print(table)
    if any(differences):
        whole = next(name for name, one in zip(names, found, strict=True) if one.summary)
        console.echo(f"\nRecipe differences to {whole}:")
    for name, changed in zip(names, differences, strict=True):
        if changed:
            shown = [f"{key}={json.dumps(changed[key])}" for key in [*changed][:MAX_DIFFERENCES]]
            left_out = len(changed) - len(shown)
            more = f" and {left_out} more" if left_out else ""
            text = f"  {visible(name, one_line=True)}: {' '.join(shown)}{more}"
            console.echo(textwrap.fill(text, 80, subsequent_indent="    ", break_long_words=False))
    for one in found:
        if one.problem:
            console.warn(one.problem)

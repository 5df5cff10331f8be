"""`drn runs`: the runs below a folder, with their scores."""

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from drn_cli.cli import console
from drn_cli.runs import RUNS, Run, find_runs

if TYPE_CHECKING:
    from drn_cli.report.run_history import RunSummary

EPILOG = """[bold]Examples[/]

  drn runs

  drn runs /scratch/experiments --json

  drn runs runs/drn_d_22_camvid

Newest first. An unfinished run was broken off without a word, or runs on another machine.
"""


@dataclass(frozen=True, slots=True)
class _Found:
    """A run folder with what it tells, or with what is wrong with it."""

    run: Run
    summary: "RunSummary | None"
    problem: str | None
    started: datetime


def runs(
    root: Annotated[
        Path, typer.Argument(metavar="ROOT", help="Folder to look through, or a run.")
    ] = RUNS,
    as_json: Annotated[bool, typer.Option("--json", help="Print the list as JSON.")] = False,
) -> None:
    """List runs: network, state, epochs, best score, last loss, time."""
    found = sorted(map(_look_at, find_runs(root)), key=lambda one: one.started, reverse=True)
    for one in found:
        if one.summary and one.summary.damage:
            console.warn(one.summary.damage)
    if as_json:
        console.emit_json(
            [
                one.summary.to_json()
                if one.summary
                else {"run": str(one.run.folder), "problem": one.problem}
                for one in found
            ]
        )
    elif found:
        _print(found, root)
    else:
        console.note(f"{root}: no runs here; `drn train RECIPE` makes one")


def _look_at(run: Run) -> _Found:
    from drn_cli.errors import DrnError
    from drn_cli.report.run_history import run_summary

    try:
        summary = run_summary(run)
    except DrnError as error:
        return _Found(run, None, error.message, _changed(run))
    return _Found(run, summary, None, summary.started or _changed(run))


def _changed(run: Run) -> datetime:
    """Return when a run folder last changed; stands in for a start that the run does not name."""
    try:
        return datetime.fromtimestamp(run.folder.stat().st_mtime, UTC)
    except (OSError, ValueError, OverflowError):
        return datetime.min.replace(tzinfo=UTC)


def _print(found: list[_Found], root: Path) -> None:
    from drn_cli.formatting import duration, four_digits, percent

    numbers = ("epochs", "best", "last loss", "time")
    table = console.table("run", "network", "task", "state", *numbers, "started", right=numbers)
    for one in found:
        folder = one.run.folder
        name = str(folder.relative_to(root)) if folder != root else str(folder)
        summary = one.summary
        if summary is None:
            table.add_row(name, "", "", console.styled(("broken", "red")), "", "", "", "", "")
            continue
        score, loss, seconds = summary.score, summary.history.loss, summary.history.seconds
        table.add_row(
            name,
            summary.label,
            summary.task,
            summary.state,
            f"{four_digits(summary.history.epoch)}/{four_digits(summary.epochs)}",
            "" if score is None else f"{summary.score_name} {percent(score, 2)}",
            "" if loss is None else four_digits(loss),
            "" if seconds is None else duration(seconds),
            one.started.astimezone().strftime("%Y-%m-%d %H:%M") if summary.started else "",
        )
    console.out.print(table)
    for one in found:
        if one.problem:
            console.warn(one.problem)

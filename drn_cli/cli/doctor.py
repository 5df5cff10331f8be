"""`drn doctor`: whether this machine is fit for the work, and what to do where it is not."""

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from drn_cli import __version__
from drn_cli.cli import console
from drn_cli.formatting import visible

if TYPE_CHECKING:
    from drn_cli.doctor.finding import Finding

EPILOG = """[bold]Examples[/]

  drn doctor

  drn doctor --offline               ask no other machine

  drn doctor --json > doctor.json    to put into a report of a bug

It ends with 1 if anything failed; warnings do not count. Nothing is installed, changed or left.
"""

COLOURS = {"ok": "green", "warning": "yellow", "failure": "bold red"}


def doctor(
    offline: Annotated[
        bool, typer.Option("--offline", help="Do not ask whether mirrors of weights answer.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print what was found as JSON.")] = False,
) -> None:
    """Check Python, torch, GPUs, processes, memory, disk, weights and extras, with remedies."""
    from drn_cli.doctor.examination import checks, examine

    findings = []
    with console.err.status("") as status:  # which only terminals show
        for name, look in checks(offline=offline):
            status.update(f"looking at {name}")
            findings += examine(name, look)
    failures = sum(finding.status == "failure" for finding in findings)
    if as_json:
        console.emit_json(
            {
                "findings": [asdict(finding) for finding in findings],
                "ok": not failures,
                "drn": __version__,
            }
        )
    else:
        _print(findings)
        warnings = sum(finding.status == "warning" for finding in findings)
        told = f"{_count(failures, 'failure')}, {_count(warnings, 'warning')}"
        console.out.print(f"\ndrn {__version__}: {told}")
    if failures:
        raise typer.Exit(1)


def _print(findings: "list[Finding]") -> None:
    table = console.table("what", "", "found")
    for finding in findings:
        colour = COLOURS[finding.status]
        found = console.styled(visible(finding.found))
        if finding.remedy is not None:
            found.append_text(console.styled("\n", ("->", "dim"), f" {visible(finding.remedy)}"))
        table.add_row(finding.name, console.styled((finding.status, colour)), found)
    console.out.print(table)


def _count(number: int, word: str) -> str:
    return f"{number or 'no'} {word}{'' if number == 1 else 's'}"

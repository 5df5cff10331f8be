"""`drn doctor`: check this machine for drn, with a remedy for each problem."""

from typing import Annotated

import typer

from drn_cli.cli import console
from drn_cli.formatting import visible
from drn_cli.version import __version__

EPILOG = """[bold]Examples[/]

  drn doctor

  drn doctor --offline               without network access

  drn doctor --json > doctor.json    for a bug report, with versions

The exit code is 1 if a check failed, 0 with warnings only. Nothing is
installed or changed.
"""

COLORS = {"ok": "green", "warning": "yellow", "failure": "bold red"}


def doctor(
    offline: Annotated[
        bool, typer.Option("--offline", help="Do not check the mirrors of weights.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the results as JSON.")] = False,
) -> None:
    """Check Python, torch, GPUs, processes, memory, disk, weights and extras, with remedies."""
    from drn_cli.doctor.checks import CHECKS, run_check
    from drn_cli.doctor.probes import environment

    results = []
    with console.err.status("") as status:  # only on a terminal
        for name, check in CHECKS.items():
            if not (offline and name == "mirrors"):
                status.update(f"checking {name}")
                results += run_check(name, check)
        versions = environment() if as_json else None
    failures = sum(result.status == "failure" for result in results)
    warnings = sum(result.status == "warning" for result in results)
    if as_json:
        console.emit_json(
            {
                "checks": [
                    {
                        "name": result.name,
                        "status": result.status,
                        "message": result.found,
                        "hint": result.remedy,
                    }
                    for result in results
                ],
                "ok": not failures,
                "drn": __version__,
                "environment": versions,
            }
        )
    else:
        table = console.table("check", "", "found")
        for result in results:
            found = console.styled(visible(result.found))
            if result.remedy is not None:
                remedy = ("\n", ("->", "dim"), f" {visible(result.remedy)}")
                found.append_text(console.styled(*remedy))
            status_text = console.styled((result.status, COLORS[result.status]))
            table.add_row(result.name, status_text, found)
        console.out.print(table)
        counts = {"failure": failures, "warning": warnings}
        words = [f"{count or 'no'} {w}{'' if count == 1 else 's'}" for w, count in counts.items()]
        console.out.print(f"\ndrn {__version__}: {', '.join(words)}")
    if failures:
        raise typer.Exit(1)

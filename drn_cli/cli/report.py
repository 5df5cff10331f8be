"""`drn report`: a run as one HTML page."""

from pathlib import Path
from typing import Annotated

import typer

from drn_cli.cli import console

EPILOG = """[bold]Examples[/]

  drn report                                       the run that measured last, also while it runs

  drn report runs/drn_d_22_camvid/2026-01-31_12-00-00 --out camvid.html

  drn report runs/trial --pictures 30 --data /data/camvid

  drn report runs/trial --pictures 0               no prediction: takes no time

The page holds curves, scores of each class, the confusion matrix, validation pictures with their
predictions, the recipe and the environment. It is one file that needs no network.
"""


def report(
    run: Annotated[
        Path | None,
        typer.Argument(metavar="RUN", help="Run folder; by default the one that measured last."),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="HTML file; by default RUN/report.html.")] = None,
    pictures: Annotated[
        int, typer.Option(min=0, max=200, help="Validation pictures to predict and show.")
    ] = 12,
    data: Annotated[
        Path | None, typer.Option(help="Data folder; by default that of the run's recipe.")
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print what was written as JSON.")
    ] = False,
) -> None:
    """Write a page about a run: curves, scores, pictures, recipe, environment."""
    from drn_cli.files import require_folder
    from drn_cli.runs import Run, last_written

    if run is not None:
        hint = "`drn runs` lists those below ./runs"
        require_folder(run, "one run", hint, noun="run folder")
    found = last_written() if run is None else Run(run)
    if run is None:
        console.note(f"run: {found.folder} (the one that measured last)")

    from tqdm import tqdm

    from drn_cli.report.page import write_report

    with tqdm(desc="predicting", unit="picture", leave=False, disable=None) as bar:

        def step(done: int, total: int) -> None:
            bar.total = total
            bar.update()

        made = write_report(
            found, out or found.folder / "report.html", pictures=pictures, data=data, step=step
        )
    for line in made.missing:
        console.warn(line)
    if as_json:
        console.emit_json(
            {
                "run": str(found.folder),
                "page": str(made.path),
                "pictures": made.pictures,
                "missing": list(made.missing),
            }
        )
    else:
        console.echo(str(made.path))

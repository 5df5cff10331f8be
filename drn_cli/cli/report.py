"""`drn report`: a run, or several side by side, as one HTML page."""

from pathlib import Path
from typing import Annotated

import typer

from drn_cli.cli import console
from drn_cli.cli.completion import complete_run

EPILOG = """[bold]Examples[/]

  drn report                            the last run, also while it trains

  drn report runs/trial --out trial.html --images 30 --data /data/camvid

  drn report runs/trial --images 0      no predictions: takes no time

  drn report runs/trial --figures figs  also PDF and SVG figures for papers

  drn report runs/a runs/b runs/c       curves over each other, what differs

The page contains predictions beside labels, training crops, curves, scores of
each class, the confusion matrix, the recipe and the environment. It is a
single self-contained file. `drn train` writes it at its end.
"""


def report(
    runs: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="RUN",
            help="Run directories; by default the one with the newest metrics.",
            autocompletion=complete_run,
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            help="HTML file; by default RUN/report.html, or report.html here for several runs."
        ),
    ] = None,
    images: Annotated[
        int,
        typer.Option(
            min=0, max=200, help="Validation images to show, the worst and the best (one run)."
        ),
    ] = 8,
    data: Annotated[
        Path | None,
        typer.Option(help="Data folder; by default that of the run's recipe (one run)."),
    ] = None,
    figures: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR", help="Write the figures as PDF and SVG too, as wide as a paper's column."
        ),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print what was written as JSON.")
    ] = False,
) -> None:
    """Write a page about a run: predictions, curves, scores, recipe. Or compare runs."""
    from drn_cli.files import require_folder
    from drn_cli.runs import Run, last_written

    for folder in runs or []:
        require_folder(folder, "a run", "`drn runs` lists those below ./runs", noun="run directory")
    if runs and len(runs) > 1 and data is not None:
        raise typer.BadParameter("--data goes with one run: a comparison shows no images")
    found = [Run(folder) for folder in runs] if runs else [last_written()]
    if not runs:
        console.note(f"run: {found[0].folder} (the one with the newest metrics)")

    from tqdm import tqdm

    from drn_cli.report.page import write_report

    page = Path("report.html") if len(found) > 1 else found[0].folder / "report.html"
    with tqdm(desc="predicting", unit="image", leave=False, disable=None) as bar:
        made = write_report(
            found, out or page, images=images, data=data, figures=figures, step=bar.update
        )
    for line in made.missing:
        console.warn(line)
    if as_json:
        console.emit_json(
            {
                "runs": [str(run.folder) for run in found],
                "out": str(made.page),
                "images": made.images,
                "figures": [str(path) for path in made.figures],
                "warnings": list(made.missing),
            }
        )
        return
    for path in (made.page, *made.figures):
        console.echo(str(path))

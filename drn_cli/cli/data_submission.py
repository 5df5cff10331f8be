"""`drn data check-submission`: check a zip file for the Cityscapes server."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from drn_cli.cli import console

if TYPE_CHECKING:
    from drn_cli.evaluation.submission import Submission

EPILOG = """[bold]Examples[/]

  drn data check-submission results.zip

  drn data check-submission results.zip --data data/cityscapes

Checks names, number, size, type and values of all maps. Without --data, the
maps of each test city are counted; with it, each test image of the data
folder must have one. The exit code is 1 if there are errors.
"""


def check_submission(
    path: Annotated[Path, typer.Argument(metavar="FILE.zip", help="The submission.")],
    data: Annotated[
        Path | None, typer.Option(help="Cityscapes data folder with the test images.")
    ] = None,
    limit: Annotated[int, typer.Option(min=0, help="Number of findings to show.")] = 20,
    as_json: Annotated[bool, typer.Option("--json", help="Print everything as JSON.")] = False,
) -> None:
    """Check a zip file for the Cityscapes server, pixel-level semantic labeling."""
    from drn_cli.cli.prepare.common import progress_bar
    from drn_cli.data.folders import ListDataset
    from drn_cli.errors import DrnError
    from drn_cli.evaluation import submission

    frames = None
    if data is not None:
        samples = ListDataset.open(data).samples("test", labels=False)
        named = (submission.frame_id(sample.image.name) for sample in samples)
        frames = [frame for frame in named if frame is not None]
        if not frames:
            raise DrnError(f"{data}: the test images are not from Cityscapes")
    with progress_bar("map") as progress:
        found = submission.check_submission(path, frames, progress)
    if as_json:
        console.emit_json({"path": str(path)} | found.to_json())
    else:
        _print(path, found, limit)
    if found.errors:
        raise typer.Exit(1)


def _print(path: Path, found: "Submission", limit: int) -> None:
    for finding in found.findings[:limit]:
        color = "red" if finding.severity == "error" else "yellow"
        console.out.print(
            console.styled((f"{finding.severity}:", f"bold {color}"), f" {finding.message}"),
            soft_wrap=True,
        )
    if len(found.findings) > limit:
        console.out.print(f"and {len(found.findings) - limit:,} more")
    verdict = "the server should take it" if not found.errors else "the server would refuse it"
    console.out.print(
        f"{path}: {found.images:,} maps, {found.bytes / 1e6:.1f} MB: {verdict}", soft_wrap=True
    )

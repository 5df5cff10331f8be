"""What `eval` and `predict` share: which network, in how many processes."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from drn_cli.recipe.schema import Recipe


@dataclass(frozen=True, slots=True)
class Source:
    """A checkpoint, and the recipe of its run if it lies in a run folder."""

    checkpoint: Path
    recipe: "Recipe | None"


def find_source(named: Path | None) -> Source:
    """Find the network to use: a run folder's, a file, or that of the newest run.

    Raises:
        DrnError: There is none.
    """
    from drn_cli.recipe.loading import load_recipe
    from drn_cli.runs import Run, checkpoint_of, newest_run

    checkpoint = checkpoint_of(newest_run().folder if named is None else named)
    run = Run(checkpoint.parent.parent)
    recipe = load_recipe(str(run.recipe)).recipe if run.recipe.is_file() else None
    return Source(checkpoint, recipe)


def parse_scales(text: str | None) -> tuple[float, ...] | None:
    """Read `0.5,1,1.5`; raises a usage error if it is something else."""
    if text is None:
        return None
    try:
        scales = tuple(float(word) for word in text.split(","))
    except ValueError:
        scales = ()
    if not scales or any(not 0 < scale <= 8 for scale in scales):
        raise typer.BadParameter(f"--scales {text}: numbers above 0, with commas between")
    return scales


def spread(gpus: int) -> None:
    """Run this same command line in several processes and exit, unless this is one of them."""
    from drn_cli.distributed.group import started_by_torchrun
    from drn_cli.distributed.launch import launch

    if gpus > 1 and not started_by_torchrun():
        raise typer.Exit(launch(sys.argv[1:], gpus))

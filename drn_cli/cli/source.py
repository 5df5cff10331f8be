"""What `eval` and `predict` share: which network, in how many processes."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from drn_cli.cli.launching import launch_options, should_launch

if TYPE_CHECKING:
    from drn_cli.recipe.schema import Eval, Recipe


def _scales(text: str) -> tuple[float, ...]:
    try:
        scales = tuple(float(word) for word in text.split(","))
    except ValueError as error:
        raise typer.BadParameter(f"{text!r}: numbers with commas between, as 0.5,1") from error
    if not all(0 < scale <= 8 for scale in scales):
        raise typer.BadParameter(f"{text!r}: should all be above 0 and up to 8")
    return scales


Scales = Annotated[
    Any,  # tuple[float, ...] | None
    typer.Option(
        parser=_scales,
        metavar="S,S,...",
        help="Sizes to look at, such as 0.5,1,1.5; by default the recipe's.",
    ),
]
Flip = Annotated[
    bool | None, typer.Option("--flip/--no-flip", help="Look at the mirrored picture too.")
]
Tile = Annotated[int | None, typer.Option(min=64, help="Side of overlapping tiles, in pixels.")]


@dataclass(frozen=True, slots=True)
class Source:
    """A checkpoint, and the recipe of its run if it lies in a run folder."""

    checkpoint: Path
    recipe: "Recipe | None"

    def view(self, scales: tuple[float, ...] | None, flip: bool | None, tile: int | None) -> "Eval":
        """Say how to look at pictures: as the recipe does, unless an option says otherwise."""
        from drn_cli.recipe.schema import Eval

        settings = self.recipe.eval.model_dump() if self.recipe else {}
        options = {"scales": scales, "flip": flip, "tile": tile}
        return Eval(**settings | {k: v for k, v in options.items() if v is not None})


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


def spread(gpus: int | Literal["auto"]) -> None:
    """Run this same command line in several processes and exit, unless this is one of them."""
    from drn_cli.distributed.launch import launch

    options = launch_options(gpus)
    if should_launch(options):
        raise typer.Exit(launch(sys.argv[1:], options))

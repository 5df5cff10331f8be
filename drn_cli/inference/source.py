"""Finds the checkpoint of a run directory, a file, published weights, or the newest run."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from drn_cli.networks.catalog import ARCHITECTURES
from drn_cli.networks.weights import weights_file
from drn_cli.recipe.loading import load_recipe
from drn_cli.recipe.schema import Eval, Recipe
from drn_cli.runs import Run, checkpoint_of, newest_run


@dataclass(frozen=True, slots=True)
class Source:
    """The file of a network, and its run if the file is in a run directory."""

    checkpoint: Path  # or an exported network
    recipe: Recipe | None  # of the run
    run: Path | None = None
    choice: str | None = None  # why this file was chosen, if it was not given by name

    def to_json(self) -> dict[str, str | None]:
        """Return the JSON keys checkpoint and run."""
        return {
            "checkpoint": str(self.checkpoint),
            "run": None if self.run is None else str(self.run),
        }

    def view(self, scales: tuple[float, ...] | None, flip: bool | None, tile: int | None) -> Eval:
        """Return scales, flip and tile as given; where None, as in the recipe."""
        settings = self.recipe.eval.model_dump() if self.recipe else {}
        given = {"scales": scales, "flip": flip, "tile": tile}
        return Eval(**settings | {k: v for k, v in given.items() if v is not None})

    def crop_settings(self) -> dict[str, Any]:
        """Return the recipe's `crop` and `resize` of a classifier; empty without a recipe."""
        if self.recipe is None:
            return {}
        return {"crop": self.recipe.augment.crop, "resize": self.recipe.eval.resize}


def find_source(named: Path | None) -> Source:
    """Find the file of a network; published weights are downloaded.

    Args:
        named: A run directory, a file, or the name of a network with published weights; None is
            the newest run that has a best network.

    Raises:
        DrnError: There is no such network.
    """
    if named is not None and not named.exists():
        name = str(named).lower().replace("-", "_")
        if name in ARCHITECTURES:
            return Source(weights_file(ARCHITECTURES[name], "imagenet"), None)
    checkpoint = checkpoint_of(newest_run().folder if named is None else named)
    run = Run(checkpoint.parent.parent)
    choice = "of the newest run with a best network" if named is None else None
    if named is not None and named.is_dir() and checkpoint == run.last:
        choice = "the run has no best network yet"
    if not run.recipe.is_file():
        return Source(checkpoint, None, choice=choice)
    return Source(checkpoint, load_recipe(str(run.recipe)).recipe, run.folder, choice)

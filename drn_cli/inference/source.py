"""Which network is meant: a run folder, a file, one with published weights, or the newest run."""

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
    """The file of a network, and the recipe of its run if it lies in a run folder.

    Attributes:
        checkpoint: The file.
        recipe: That of its run.
        run: The run folder.
        choice: How the file was chosen, where it was not named itself.
    """

    checkpoint: Path
    recipe: Recipe | None
    run: Path | None = None
    choice: str | None = None

    def to_json(self) -> dict[str, str | None]:
        """Name the file and the run folder, ready for JSON."""
        return {
            "checkpoint": str(self.checkpoint),
            "run": None if self.run is None else str(self.run),
        }

    def view(self, scales: tuple[float, ...] | None, flip: bool | None, tile: int | None) -> Eval:
        """Say how to look at images: as the recipe does, unless something else is asked for."""
        settings = self.recipe.eval.model_dump() if self.recipe else {}
        asked = {"scales": scales, "flip": flip, "tile": tile}
        return Eval(**settings | {k: v for k, v in asked.items() if v is not None})

    def crops(self) -> dict[str, Any]:
        """Say how a classifier sees images: as its run did, or as on ImageNet."""
        if self.recipe is None:
            return {}
        return {"crop": self.recipe.augment.crop, "resize": self.recipe.eval.resize}


def find_source(named: Path | None) -> Source:
    """Find the file of a network.

    Args:
        named: A run folder, a file, or the name of a network with published weights; None is the
            newest run that has a best network.

    Raises:
        DrnError: There is none.
    """
    if named is not None and not named.exists():
        name = str(named).lower().replace("-", "_")
        if name in ARCHITECTURES:
            return Source(weights_file(ARCHITECTURES[name], "imagenet"), None)
    place = newest_run().folder if named is None else named
    checkpoint = checkpoint_of(place)
    run = Run(checkpoint.parent.parent)
    choice = "of the newest run with a best network" if named is None else None
    if named is not None and named.is_dir() and checkpoint == run.last:
        choice = "the run has no best network yet"
    if not run.recipe.is_file():
        return Source(checkpoint, None, choice=choice)
    return Source(checkpoint, load_recipe(str(run.recipe)).recipe, run.folder, choice)

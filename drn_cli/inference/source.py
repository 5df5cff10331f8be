"""Which network is meant: a run folder, a file, one with published weights, or the newest run."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from drn_cli.networks.catalog import ARCHITECTURES, architecture
from drn_cli.networks.weights import weights_file
from drn_cli.recipe.loading import load_recipe
from drn_cli.recipe.schema import Eval, Recipe
from drn_cli.runs import Run, checkpoint_of, newest_run


@dataclass(frozen=True, slots=True)
class Source:
    """The file of a network, and the recipe of its run if it lies in a run folder."""

    checkpoint: Path
    recipe: Recipe | None

    def view(self, scales: tuple[float, ...] | None, flip: bool | None, tile: int | None) -> Eval:
        """Say how to look at pictures: as the recipe does, unless something else is asked for."""
        settings = self.recipe.eval.model_dump() if self.recipe else {}
        asked = {"scales": scales, "flip": flip, "tile": tile}
        return Eval(**settings | {k: v for k, v in asked.items() if v is not None})

    def crops(self) -> dict[str, Any]:
        """Say how a classifier sees pictures: as its run did, or as on ImageNet."""
        if self.recipe is None:
            return {}
        return {"crop": self.recipe.augment.crop, "resize": self.recipe.eval.resize}


def find_source(named: Path | None) -> Source:
    """Find the file of a network.

    Args:
        named: A run folder, a file, or the name of a network with published weights; None is the
            newest run.

    Raises:
        DrnError: There is none.
    """
    if named is not None and not named.exists():
        name = str(named).lower().replace("-", "_")
        if name in ARCHITECTURES:
            return Source(weights_file(architecture(name).name, "imagenet"), None)
    checkpoint = checkpoint_of(newest_run().folder if named is None else named)
    run = Run(checkpoint.parent.parent)
    recipe = load_recipe(str(run.recipe)).recipe if run.recipe.is_file() else None
    return Source(checkpoint, recipe)

"""`drn train`: from a recipe to a run folder."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from drn_cli.cli import console
from drn_cli.errors import DrnError
from drn_cli.runs import Run, new_run

if TYPE_CHECKING:
    from drn_cli.recipe.loading import LoadedRecipe

EPILOG = """[bold]Examples[/]

  drn train drn_d_22_camvid data.root=data/camvid

  drn train drn_d_105_cityscapes data.root=/data/cityscapes --gpus 8

  drn train my.yaml train.lr=0.005 augment.crop=256 --run-dir runs/trial

  drn train --resume runs/trial

  torchrun --nproc-per-node 2 -m drn_cli train drn_d_22_camvid

Shipped recipes: [bold]drn recipes list[/]. What a recipe can say: [bold]drn recipes schema[/].
Ctrl-C finishes the current step, writes the checkpoint and names it; exit code 130.
"""


def train(
    recipe: Annotated[
        str | None, typer.Argument(help="A shipped recipe's name, or a YAML file.")
    ] = None,
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="KEY=VALUE", help="Settings that replace the recipe's."),
    ] = None,
    gpus: Annotated[
        int,
        typer.Option(min=1, help="Processes on this machine: one to a GPU, or CPU processes."),
    ] = 1,
    run_dir: Annotated[
        Path | None, typer.Option(help="Run folder; by default runs/RECIPE/TIME.")
    ] = None,
    resume: Annotated[
        Path | None, typer.Option(help="Go on with this run folder, with its own recipe.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Train a network from a recipe."""
    from drn_cli.distributed.group import join, started_by_torchrun
    from drn_cli.distributed.launch import launch
    from drn_cli.training.loop import train as train_run
    from drn_cli.training.setup import find_material, look_over, set_up

    loaded, run = _recipe_and_run(recipe, overrides or [], run_dir, resume)
    if gpus > 1 and not started_by_torchrun():
        look_over(find_material(loaded.recipe, gpus))  # mistakes show once, before processes start
        words = sys.argv[1:]
        if resume is None and run_dir is None:
            words += ["--run-dir", str(run.folder)]
        raise typer.Exit(launch(words, gpus))

    with join() as group:
        material = find_material(loaded.recipe, group.world)
        if group.first:
            look_over(material, aloud=group.world == 1)  # several were warned of once already
        run = Run(Path(group.tell(str(run.folder))))
        training = set_up(loaded.recipe, material, group)
        if group.first:
            processes = f", {group.world} processes" if group.world > 1 else ""
            console.note(
                f"{loaded.name}: {training.model.arch} on {len(material.train)} pictures, "
                f"validated on {len(material.val)}, {group.device.type}{processes}; run folder "
                f"{run.folder}"
            )
        ending = train_run(training, run, resume=resume is not None)
        if group.first:
            _report(run, ending, as_json)
    if ending == "interrupted":
        raise typer.Exit(console.INTERRUPTED)


def _recipe_and_run(
    recipe: str | None, overrides: list[str], run_dir: Path | None, resume: Path | None
) -> "tuple[LoadedRecipe, Run]":
    """Find what to train and where: anew, or where a run left off."""
    from drn_cli.recipe.loading import load_recipe

    if resume is not None:
        if recipe is not None or run_dir is not None:
            raise DrnError("--resume takes the run's own recipe and folder", "leave out the others")
        run = Run(resume)
        if not run.last.is_file():
            raise DrnError(f"{run.last}: no such checkpoint to go on from")
        return load_recipe(str(run.recipe)), run
    if recipe is None:
        raise typer.BadParameter("a recipe is needed; `drn recipes list` names the shipped ones")
    loaded = load_recipe(recipe, overrides)
    run = Run(run_dir) if run_dir else new_run(loaded.name)
    if run.last.is_file():
        raise DrnError(
            f"{run.folder}: holds a run already",
            f"`drn train --resume {run.folder}`, or another --run-dir",
        )
    return loaded, run


def _report(run: Run, ending: str, as_json: bool) -> None:
    if as_json:
        best = run.best if run.best.is_file() else None
        console.emit_json(
            {
                "ending": ending,
                "run": str(run.folder),
                "last": str(run.last),
                "best": str(best) if best else None,
            }
        )
    elif ending == "interrupted":
        console.note(f"interrupted; checkpoint {run.last}")
        console.note(f"go on with: drn train --resume {run.folder}")
    else:
        console.out.print(f"done; best network: {run.best}", soft_wrap=True)
        console.out.print(f"evaluate it: drn eval {run.folder}", soft_wrap=True)

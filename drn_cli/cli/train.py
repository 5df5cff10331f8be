"""`drn train`: from a recipe to a run folder."""

import signal
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from drn_cli.cli import console
from drn_cli.cli.completion import complete_key, complete_recipe, complete_resume
from drn_cli.cli.images import MaxPixels
from drn_cli.cli.launching import (
    Gpus,
    MasterPort,
    MaxRestarts,
    NodeRank,
    Nodes,
    RdzvEndpoint,
    RdzvId,
    launch_options,
    should_launch,
)
from drn_cli.errors import DrnError
from drn_cli.files import read_json
from drn_cli.runs import Run

if TYPE_CHECKING:
    from drn_cli.distributed.launch import LaunchOptions
    from drn_cli.training.resuming import RunPlan, TrainRequest
    from drn_cli.training.setup import TrainState
    from drn_cli.training.tasks import DataBundle

EPILOG = """[bold]Examples[/]

  drn train drn_d_22_camvid data.root=data/camvid

  drn train drn_d_105_cityscapes data.root=/data/cityscapes --gpus 8 --dry-run

  drn train drn_d_105_cityscapes data.root=/data/cityscapes --gpus auto --max-restarts 3

  drn train my.yaml train.lr=0.005 augment.crop=256 --run-dir runs/trial

  drn train --resume runs/trial

  drn train drn_d_22_camvid --resume auto     go on if there is something to go on with

  torchrun --nproc-per-node 2 --no-python drn train drn_d_22_camvid

Shipped recipes: [bold]drn recipes list[/]. What a recipe can say: [bold]drn recipes schema[/].
Several machines, SLURM: docs/clusters.md.

Ctrl-C, SIGTERM, SIGUSR1 and a closed terminal (SIGHUP) finish the current step, write the
checkpoint and leave; the exit code is then 130, 143, 138 or 129. Under `nohup`, a closed terminal
is ignored. A finished run exits with 0, a mistake with 1. It ends with a report, RUN/report.html.
"""


def train(
    recipe: Annotated[
        str | None,
        typer.Argument(
            help="A shipped recipe's name, or a YAML file.", autocompletion=complete_recipe
        ),
    ] = None,
    overrides: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="KEY=VALUE",
            help="Settings that replace the recipe's.",
            autocompletion=complete_key,
        ),
    ] = None,
    gpus: Gpus = 1,
    nnodes: Nodes = None,
    node_rank: NodeRank = None,
    rdzv_endpoint: RdzvEndpoint = None,
    rdzv_id: RdzvId = None,
    max_restarts: MaxRestarts = 0,
    master_port: MasterPort = None,
    run_dir: Annotated[
        Path | None, typer.Option(help="Run folder; by default runs/RECIPE/TIME.")
    ] = None,
    resume: Annotated[
        str | None,
        typer.Option(
            metavar="RUN|auto",
            autocompletion=complete_resume,
            help="Go on with a run folder or one of its checkpoints; auto: with the newest "
            "unfinished run of this recipe, or start anew.",
        ),
    ] = None,
    allow_changes: Annotated[
        bool, typer.Option("--allow-changes", help="Go on although recipe or data changed.")
    ] = False,
    max_pixels: MaxPixels = None,
    no_report: Annotated[
        bool, typer.Option("--no-report", help="Do not write RUN/report.html at the end.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show the plan and what is missing; start nothing.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Train a network from a recipe."""
    from drn_cli.distributed.launch import worker_exit_code
    from drn_cli.recipe.loading import load_recipe

    overrides = overrides or []
    if resume is not None and recipe is not None and "=" in recipe:
        overrides, recipe = [recipe, *overrides], None  # of the run's own recipe
    if resume is None and recipe is None:
        raise typer.BadParameter("a recipe is needed; `drn recipes list` names the shipped ones")
    options = launch_options(
        gpus, nnodes, node_rank, rdzv_endpoint, rdzv_id, max_restarts, master_port
    )
    if recipe is not None:
        load_recipe(recipe, overrides)  # refuses mistakes before torch is imported
    from drn_cli.training.resuming import TrainRequest

    request = TrainRequest(recipe, overrides, run_dir, resume, allow_changes)
    if dry_run:
        raise typer.Exit(_show_plan(request, options, as_json))
    if should_launch(options):
        raise typer.Exit(_launch(request, options))
    ended_by = _work(request, as_json, report=not no_report)
    if ended_by is not None:
        raise typer.Exit(worker_exit_code(128 + ended_by))


def _show_plan(request: "TrainRequest", options: "LaunchOptions", as_json: bool) -> int:
    """Print what would be done and what is missing for it; give the exit code."""
    from drn_cli.distributed.cluster import expected_processes
    from drn_cli.recipe.loading import resolved_yaml
    from drn_cli.training.plan import make_plan
    from drn_cli.training.resuming import begin

    beginning = begin(request)
    plan = make_plan(
        beginning.recipe,
        processes=options.processes,
        machines=options.node_range[1],
        folder=beginning.run.folder,
    )
    start = str(beginning.start) if beginning.start else None
    expected = expected_processes()
    if expected is not None and expected.by_agent:
        expected = None
    obstacles = [*plan.missing, *_changed_data(beginning, found=plan.train_pictures is not None)]
    if expected is not None:
        console.warn(f"a run would begin by {expected.text}; {expected.remedy}")
    if as_json:
        waits = expected.text if expected else None
        console.emit_json({**plan.to_json(), "missing": obstacles, "start": start, "waits": waits})
        return 1 if obstacles else 0
    console.echo(f"# {beginning.name}\n{resolved_yaml(beginning.recipe)}")
    table = console.table("plan", "")
    for name, text in [*plan.rows(), *([("going on from", start)] if start else [])]:
        table.add_row(name, text)
    console.out.print(table)
    for oddity in plan.warnings:
        console.warn(oddity)
    for obstacle in obstacles:
        console.out.print(console.styled(("missing:", "bold red"), f" {obstacle}"), soft_wrap=True)
    if not obstacles:
        console.out.print("nothing is missing; nothing was started")
    return 1 if obstacles else 0


def _changed_data(beginning: "RunPlan", *, found: bool) -> list[str]:
    """Say whether the data of a run that would go on are not what they were."""
    from drn_cli.training.resuming import check_data
    from drn_cli.training.tasks import task_of

    if beginning.start is None or not found:
        return []
    try:
        check_data(beginning, task_of(beginning.recipe).find_material(beginning.recipe))
    except DrnError as error:
        return [str(error)]
    return []


def _launch(request: "TrainRequest", options: "LaunchOptions") -> int:
    """Start the processes; mistakes show here, once, before any of them."""
    from drn_cli.distributed.launch import launch
    from drn_cli.training.resuming import begin

    beginning = begin(request)
    material = _find(beginning, options.processes)
    beginning = _look_over(beginning, material, warn=True).claim()
    words = sys.argv[1:]
    if request.run_dir is None and request.resume in (None, "auto"):
        # All processes should mean the same folder, and again after a restart.
        words += ["--run-dir", str(beginning.run.folder)]
    return launch(words, options)


def _work(request: "TrainRequest", as_json: bool, *, report: bool) -> signal.Signals | None:
    """Train, as the only process or as one of several; give the signal that ended it."""
    from drn_cli.distributed.group import join
    from drn_cli.distributed.heartbeat import LONG
    from drn_cli.training.loop import train as train_run
    from drn_cli.training.resuming import RunPlan, begin
    from drn_cli.training.setup import set_up

    with join() as group:
        group.watch(LONG)
        # The first process decides for all: the names of new folders hold the time.
        beginning = RunPlan.of(
            group.broadcast_object(begin(request).to_json() if group.is_main else "")
        )
        group.watch(beginning.recipe.train.timeout)
        material = _find(beginning, group.world)
        if group.is_main:
            beginning = _look_over(beginning, material, warn=group.world == 1)
        training = set_up(beginning.recipe, material, group)
        if group.is_main:
            beginning = beginning.claim()
        run = group.broadcast_object(str(beginning.run.folder))
        beginning = replace(beginning, run=Run(Path(run)))
        if group.is_main:
            _introduce(beginning, training)
        ended_by = train_run(training, beginning)
        group.watch(None)  # one rank may take its time for the report
        del training
    if group.is_main:
        page = _write_report(beginning.run) if report and ended_by is None else None
        _report(beginning.run, ended_by, page, as_json)
    return ended_by


def _write_report(run: Run) -> Path | None:
    """Write the page of a finished run; whatever fails is a warning, for the run itself did not."""
    try:
        from drn_cli.report.page import write_report

        made = write_report(run, run.folder / "report.html")
    except (Exception, KeyboardInterrupt) as error:
        reason = "interrupted" if isinstance(error, KeyboardInterrupt) else str(error)
        console.warn(f"no report: {reason} (drn report {run.folder} tries again)")
        return None
    for line in made.missing:
        console.warn(f"report: {line}")
    return made.page


def _find(beginning: "RunPlan", processes: int) -> "DataBundle":
    """Find the data, and see that they fit the recipe and can be shared out."""
    from drn_cli.training.setup import check_split
    from drn_cli.training.tasks import task_of

    material = task_of(beginning.recipe).find_material(beginning.recipe)
    check_split(beginning.recipe, len(material.train), processes)
    return material


def _look_over(beginning: "RunPlan", material: "DataBundle", *, warn: bool) -> "RunPlan":
    """Read some of the files, and see that a run goes on with the data it began with.

    A worker does not read what the launcher has read just before it started the workers.
    """
    from drn_cli.distributed.launch import started_by_launch
    from drn_cli.training.resuming import check_data
    from drn_cli.training.tasks import task_of

    if not started_by_launch():
        oddities = task_of(beginning.recipe).look_over(material)
        for oddity in oddities if warn else ():
            console.warn(oddity)
    return check_data(beginning, material)


def _introduce(beginning: "RunPlan", training: "TrainState") -> None:
    material, group = training.material, training.group
    start = f", going on from {beginning.start}" if beginning.start else ""
    processes = f", {group.world} processes" if group.world > 1 else ""
    compiled = ", compiled" if training.compiled else ""
    console.note(
        f"{beginning.name}: {training.model.architecture.label} on {len(material.train)} images, "
        f"validated on {len(material.val)}, {group.device.type} in {training.precision}{compiled}"
        f"{processes}; run folder {beginning.run.folder}{start}"
    )


def _report(run: Run, ended_by: signal.Signals | None, page: Path | None, as_json: bool) -> None:
    if as_json:
        best = run.best if run.best.is_file() else None
        console.emit_json(
            {
                "ending": "finished" if ended_by is None else "interrupted",
                "signal": None if ended_by is None else ended_by.name,
                "run": str(run.folder),
                "last": str(run.last),
                "best": str(best) if best else None,
                "scores": read_json(run.scores) if best else None,
                "report": str(page) if page else None,
            }
        )
    elif ended_by is not None:
        console.note(f"interrupted; checkpoint {run.last}")
        console.note(f"go on with: drn train --resume {run.folder}")
    else:
        console.out.print(f"done; best network: {run.best}", soft_wrap=True)
        console.out.print(f"evaluate it: drn eval {run.folder}", soft_wrap=True)
        how = str(page) if page else f"drn report {run.folder}"
        console.out.print(f"see how it went: {how}", soft_wrap=True)

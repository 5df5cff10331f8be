"""`drn train`: train a network from a recipe."""

import signal
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from drn_cli.cli import console
from drn_cli.cli.completion import complete_key, complete_recipe, complete_resume
from drn_cli.cli.images import MaxPixels, count_images
from drn_cli.cli.launching import (
    Gpus,
    MasterPort,
    MaxRestarts,
    NodeRank,
    Nodes,
    RdzvEndpoint,
    RdzvId,
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

  drn train drn_d_105_cityscapes --gpus auto --max-restarts 3

  drn train my.yaml train.lr=0.005 augment.crop=256 --run-dir runs/trial

  drn train --resume runs/trial

  drn train drn_d_22_camvid --resume auto   the newest run, or a new one

  torchrun --nproc-per-node 2 --no-python drn train drn_d_22_camvid

Shipped recipes: [bold]drn recipes list[/]. Recipe keys: [bold]drn recipes reference[/].
Multi-node training and SLURM: docs/clusters.md.

Ctrl-C, SIGTERM, SIGUSR1 and a closed terminal (SIGHUP) finish the current
step, write a checkpoint and exit with 130, 143, 138 or 129. Under `nohup`, a
closed terminal is ignored. A finished run writes RUN/report.html and exits
with 0; errors exit with 1.
"""


def train(
    recipe: Annotated[
        str | None,
        typer.Argument(
            help="Name of a shipped recipe, or a YAML file.", autocompletion=complete_recipe
        ),
    ] = None,
    overrides: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="KEY=VALUE",
            help="Override recipe keys.",
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
        Path | None, typer.Option(help="Run directory. Default: runs/RECIPE/TIME.")
    ] = None,
    resume: Annotated[
        str | None,
        typer.Option(
            metavar="RUN|auto",
            autocompletion=complete_resume,
            help="Resume from a run directory or checkpoint. auto: the newest unfinished run of "
            "this recipe, or a new run.",
        ),
    ] = None,
    allow_changes: Annotated[
        bool,
        typer.Option("--allow-changes", help="Resume although the recipe or the data changed."),
    ] = False,
    max_pixels: MaxPixels = None,
    no_report: Annotated[
        bool, typer.Option("--no-report", help="Do not write RUN/report.html at the end.")
    ] = False,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Print the plan and what is missing; do not start."),
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Train a network from a recipe."""
    from drn_cli.distributed.launch import LaunchOptions, worker_exit_code
    from drn_cli.recipe.loading import load_recipe

    overrides = overrides or []
    if resume is not None and recipe is not None and "=" in recipe:
        overrides, recipe = [recipe, *overrides], None  # they change the recipe of the run
    if resume is None and recipe is None:
        raise typer.BadParameter("no recipe given (`drn recipes list` shows the shipped ones)")
    options = LaunchOptions(
        gpus, nnodes, node_rank, rdzv_endpoint, rdzv_id, max_restarts, master_port
    )
    if recipe is not None:
        load_recipe(recipe, overrides)  # report errors before torch is imported
    from drn_cli.training.resuming import TrainRequest

    request = TrainRequest(recipe, overrides, run_dir, resume, allow_changes)
    if dry_run:
        raise typer.Exit(_show_plan(request, options, as_json))
    if should_launch(options):
        raise typer.Exit(_launch(request, options, as_json))
    ended_by = _work(request, as_json, report=not no_report)
    if ended_by is not None:
        raise typer.Exit(worker_exit_code(128 + ended_by))


def _show_plan(request: "TrainRequest", options: "LaunchOptions", as_json: bool) -> int:
    """Print the plan of a run and what is missing for it; return the exit code."""
    from drn_cli.distributed.cluster import expected_processes
    from drn_cli.recipe.loading import resolved_yaml
    from drn_cli.training.plan import make_plan
    from drn_cli.training.resuming import resolve_run

    plan = resolve_run(request)
    preview = make_plan(
        plan.recipe,
        processes=options.processes,
        nodes=options.node_range[1],
        folder=plan.run.folder,
    )
    start = str(plan.start) if plan.start else None
    expected = expected_processes()
    if expected is not None and expected.by_agent:
        expected = None
    changed = _changed_data(plan, found=preview.train_images is not None)
    obstacles = [*preview.missing, *changed]
    if expected is not None:
        console.warn(f"the run would start by {expected.text}; {expected.remedy}")
    if as_json:
        waits = expected.text if expected else None
        resumed = {"checkpoint": start, "missing": obstacles, "waits_for": waits}
        console.emit_json(preview.to_json() | resumed)
        return 1 if obstacles else 0
    console.echo(f"# {plan.name}\n{resolved_yaml(plan.recipe)}")
    console.print_facts([*preview.rows(), *([("resuming from", start)] if start else [])])
    for warning in preview.warnings:
        console.warn(warning)
    for title, lines in (("missing:", preview.missing), ("changed:", changed)):
        for line in lines:
            console.out.print(console.styled((title, "bold red"), f" {line}"), soft_wrap=True)
    if plan.finished:
        _note_finished(plan)
    if not obstacles:
        console.out.print("ready to start (dry run)")
    return 1 if obstacles else 0


def _changed_data(plan: "RunPlan", *, found: bool) -> list[str]:
    """Return why a resumed run would refuse its data, if it would."""
    from drn_cli.training.resuming import check_data_unchanged
    from drn_cli.training.tasks import task_of

    if plan.start is None or not found:
        return []
    try:
        check_data_unchanged(plan, task_of(plan.recipe).load_data(plan.recipe))
    except DrnError as error:
        return [str(error)]
    return []


def _launch(request: "TrainRequest", options: "LaunchOptions", as_json: bool) -> int:
    """Check the run once, then start its processes; return the exit code."""
    from drn_cli.distributed.launch import launch
    from drn_cli.training.resuming import resolve_run

    plan = resolve_run(request)
    data = _load_data(plan, options.processes)
    plan = _check_data(plan, data, warn=True)
    if plan.finished:
        _report_finished(plan, as_json)
        return 0
    plan = plan.claim()
    words = sys.argv[1:]
    if request.run_dir is None and request.resume in (None, "auto"):
        # The same folder in all processes, and after a restart.
        words += ["--run-dir", str(plan.run.folder)]
    return launch(words, options)


def _work(request: "TrainRequest", as_json: bool, *, report: bool) -> signal.Signals | None:
    """Train in this process, alone or as one of several; return the signal that ended it."""
    from drn_cli.distributed.group import join
    from drn_cli.distributed.heartbeat import LONG
    from drn_cli.training.loop import train as train_run
    from drn_cli.training.resuming import RunPlan, resolve_run
    from drn_cli.training.setup import build_train_state

    with join() as group:
        group.watch(LONG)
        # Rank 0 decides: the name of a new run directory contains the time.
        plan = RunPlan.of(
            group.broadcast_object(resolve_run(request).to_json() if group.is_main else "")
        )
        group.watch(plan.recipe.train.timeout)
        data = _load_data(plan, group.world)
        if group.is_main:
            plan = _check_data(plan, data, warn=group.world == 1)
        if plan.finished:
            if group.is_main:
                _report_finished(plan, as_json)
            return None
        training = build_train_state(plan.recipe, data, group)
        if group.is_main:
            plan = plan.claim()
        run = group.broadcast_object(str(plan.run.folder))
        plan = replace(plan, run=Run(Path(run)))
        ended_by = train_run(training, plan, partial(_note_start, plan, training))
        group.watch(None)  # the report of rank 0 has no time limit
        del training
    if group.is_main:
        page = _write_report(plan.run) if report and ended_by is None else None
        _report(plan.run, ended_by, page, as_json)
    return ended_by


def _write_report(run: Run) -> Path | None:
    """Write the report of a finished run; a failure is a warning, as the run itself succeeded."""
    try:
        from drn_cli.report.page import write_report

        made = write_report([run], run.folder / "report.html")
    except (Exception, KeyboardInterrupt) as error:
        reason = "interrupted" if isinstance(error, KeyboardInterrupt) else str(error)
        console.warn(f"no report: {reason} (write it with drn report {run.folder})")
        return None
    for line in made.missing:
        console.warn(f"report: {line}")
    return made.page


def _load_data(plan: "RunPlan", processes: int) -> "DataBundle":
    """Load the data sets; check the batch size against the data and the number of processes."""
    from drn_cli.training.setup import check_batch_size
    from drn_cli.training.tasks import task_of

    data = task_of(plan.recipe).load_data(plan.recipe)
    check_batch_size(plan.recipe, len(data.train), processes)
    return data


def _check_data(plan: "RunPlan", data: "DataBundle", *, warn: bool) -> "RunPlan":
    """Check a sample of the files, and that a resumed run has the data it started with.

    Workers skip the files: the launcher has checked them just before.
    """
    from drn_cli.distributed.launch import started_by_launch
    from drn_cli.training.resuming import check_data_unchanged
    from drn_cli.training.tasks import task_of

    if not started_by_launch():
        warnings = task_of(plan.recipe).check_samples(data)
        for warning in warnings if warn else ():
            console.warn(warning)
    return check_data_unchanged(plan, data)


def _note_start(plan: "RunPlan", training: "TrainState") -> None:
    data, group = training.data, training.group
    start = f", resuming from {plan.start}" if plan.start else ""
    processes = f", {group.world} processes" if group.world > 1 else ""
    compiled = ", compiled" if training.compiled else ""
    console.note(
        f"{plan.name}: {training.model.architecture.label} on {count_images(len(data.train))}, "
        f"validated on {len(data.val)}, {group.device.type} in {training.precision}{compiled}"
        f"{processes}; run directory {plan.run.folder}{start}"
    )


def _note_finished(plan: "RunPlan") -> None:
    epochs = plan.recipe.train.epochs
    console.note(
        f"{plan.run.folder}: already finished, {epochs} epoch{'' if epochs == 1 else 's'} "
        "(train.epochs=N --allow-changes continues it)"
    )


def _report_finished(plan: "RunPlan", as_json: bool) -> None:
    """Print the result of a run that needs no training; nothing is written."""
    _note_finished(plan)
    page = plan.run.folder / "report.html"
    _report(plan.run, None, page if page.is_file() else None, as_json)


def _report(run: Run, ended_by: signal.Signals | None, page: Path | None, as_json: bool) -> None:
    if as_json:
        best = run.best if run.best.is_file() else None
        console.emit_json(
            {
                "state": "finished" if ended_by is None else "interrupted",
                "signal": None if ended_by is None else ended_by.name,
                "run": str(run.folder),
                "last_checkpoint": str(run.last),
                "best_checkpoint": str(best) if best else None,
                "scores": read_json(run.scores) if best else None,
                "report": str(page) if page else None,
            }
        )
    elif ended_by is not None:
        console.note(f"interrupted; checkpoint {run.last}")
        console.note(f"resume with: drn train --resume {run.folder}")
    else:
        console.out.print(f"done; best network: {run.best}", soft_wrap=True)
        console.out.print(f"evaluate it: drn eval {run.folder}", soft_wrap=True)
        how = str(page) if page else f"drn report {run.folder}"
        console.out.print(f"report: {how}", soft_wrap=True)

"""Start a new run, or resume one."""

import json
import logging
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from drn_cli.distributed.launch import started_by_launch
from drn_cli.environment import now as utc_now
from drn_cli.errors import DrnError
from drn_cli.files import parse_json, read_json, write_json
from drn_cli.recipe.loading import diff_recipes, load_recipe
from drn_cli.recipe.schema import Recipe
from drn_cli.runs import RUNS, Run, new_run
from drn_cli.training.checkpoint import LoadedCheckpoint
from drn_cli.training.metrics import END
from drn_cli.training.setup import TrainState
from drn_cli.training.tasks import DataBundle

log = logging.getLogger(__name__)

AUTO = "auto"

Changes = dict[str, tuple[Any, Any]]


@dataclass(frozen=True, slots=True)
class TrainRequest:
    """Options of `drn train` that select the run."""

    recipe: str | None = None
    overrides: Sequence[str] = ()
    run_dir: Path | None = None
    resume: str | None = None
    allow_changes: bool = False


@dataclass(frozen=True, slots=True)
class RunPlan:
    """Which run is trained, with which recipe, and from which checkpoint.

    Attributes:
        name: Name in messages: the recipe's, or the run's if it is resumed with its own recipe.
        start: The checkpoint to resume from; None starts a new run.
        changes: Old and new value of each setting that differs from the run so far, by key.
        allow_changes: Whether such settings are allowed.
        named: Whether the run directory only has a name and is not created yet.
        finished: Whether all epochs are trained, so that nothing is left to do.
    """

    run: Run
    name: str
    recipe: Recipe
    start: Path | None = None
    changes: Changes = field(default_factory=dict)
    allow_changes: bool = False
    named: bool = False
    finished: bool = False

    def claim(self) -> "RunPlan":
        """Create the directory of a new run, under a name that no other process has.

        Raises:
            DrnError: It cannot be created.
        """
        if not self.named:
            return self
        return replace(self, run=new_run(self.name, make=True), named=False)

    def to_json(self) -> str:
        """Serialize the plan for the other ranks."""
        return json.dumps(
            asdict(self)
            | {
                "run": str(self.run.folder),
                "recipe": self.recipe.model_dump(mode="json"),
                "start": None if self.start is None else str(self.start),
            }
        )

    @classmethod
    def of(cls, text: str) -> "RunPlan":
        """Read what `to_json` wrote."""
        fields = json.loads(text)
        fields["run"] = Run(Path(fields["run"]))
        fields["recipe"] = Recipe(**fields["recipe"])
        fields["start"] = None if fields["start"] is None else Path(fields["start"])
        return cls(**fields)


def resolve_run(request: TrainRequest) -> RunPlan:
    """Decide which run to train, and from which checkpoint.

    A process that torchrun restarts after a failure resumes from the newest checkpoint of its run.

    Raises:
        DrnError: The recipe is invalid or not that of the run, the directory contains another run,
            or there is no checkpoint to resume from.
    """
    if request.resume == AUTO:
        return _resolve_auto(request)
    if request.resume is not None:
        if request.run_dir is not None:
            raise DrnError(
                "--run-dir: not allowed with --resume, which continues in the run's own directory",
                "omit it",
            )
        return _resume(*_find_checkpoint(Path(request.resume)), request)
    assert request.recipe is not None
    loaded = load_recipe(request.recipe, request.overrides)
    given = Run(request.run_dir) if request.run_dir else None
    if _is_restart() and (current := given or _run_of_this_job(loaded.name)):
        start = current.last if current.last.is_file() else None
        return RunPlan(current, loaded.name, loaded.recipe, start)
    run = given or new_run(loaded.name)
    if run.last.is_file():
        raise DrnError(
            f"{run.folder}: already contains a run",
            f"resume it with `drn train --resume {run.folder}`, or choose another --run-dir",
        )
    return RunPlan(run, loaded.name, loaded.recipe, named=given is None)


def _resolve_auto(request: TrainRequest) -> RunPlan:
    """Resume the newest unfinished run of the same recipe; start a new one if there is none."""
    if request.run_dir is not None and (run := Run(request.run_dir)).last.is_file():
        return _resume(run, run.last, request)
    if request.recipe is None:
        for run in _unfinished_runs("*"):
            return _resume(run, run.last, request)
        raise DrnError(f"{RUNS}: no unfinished run", "name a recipe to start one")
    loaded = load_recipe(request.recipe, request.overrides)
    if request.run_dir is not None:
        return RunPlan(Run(request.run_dir), loaded.name, loaded.recipe)
    others = 0
    for run in _unfinished_runs(loaded.name):
        if request.allow_changes or not _changes(run, loaded.recipe):
            return _resume(run, run.last, request)
        others += 1
    if others:
        text = "%d unfinished runs of %s have other settings; starting a new run"
        log.info(text, others, loaded.name)
    return RunPlan(new_run(loaded.name), loaded.name, loaded.recipe, named=True)


def _resume(run: Run, start: Path, request: TrainRequest) -> RunPlan:
    if _is_restart():
        start = run.last
    name = request.recipe or str(run.recipe)
    loaded = load_recipe(name, request.overrides)
    changes = _changes(run, loaded.recipe)
    _check_allowed(run, changes, allowed=request.allow_changes)
    return RunPlan(
        run,
        loaded.name if request.recipe else run.name,  # recipe.yaml does not contain its name
        loaded.recipe,
        start,
        changes,
        request.allow_changes,
        finished=start == run.last and "train.epochs" not in changes and _is_finished(run),
    )


def check_data_unchanged(plan: RunPlan, data: DataBundle) -> RunPlan:
    """Compare the fingerprints of the data with those of the run; add differences to the changes.

    Raises:
        DrnError: They changed, and changes are not allowed.
    """
    run = plan.run
    if plan.start is None or not run.environment.is_file():
        return plan
    before = read_json(run.environment).get("data", {})
    now = data.fingerprints()
    changes: Changes = {
        f"data: {name}": (before.get(name, "missing")[:12], now.get(name, "missing")[:12])
        for name in sorted(before.keys() | now.keys())
        if before.get(name) != now.get(name)
    }
    _check_allowed(run, changes, allowed=plan.allow_changes)
    return replace(plan, changes=plan.changes | changes)


def log_world_size_change(loaded: LoadedCheckpoint, training: TrainState) -> None:
    """Log what stays the same, and what does not, if the number of processes has changed."""
    world, train = training.group.world, training.recipe.train
    if not training.group.is_main or loaded.processes == world:
        return
    text = (
        f"number of processes changed from {loaded.processes} to {world}: sample order and crops "
        "stay the same"
    )
    if train.sync_bn:
        text += "; sums are rounded differently"
    else:
        micro_batch = train.batch_size // train.accumulate
        text += (
            f"; without train.sync_bn, the batch size of batch norm is {micro_batch // world} "
            f"instead of {micro_batch // loaded.processes}"
        )
    log.info("%s", text)


def record_resume(
    run: Run, training: TrainState, step: int, changes: Changes, *, verified: bool
) -> None:
    """Append to `resumed` in environment.json: time, step, processes and changes.

    Args:
        run: The run directory.
        training: The state of the run.
        step: Optimizer steps so far.
        changes: Old and new value of changed settings, by key.
        verified: Whether the checkpoint's checksums were verified.
    """
    record = read_json(run.environment) if run.environment.is_file() else training.environment()
    record["data"] = training.data.fingerprints()
    record.setdefault("resumed", []).append(
        {
            "at": utc_now(),
            "step": step,
            "processes": training.group.world,
            "verified": verified,
            "command": sys.argv,
            "changes": changes,
        }
    )
    write_json(run.environment, record)


def _check_allowed(run: Run, changes: Changes, *, allowed: bool) -> None:
    lines = "".join(f"\n  {key}: {old} -> {new}" for key, (old, new) in changes.items())
    if changes and not allowed:
        raise DrnError(
            f"{run.folder}: was trained with other settings:{lines}\n",
            "--allow-changes continues with the new ones",
        )
    if changes and not started_by_launch():  # the launcher has logged it
        log.info("%s: continues with other settings:%s", run.folder, lines)


def _changes(run: Run, recipe: Recipe) -> Changes:
    return diff_recipes(load_recipe(str(run.recipe)).recipe, recipe)


def _find_checkpoint(source: Path) -> tuple[Run, Path]:
    """Return the run and the checkpoint of a run directory or checkpoint file."""
    run = Run(source.parent.parent if source.is_file() else source)
    start = source if source.is_file() else run.last
    if not start.is_file():
        raise DrnError(
            f"{start}: no such checkpoint",
            "use a run directory of `drn runs`, or one of its checkpoints/*.pt",
        )
    if not run.recipe.is_file():
        raise DrnError(
            f"{start}: not in a run directory: {run.recipe} is missing",
            "use RUN/checkpoints/FILE of a run directory with recipe.yaml",
        )
    return run, start


def _unfinished_runs(recipe: str) -> Iterator[Run]:
    """Yield runs that are neither finished nor in use, newest first."""
    runs = [Run(path.parent.parent) for path in RUNS.glob(f"{recipe}/*/checkpoints/last.pt")]
    for run in sorted(runs, key=lambda run: run.last.stat().st_mtime, reverse=True):
        if run.recipe.is_file() and not run.in_use() and not _is_finished(run):
            yield run


def _is_finished(run: Run) -> bool:
    if not run.metrics.is_file():
        return False
    try:
        last = run.metrics.read_text(encoding="utf-8", errors="replace").splitlines()[-1:]
        record = parse_json(last[0], str(run.metrics))
        return bool(record.get("kind") == END and record.get("ending") == "finished")
    except (OSError, IndexError, AttributeError, DrnError):
        return False


def _is_restart() -> bool:
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")) > 0


def _run_of_this_job(recipe: str) -> Run | None:
    """Return the newest run that this job started before torchrun restarted its processes.

    Jobs started without a job id share the id `none`, so this may be the run of another job.
    """
    job = os.environ.get("TORCHELASTIC_RUN_ID")
    for run in _unfinished_runs(recipe):
        record = read_json(run.environment) if run.environment.is_file() else {}
        if job is not None and record.get("job") == job:
            return run
    return None

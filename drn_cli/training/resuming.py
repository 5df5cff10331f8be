"""Where a run begins: anew, or where an earlier one left off."""

import json
import logging
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from drn_cli import environment
from drn_cli.distributed.launch import started_by_launch
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
    """What somebody asked for on the command line."""

    recipe: str | None = None
    overrides: Sequence[str] = ()
    run_dir: Path | None = None
    resume: str | None = None
    allow_changes: bool = False


@dataclass(frozen=True, slots=True)
class RunPlan:
    """Which run is trained, by which recipe, and from where.

    Attributes:
        name: The recipe's name.
        start: The checkpoint to go on from; None starts anew.
        changes: What is not as in the run so far: old and new value, by key.
        allow_changes: Whether more of them are fine.
        named: Whether the run's folder has a name alone, and is not made yet.
    """

    run: Run
    name: str
    recipe: Recipe
    start: Path | None = None
    changes: Changes = field(default_factory=dict)
    allow_changes: bool = False
    named: bool = False

    def claim(self) -> "RunPlan":
        """Make the folder of a new run, under a name that no other process has.

        Raises:
            DrnError: It cannot be made.
        """
        if not self.named:
            return self
        return replace(self, run=new_run(self.name, make=True), named=False)

    def to_json(self) -> str:
        """Write it down, for the other processes of a job."""
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
        told = json.loads(text)
        told["run"] = Run(Path(told["run"]))
        told["recipe"] = Recipe(**told["recipe"])
        told["start"] = None if told["start"] is None else Path(told["start"])
        return cls(**told)


def begin(request: TrainRequest) -> RunPlan:
    """Decide where to begin.

    A process that torchrun starts again, after another one died, goes on from the checkpoint that
    its run has by then.

    Raises:
        DrnError: The recipe is wrong, the folder holds another run, there is nothing to go on
            from, or the recipe is not that of the run.
    """
    if request.resume == AUTO:
        return _begin_automatically(request)
    if request.resume is not None:
        if request.run_dir is not None:
            raise DrnError("--run-dir: --resume goes on in the run's own folder", "leave it out")
        return _go_on(*_checkpoint(Path(request.resume)), request)
    assert request.recipe is not None
    loaded = load_recipe(request.recipe, request.overrides)
    found = Run(request.run_dir) if request.run_dir else None
    if _started_again() and (found := found or _run_of_this_job(loaded.name)):
        start = found.last if found.last.is_file() else None
        return RunPlan(found, loaded.name, loaded.recipe, start)
    run = found or new_run(loaded.name)
    if run.last.is_file():
        raise DrnError(
            f"{run.folder}: holds a run already",
            f"`drn train --resume {run.folder}`, or another --run-dir",
        )
    return RunPlan(run, loaded.name, loaded.recipe, named=found is None)


def _begin_automatically(request: TrainRequest) -> RunPlan:
    """Go on with the newest unfinished run of the very recipe; start anew if there is none."""
    if request.run_dir is not None and (run := Run(request.run_dir)).last.is_file():
        return _go_on(run, run.last, request)
    if request.recipe is None:
        for run in _unfinished_runs("*"):
            return _go_on(run, run.last, request)
        raise DrnError(f"{RUNS}: no unfinished run here", "name a recipe to start one")
    loaded = load_recipe(request.recipe, request.overrides)
    if request.run_dir is not None:
        return RunPlan(Run(request.run_dir), loaded.name, loaded.recipe)
    others = 0
    for run in _unfinished_runs(loaded.name):
        if request.allow_changes or not _changes(run, loaded.recipe):
            return _go_on(run, run.last, request)
        others += 1
    if others:
        log.info("%d unfinished runs of %s have other settings; starting anew", others, loaded.name)
    return RunPlan(new_run(loaded.name), loaded.name, loaded.recipe, named=True)


def _go_on(run: Run, start: Path, request: TrainRequest) -> RunPlan:
    if _started_again():
        start = run.last
    name = request.recipe or str(run.recipe)
    loaded = load_recipe(name, request.overrides)
    changes = _changes(run, loaded.recipe)
    _refuse(run, changes, allowed=request.allow_changes)
    # Of a run's own recipe the file says nothing; its folder lies in one that does.
    name = loaded.name if request.recipe else run.folder.resolve().parent.name
    return RunPlan(run, name, loaded.recipe, start, changes, request.allow_changes)


def check_data(beginning: RunPlan, material: DataBundle) -> RunPlan:
    """See that a run goes on with the very lists it began with, and note what is not as it was.

    Raises:
        DrnError: They changed, and changes are not allowed.
    """
    run = beginning.run
    if beginning.start is None or not run.environment.is_file():
        return beginning
    before = read_json(run.environment).get("data", {})
    now = material.fingerprints()
    changes: Changes = {
        f"data: {name}": (_short(before.get(name)), _short(now.get(name)))
        for name in sorted(before.keys() | now.keys())
        if before.get(name) != now.get(name)
    }
    _refuse(run, changes, allowed=beginning.allow_changes)
    return replace(beginning, changes=beginning.changes | changes)


def tell_what_changes(found: LoadedCheckpoint, training: TrainState) -> None:
    """Say what a run that goes on elsewhere keeps, and what it does not."""
    world, train = training.group.world, training.recipe.train
    if not training.group.is_main or found.processes == world:
        return
    text = (
        f"trained in {_processes(found.processes)} before, in {_processes(world)} now: the order "
        "of the samples and their crops stay the same"
    )
    if train.sync_bn:
        text += ", sums are rounded in another order"
    else:
        together = train.batch_size // train.accumulate
        text += (
            f"; without train.sync_bn, batch norm sees {together // world} images at a time "
            f"instead of {together // found.processes}"
        )
    log.info("%s", text)


def record_resume(
    run: Run, training: TrainState, step: int, changes: Changes, *, verified: bool
) -> None:
    """Add to environment.json that a run is resumed, where, with which changes.

    Args:
        run: Its folder.
        training: The run as it is now.
        step: Optimizer steps taken so far.
        changes: Old and new value of changed settings, by key.
        verified: Whether the checkpoint had a checksum.
    """
    record = read_json(run.environment) if run.environment.is_file() else training.environment()
    record["data"] = training.material.fingerprints()
    record.setdefault("resumed", []).append(
        {
            "at": environment.now(),
            "step": step,
            "processes": training.group.world,
            "verified": verified,
            "command": sys.argv,
            "changes": changes,
        }
    )
    write_json(run.environment, record)


def _processes(count: int) -> str:
    return "1 process" if count == 1 else f"{count} processes"


def _refuse(run: Run, changes: Changes, *, allowed: bool) -> None:
    lines = "".join(f"\n  {key}: {old} -> {new}" for key, (old, new) in changes.items())
    if changes and not allowed:
        raise DrnError(
            f"{run.folder}: was trained with other settings:{lines}\n",
            "--allow-changes goes on with the new ones",
        )
    if changes and not started_by_launch():  # the launcher has said it
        log.info("%s: goes on with other settings:%s", run.folder, lines)


def _changes(run: Run, recipe: Recipe) -> Changes:
    return diff_recipes(load_recipe(str(run.recipe)).recipe, recipe)


def _checkpoint(source: Path) -> tuple[Run, Path]:
    """Find the run and the checkpoint that a folder or one of its checkpoint files means."""
    run = Run(source.parent.parent if source.is_file() else source)
    start = source if source.is_file() else run.last
    if not start.is_file():
        raise DrnError(f"{start}: no such checkpoint to go on from")
    if not run.recipe.is_file():
        raise DrnError(f"{start}: does not lie in a run folder, with recipe.yaml")
    return run, start


def _unfinished_runs(recipe: str) -> Iterator[Run]:
    """Find runs that nobody trains now and that have not come to their end, newest first."""
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


def _started_again() -> bool:
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")) > 0


def _run_of_this_job(recipe: str) -> Run | None:
    """Find the run that a job began before torchrun started its processes again.

    The newest: jobs that nobody gave a name all have the same.
    """
    job = os.environ.get("TORCHELASTIC_RUN_ID")
    for run in _unfinished_runs(recipe):
        told = read_json(run.environment) if run.environment.is_file() else {}
        if job is not None and told.get("job") == job:
            return run
    return None


def _short(digest: str | None) -> str:
    return "missing" if digest is None else digest[:12]

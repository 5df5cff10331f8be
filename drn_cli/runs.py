"""The run folder: what a training run leaves behind, and where it is found again."""

import errno
import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import IO

from drn_cli.errors import DrnError
from drn_cli.files import open_lock

RUNS = Path("runs")
DEPTH = 3  # folders between a root and a run, at most: sweep/recipe/time


@dataclass(frozen=True, slots=True)
class Run:
    """Names of the files of a run."""

    folder: Path

    @property
    def recipe(self) -> Path:
        """The resolved recipe."""
        return self.folder / "recipe.yaml"

    @property
    def environment(self) -> Path:
        """Versions, machine and command."""
        return self.folder / "environment.json"

    @property
    def metrics(self) -> Path:
        """One JSON object a line: training steps and validations."""
        return self.folder / "metrics.jsonl"

    @property
    def last(self) -> Path:
        """Everything needed to go on."""
        return self.folder / "checkpoints" / "last.pt"

    def checkpoint(self, step: int) -> Path:
        """What was needed to go on after a step, where a recipe keeps several checkpoints."""
        return self.folder / "checkpoints" / f"step-{step:08}.pt"

    def earlier_checkpoints(self) -> list[Path]:
        """List the checkpoints that are kept by step, from first to last."""
        return sorted((self.folder / "checkpoints").glob("step-*.pt"))

    @property
    def best(self) -> Path:
        """The network that scored best so far."""
        return self.folder / "checkpoints" / "best.safetensors"

    @property
    def scores(self) -> Path:
        """All scores of the best validation."""
        return self.folder / "best.json"

    @contextmanager
    def claimed(self) -> Iterator[None]:
        """Make the folder and hold it, so that no other process trains in it meanwhile.

        The lock is the process's own: it goes with it, and what it starts does not inherit it.

        Raises:
            DrnError: Another process trains in it, or it cannot be written.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            file = open_lock(self._lock)
        except OSError as error:
            raise DrnError(
                f"{self.folder}: cannot be written: {error.strerror or error}",
                "choose another --run-dir",
            ) from error
        with file:
            if not _lock(file):
                raise DrnError(
                    f"{self.folder}: another process is training in it",
                    "wait for it, or choose another --run-dir",
                )
            yield

    def in_use(self) -> bool:
        """Tell whether another process trains in the folder now."""
        try:
            with self._lock.open("r+b") as file:
                return not _lock(file)
        except OSError:
            return False

    @property
    def _lock(self) -> Path:
        return self.folder / ".lock"


def _lock(file: IO[bytes]) -> bool:
    """Lock a file; False if another process has. Where locks are unknown, nobody has."""
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return error.errno not in (errno.EACCES, errno.EAGAIN)
    return True


def new_run(recipe: str, root: Path = RUNS) -> Run:
    """Name a folder that does not exist yet, `runs/<recipe>/<time>`."""
    stamp = datetime.now().strftime("%Y-%m-%d_%H-%M-%S")
    folder = root / recipe / stamp
    number = 2
    while folder.exists():
        folder = root / recipe / f"{stamp}_{number}"
        number += 1
    return Run(folder)


def newest_run(root: Path = RUNS) -> Run:
    """Find the run whose checkpoint was written last.

    Raises:
        DrnError: There is no run with a checkpoint.
    """
    runs = find_runs(root) if root.is_dir() else []
    checkpoints = [path for run in runs for path in (run.last, run.best) if path.is_file()]
    if not checkpoints:
        raise DrnError(
            f"{root}: no trained run here",
            "train one (`drn train drn_d_22_camvid`), or name a run folder or a checkpoint file",
        )
    return Run(max(checkpoints, key=lambda path: path.stat().st_mtime).parent.parent)


def find_runs(root: Path = RUNS) -> list[Run]:
    """List the run folders below a folder, by name; a folder that is a run is the only one.

    A run is known by any of its files, so that one which lost some is still found. Nothing is
    looked for inside of it, nor in hidden folders.

    Raises:
        DrnError: There is no such folder.
    """
    if not root.is_dir():
        raise DrnError(f"{root}: no such folder", "runs are below ./runs, or name another folder")
    runs: dict[Path, Run] = {}
    for run in _runs_below(root, DEPTH):
        runs.setdefault(run.folder.resolve(), run)  # links may lead to it twice
    return list(runs.values())


def _runs_below(folder: Path, depth: int) -> Iterator[Run]:
    run = Run(folder)
    try:
        if any(path.is_file() for path in (run.recipe, run.metrics, run.last, run.best)):
            yield run
            return
        inner = sorted(path for path in folder.iterdir() if path.is_dir()) if depth else []
    except OSError:  # closed to us: whoever reads the run will say so
        yield run
        return
    for path in inner:
        if not path.name.startswith("."):
            yield from _runs_below(path, depth - 1)


def last_written(root: Path = RUNS) -> Run:
    """Find the run that measured last, with a checkpoint or without.

    Raises:
        DrnError: There is none.
    """
    runs = [run for run in find_runs(root) if run.metrics.is_file()] if root.is_dir() else []
    if not runs:
        raise DrnError(
            f"{root}: no run here has measured anything yet",
            "train one (`drn train drn_d_22_camvid`), or name a run folder",
        )
    return max(runs, key=lambda run: run.metrics.stat().st_mtime)


def checkpoint_of(source: Path) -> Path:
    """Find the network to use in a run folder (best, else last); a file is itself.

    Raises:
        DrnError: There is no such file or folder, or the folder has no checkpoint.
    """
    if source.is_file():
        return source
    if not source.exists():
        raise DrnError(f"{source}: no such run folder or checkpoint file")
    run = Run(source)
    for path in (run.best, run.last):
        if path.is_file():
            return path
    raise DrnError(f"{source}: no checkpoints/best.safetensors or last.pt in this folder")

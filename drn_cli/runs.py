"""The run folder: what a training run leaves behind, and where it is found again."""

import errno
import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from itertools import chain, count
from pathlib import Path
from typing import IO

from drn_cli.errors import DrnError
from drn_cli.files import open_lock, require_folder

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
            raise _not_writable(self.folder, error.strerror or str(error)) from error
        with file:
            if (folder := self.last.parent).is_symlink():
                raise DrnError(
                    f"{folder}: is a symbolic link, and nothing is written through it",
                    "remove it, or put the whole run there: --run-dir",
                )
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


def new_run(recipe: str, root: Path = RUNS, *, make: bool = False) -> Run:
    """Name a folder that does not exist yet, `runs/<recipe>/<time>`.

    Args:
        recipe: Name of the recipe.
        root: Folder of all runs.
        make: Whether to make the folder: of several processes that start in the same second, each
            gets one of its own.

    Raises:
        DrnError: The folder cannot be made.
    """
    stamp = datetime.now().strftime("%Y-%m-%d_%H-%M-%S")
    names = chain([stamp], (f"{stamp}_{number}" for number in count(2)))
    folders = (root / recipe / name for name in names)
    if not make:
        return Run(next(folder for folder in folders if not folder.exists()))
    return Run(next(folder for folder in folders if _make(folder)))


def _make(folder: Path) -> bool:
    """Make a folder; False if it exists."""
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        folder.mkdir()
    except FileExistsError:
        if folder.parent.is_dir():
            return False
        raise _not_writable(folder, "a file is in the way") from None
    except OSError as error:
        raise _not_writable(folder, error.strerror or str(error)) from error
    return True


def _not_writable(folder: Path, reason: str) -> DrnError:
    return DrnError(f"{folder}: cannot be written: {reason}", "choose another --run-dir")


def newest_run(root: Path = RUNS) -> Run:
    """Find the run with a best network whose checkpoint was written last.

    A run that was not validated yet may hold random weights: it has to be named.

    Raises:
        DrnError: There is no run with a best network.
    """
    runs = find_runs(root) if root.exists() else []
    trained = [run for run in runs if run.best.is_file()]
    if trained:
        return max(trained, key=_checkpointed)
    unproven = [run for run in runs if run.last.is_file()]
    if not unproven:
        raise DrnError(
            f"{root}: no trained run here",
            "train one (`drn train drn_d_22_camvid`), or name a run folder or a checkpoint file",
        )
    folder = max(unproven, key=_checkpointed).folder
    raise DrnError(
        f"{root}: no run here has a best network yet; the newest with a checkpoint is {folder}",
        f"to use it, name it: `drn eval {folder}`, `drn predict INPUT --weights {folder}`",
    )


def _checkpointed(run: Run) -> float:
    """Return when a run wrote a checkpoint last."""
    return max(path.stat().st_mtime for path in (run.last, run.best) if path.is_file())


def find_runs(root: Path = RUNS) -> list[Run]:
    """List the run folders below a folder, by name; a folder that is a run is the only one.

    A run is known by any of its files, so that one which lost some is still found. Nothing is
    looked for inside of it, nor in hidden folders.

    Raises:
        DrnError: There is no such folder, or it is a file.
    """
    require_folder(root, "runs", "runs are below ./runs, or name another folder")
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
    """Find the run that measured last, with a checkpoint or without: the one to report on.

    Raises:
        DrnError: There is none.
    """
    runs = [run for run in find_runs(root) if run.metrics.is_file()] if root.exists() else []
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
    if not source.is_dir():
        raise DrnError(f"{source}: a pipe or device, not a file of weights")
    run = Run(source)
    for path in (run.best, run.last):
        if path.is_file():
            return path
    raise DrnError(f"{source}: no checkpoints/best.safetensors or last.pt in this folder")

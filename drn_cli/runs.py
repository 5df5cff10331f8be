"""Run directories: their files, and how to find them."""

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
DEMO_RUNS = Path("drn-demo/runs")  # of `drn demo`, which other commands do not search
DEPTH = 3  # folders between a root and a run, at most: sweep/recipe/time


@dataclass(frozen=True, slots=True)
class Run:
    """Paths of the files in a run directory."""

    folder: Path

    @property
    def name(self) -> str:
        """Path below the folder `runs`, as `drn runs` lists it; elsewhere the folder's name."""
        folder = self.folder.resolve()
        root = next((above for above in folder.parents if above.name == RUNS.name), folder.parent)
        return str(folder.relative_to(root))

    @property
    def recipe(self) -> Path:
        """The resolved recipe."""
        return self.folder / "recipe.yaml"

    @property
    def environment(self) -> Path:
        """Versions, hardware and command."""
        return self.folder / "environment.json"

    @property
    def metrics(self) -> Path:
        """Training steps and validations, one JSON object per line."""
        return self.folder / "metrics.jsonl"

    @property
    def last(self) -> Path:
        """The newest checkpoint, with everything that is needed to resume."""
        return self.folder / "checkpoints" / "last.pt"

    def checkpoint(self, step: int) -> Path:
        """The checkpoint of a step, with train.keep_last > 1."""
        return self.folder / "checkpoints" / f"step-{step:08}.pt"

    def earlier_checkpoints(self) -> list[Path]:
        """Return the checkpoints that are named by step, oldest first."""
        return sorted((self.folder / "checkpoints").glob("step-*.pt"))

    @property
    def best(self) -> Path:
        """The weights with the best validation score."""
        return self.folder / "checkpoints" / "best.safetensors"

    @property
    def scores(self) -> Path:
        """Scores of the best validation."""
        return self.folder / "best.json"

    @contextmanager
    def claimed(self) -> Iterator[None]:
        """Create the directory and lock it against training by other processes.

        The lock ends with the process; child processes do not inherit it.

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
        """Whether another process trains in the directory."""
        try:
            with self._lock.open("r+b") as file:
                return not _lock(file)
        except OSError:
            return False

    @property
    def _lock(self) -> Path:
        return self.folder / ".lock"


def _lock(file: IO[bytes]) -> bool:
    """Lock a file; return False if another process holds the lock.

    On file systems without locks, return True.
    """
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return error.errno not in (errno.EACCES, errno.EAGAIN)
    return True


def new_run(recipe: str, root: Path = RUNS, *, make: bool = False) -> Run:
    """Return a run directory that does not exist yet, `runs/<recipe>/<time>`.

    Args:
        recipe: Name of the recipe.
        root: Folder of all runs.
        make: Whether to create the directory. Concurrent processes then get different ones.

    Raises:
        DrnError: The directory cannot be created.
    """
    stamp = datetime.now().strftime("%Y-%m-%d_%H-%M-%S")
    names = chain([stamp], (f"{stamp}_{number}" for number in count(2)))
    folders = (root / recipe / name for name in names)
    if not make:
        return Run(next(folder for folder in folders if not folder.exists()))
    return Run(next(folder for folder in folders if _make(folder)))


def _make(folder: Path) -> bool:
    """Create a folder; return False if it exists."""
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
    """Return the run with best weights and the newest checkpoint.

    Runs without a validation may have random weights; they must be named explicitly.

    Raises:
        DrnError: There is no run with a best network.
    """
    runs = find_runs(root) if root.exists() else []
    trained = [run for run in runs if run.best.is_file()]
    if trained:
        return max(trained, key=_checkpoint_time)
    unvalidated = [run for run in runs if run.last.is_file()]
    if not unvalidated:
        demo = find_runs(DEMO_RUNS) if DEMO_RUNS.is_dir() else []
        example = f", such as {demo[-1].folder}" if demo else ""
        raise DrnError(
            f"{root}: no trained run",
            "train one (`drn train drn_d_22_camvid`), or name a run directory or a checkpoint file"
            f"{example}",
        )
    folder = max(unvalidated, key=_checkpoint_time).folder
    raise DrnError(
        f"{root}: no run has best weights yet; the newest checkpoint is in {folder}",
        f"to use it: `drn eval {folder}`, `drn predict INPUT --weights {folder}`",
    )


def _checkpoint_time(run: Run) -> float:
    """Return the time of a run's newest checkpoint."""
    return max(path.stat().st_mtime for path in (run.last, run.best) if path.is_file())


def find_runs(root: Path = RUNS) -> list[Run]:
    """Return the run directories below a folder, sorted by name; a run directory is itself.

    Any of its files identifies a run, so that an incomplete one is found, too. Run directories and
    hidden folders are not searched.

    Raises:
        DrnError: The folder does not exist, or is a file.
    """
    require_folder(root, "runs", "runs are below ./runs, or name another folder")
    runs: dict[Path, Run] = {}
    for run in _runs_below(root, DEPTH):
        runs.setdefault(run.folder.resolve(), run)  # symbolic links may lead to it twice
    return list(runs.values())


def _runs_below(folder: Path, depth: int) -> Iterator[Run]:
    run = Run(folder)
    try:
        if any(path.is_file() for path in (run.recipe, run.metrics, run.last, run.best)):
            yield run
            return
        inner = sorted(path for path in folder.iterdir() if path.is_dir()) if depth else []
    except OSError:  # no permission: reading the run reports it
        yield run
        return
    for path in inner:
        if not path.name.startswith("."):
            yield from _runs_below(path, depth - 1)


def last_written(root: Path = RUNS) -> Run:
    """Return the run with the newest metrics, with or without a checkpoint.

    Raises:
        DrnError: There is none.
    """
    runs = [run for run in find_runs(root) if run.metrics.is_file()] if root.exists() else []
    if not runs:
        raise DrnError(
            f"{root}: no run has metrics yet",
            "train one (`drn train drn_d_22_camvid`), or name a run directory",
        )
    return max(runs, key=lambda run: run.metrics.stat().st_mtime)


def checkpoint_of(source: Path) -> Path:
    """Return the weights to use of a run directory (best, else last); a file is itself.

    Raises:
        DrnError: No such file or folder, or the folder has no checkpoint.
    """
    if source.is_file():
        return source
    if not source.exists():
        raise DrnError(f"{source}: no such run directory or checkpoint file")
    if not source.is_dir():
        raise DrnError(f"{source}: a pipe or device, not a file of weights")
    run = Run(source)
    for path in (run.best, run.last):
        if path.is_file():
            return path
    raise DrnError(f"{source}: no checkpoints/best.safetensors or last.pt in this folder")

"""The run folder: what a training run leaves behind, and where it is found again."""

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from drn_cli.errors import DrnError

RUNS = Path("runs")


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

    @property
    def best(self) -> Path:
        """The network that scored best so far."""
        return self.folder / "checkpoints" / "best.safetensors"


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
    checkpoints = [
        path
        for name in ("last.pt", "best.safetensors")
        for path in root.glob(f"*/*/checkpoints/{name}")
    ]
    if not checkpoints:
        raise DrnError(
            f"{root}: no trained run here",
            "train one (`drn train drn_d_22_camvid`), or name a run folder or a checkpoint file",
        )
    return Run(max(checkpoints, key=lambda path: path.stat().st_mtime).parent.parent)


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

"""From a file of any kind to the network in it."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from drn_cli.errors import DrnError
from drn_cli.inference.runtimes import ExportedNetwork, is_exported, open_exported
from drn_cli.networks.catalog import Architecture, Task, architecture
from drn_cli.networks.checkpoints import read_checkpoint
from drn_cli.networks.conversion import convert
from drn_cli.networks.models import DRN, build
from drn_cli.networks.weights import load_converted


@dataclass(frozen=True, slots=True)
class TrainedNetwork:
    """A network as a checkpoint holds it, and what the file says of it.

    Attributes:
        path: The file.
        model: With its weights, in evaluation mode, on the CPU.
        metadata: Strings stored with the weights; empty in files of other programs.
        verified: Whether a checksum shows that the file is as it was written.
    """

    path: Path
    model: DRN
    metadata: Mapping[str, str]
    verified: bool

    @property
    def architecture(self) -> Architecture:
        return self.model.architecture

    @property
    def arch(self) -> str:
        return self.model.arch

    @property
    def task(self) -> Task:
        return self.model.task

    @property
    def classes(self) -> int:
        return self.model.classes

    @property
    def runtime(self) -> str:
        return f"PyTorch {torch.__version__}"


Found = TrainedNetwork | ExportedNetwork


def open_network(path: Path, task: Task | None = None, *, quiet: bool = False) -> Found:
    """Open a checkpoint, or a network that was exported.

    Args:
        path: The file.
        task: What the network has to be for, if that matters.
        quiet: Whether nothing is warned of, as of a file that was written a moment ago.

    Raises:
        DrnError: The file cannot be read, has no head, is for another task, or needs a runtime
            that is not installed.
    """
    if not is_exported(path):
        return read_network(path, task, quiet=quiet)
    found = open_exported(path, quiet=quiet)
    _check_task(path, found.task, task)
    return found


def read_network(path: Path, task: Task | None = None, *, quiet: bool = False) -> TrainedNetwork:
    """Build the network that a checkpoint holds, of any known format.

    Args:
        path: A checkpoint.
        task: What it has to be for, if that matters.
        quiet: Whether nothing is warned of.

    Raises:
        DrnError: The file cannot be read, has no head, or is for another task.
    """
    if is_exported(path):
        raise DrnError(
            f"{path}: is an exported network, whose weights cannot be taken out again",
            "give the checkpoint that it was made of",
        )
    checkpoint = read_checkpoint(path, quiet=quiet)
    found = convert(checkpoint, path)
    if found.task is None or found.classes is None:
        raise DrnError(
            f"{path}: holds a backbone alone, or does not say what it is for",
            "`drn models import FILE --task TASK` writes one that does",
        )
    _check_task(path, found.task, task)
    with torch.device("meta"):
        model = build(architecture(found.archs[0], found.width), found.task, found.classes)
    model.to_empty(device="cpu").eval()
    for buffer in model.buffers():
        buffer.zero_()  # the files of others lack some counters
    load_converted(model, found, path)
    return TrainedNetwork(path, model, checkpoint.metadata, checkpoint.verified)


def _check_task(path: Path, found: Task, wanted: Task | None) -> None:
    if wanted is not None and found != wanted:
        held, needed = (
            {"segmentation": "a segmentation network", "classification": "a classifier"}[one]
            for one in (found, wanted)
        )
        raise DrnError(f"{path}: holds {held}; {needed} is needed")

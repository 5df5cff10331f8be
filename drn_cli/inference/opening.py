"""Opens checkpoints and exported networks."""

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
    """A network loaded from a checkpoint."""

    path: Path
    model: DRN  # in evaluation mode, on the CPU
    metadata: Mapping[str, str]  # metadata of the file; empty if another program wrote it
    verified: bool  # whether the file has a checksum, which matches

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


OpenedNetwork = TrainedNetwork | ExportedNetwork


def open_network(path: Path, task: Task | None = None, *, quiet: bool = False) -> OpenedNetwork:
    """Open a checkpoint or an exported network.

    Args:
        path: The file.
        task: The required task; None accepts both.
        quiet: Do not warn about the file, for example because it was just written.

    Raises:
        DrnError: The file cannot be read, has no task head, is for another task, or needs a
            runtime that is not installed.
    """
    if not is_exported(path):
        return read_network(path, task, quiet=quiet)
    network = open_exported(path, quiet=quiet)
    _check_task(path, network.task, task)
    return network


def read_network(path: Path, task: Task | None = None, *, quiet: bool = False) -> TrainedNetwork:
    """Load the network of a checkpoint in any known format; arguments as for `open_network`.

    Raises:
        DrnError: The file cannot be read, has no task head, or is for another task.
    """
    if is_exported(path):
        raise DrnError(
            f"{path}: an exported network cannot be used as a checkpoint",
            "use the checkpoint that it was exported from",
        )
    checkpoint = read_checkpoint(path, quiet=quiet)
    weights = convert(checkpoint, path)
    if weights.task is None or weights.classes is None:
        raise DrnError(
            f"{path}: no task head: backbone weights, or task metadata missing",
            "convert it with `drn models import FILE --task TASK`",
        )
    _check_task(path, weights.task, task)
    with torch.device("meta"):
        model = build(architecture(weights.archs[0], weights.width), weights.task, weights.classes)
    model.to_empty(device="cpu").eval()
    for buffer in model.buffers():
        buffer.zero_()  # other programs' files may lack `num_batches_tracked`
    load_converted(model, weights, path)
    return TrainedNetwork(path, model, checkpoint.metadata, checkpoint.verified)


def _check_task(path: Path, found: Task, wanted: Task | None) -> None:
    if wanted is not None and found != wanted:
        nouns = {"segmentation": "a segmentation network", "classification": "a classifier"}
        raise DrnError(f"{path}: is {nouns[found]}, not {nouns[wanted]}")

"""What is measured: an architecture with random weights, a trained network, or an exported one."""

from dataclasses import dataclass

import torch

from drn_cli.errors import DrnError
from drn_cli.files import user_path
from drn_cli.inference.opening import Found, TrainedNetwork, open_network
from drn_cli.inference.source import find_source
from drn_cli.networks import create_model
from drn_cli.networks.catalog import Architecture, Task
from drn_cli.networks.models import parameters
from drn_cli.recipe.schema import Recipe

# How a network can be run. `pytorch` is what answers in `drn predict`: batch norm folded, maps in
# channels-last memory, on CPUs with quicker 3x3 convolutions. `eager` is the network as it is
# trained. A file that was exported has a runtime of its own instead.
PYTORCH, EAGER = RUNTIMES = ("pytorch", "eager")
OF_FILES = {".onnx": "onnxruntime", ".xml": "openvino", ".pt2": "pt2"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """A network to be measured.

    Attributes:
        name: What the user called it.
        network: With its weights.
        recipe: Of the run that it comes from, if it comes from one.
        runtimes: Which can run it.
        verified: Whether a checksum shows that its file is as it was written; None without a file.
    """

    name: str
    network: Found
    recipe: Recipe | None = None
    runtimes: tuple[str, ...] = RUNTIMES
    verified: bool | None = None

    @property
    def arch(self) -> Architecture:
        return self.network.architecture

    @property
    def task(self) -> Task:
        return self.network.task

    @property
    def classes(self) -> int:
        return self.network.classes

    @property
    def parameters(self) -> int:
        """Number of parameters, before batch norm is folded."""
        return parameters(self.arch, self.task, self.classes)

    @property
    def exported(self) -> bool:
        """Whether its file is for another runtime, and says itself what is computed in."""
        return not isinstance(self.network, TrainedNetwork)


def resolve(source: str, task: Task | None = None, classes: int | None = None) -> Subject:
    """Find what is meant.

    Args:
        source: An architecture's name, a run folder, a checkpoint, or an exported network.
        task: What an architecture is to answer; segmentation if left out.
        classes: Number of its classes; 19 or 1000 if left out.

    Raises:
        DrnError: There is no such thing, or a file is told what it says itself.
    """
    path = user_path(source)
    if path.exists():
        if task is not None or classes is not None:
            raise DrnError(
                f"--task, --classes: {source} says itself what it is",
                "leave them out; they are for an architecture's name",
            )
        found = find_source(path)
        opened = open_network(found.checkpoint)
        verified = opened.verified
        if isinstance(opened, TrainedNetwork):
            return Subject(name=source, network=opened, recipe=found.recipe, verified=verified)
        runtimes = (OF_FILES[found.checkpoint.suffix.lower()],)
        return Subject(name=source, network=opened, runtimes=runtimes, verified=verified)
    if path.suffix or len(path.parts) > 1:
        raise DrnError(f"{source}: no such run folder or file")
    torch.manual_seed(0)
    model = create_model(source, task or "segmentation", classes).eval()
    return Subject(name=model.arch, network=TrainedNetwork(path, model, {}, verified=False))

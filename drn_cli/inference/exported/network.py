"""A network that was exported: what its file says of it, and how it is run."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, cast

import torch
from torch import Tensor

from drn_cli.data.folders import Statistics
from drn_cli.errors import DrnError
from drn_cli.networks.catalog import Architecture, Task, architecture

Output = Literal["logits", "scores", "classes"]
INPUT = "pictures"  # the one input's name, in every format
UINT8 = "uint8"  # what `input` says where mean and standard deviation are inside
AS_PIXELS = Statistics((0.0,) * 3, (1 / 255,) * 3)  # "normalises" pixels to themselves

Run = Callable[[Tensor, Output], Tensor]  # computes one of the outputs
Start = Callable[[torch.device, int, int], Run]  # device, threads for a picture, pictures at once


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportedNetwork:
    """A network in a file of another runtime.

    Its input, `pictures`, is `(N, 3, H, W)`: float32 and normalised, or uint8 where the file says
    so. A segmenter's outputs are `logits` `(N, classes, H, W)` and `scores`, the same at an eighth
    of the size, or `classes` alone, uint8 `(N, H, W)`; a classifier's `logits` `(N, classes)` and
    `scores`, each class at each position, whose mean they are.

    Attributes:
        path: The file.
        told: The strings in it, as `drn export` wrote them.
        runtime: Name and version of what runs it.
        start: Makes it ready.
        verified: Whether a checksum shows that the file is as it was written.
    """

    path: Path
    told: Mapping[str, str]
    runtime: str
    start: Start
    verified: bool = False

    @property
    def architecture(self) -> Architecture:
        return architecture(self.arch, float(self.told.get("width", 1.0)))

    @property
    def arch(self) -> str:
        return self.told["arch"]

    @property
    def task(self) -> Task:
        return cast(Task, self.told["task"])

    @property
    def classes(self) -> int:
        return int(self.told["classes"])

    @property
    def answers_classes(self) -> bool:
        """Whether it gives the index map itself."""
        return self.told["outputs"] == "classes"

    @property
    def takes_pixels(self) -> bool:
        """Whether it takes pixels as they are."""
        return self.told["input"] == UINT8

    @property
    def size(self) -> tuple[int, int] | None:
        """The one height and width that it takes, if it is not any."""
        if "size" not in self.told:
            return None
        height, width = map(int, self.told["size"].split("x"))
        return height, width

    def run(self, device: torch.device, at_once: int) -> Run:
        """Start it, for pictures on a device, so many of them at the same time.

        The call takes float32 `(N, 3, H, W)`, normalised with the statistics that are to be used
        with it, and raises DrnError where the file does not take such a size.
        """
        run = self.start(device, max(1, torch.get_num_threads() // at_once), at_once)

        def checked(x: Tensor, output: Output) -> Tensor:
            height, width = x.shape[-2:]
            if self.size is not None and (height, width) != self.size:
                raise DrnError(
                    f"{self.path}: takes pictures of {self.size[1]}x{self.size[0]} only; this one "
                    f"is seen at {width}x{height}",
                    "export it without --size",
                )
            return run(x.round().to(torch.uint8) if self.takes_pixels else x, output)

        return checked

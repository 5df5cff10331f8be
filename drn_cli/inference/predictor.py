"""A segmenter that takes images as they are read and answers for each pixel."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from drn_cli.data.batches import normalize
from drn_cli.data.classes import ClassSet
from drn_cli.data.folders import ChannelStats
from drn_cli.data.images import Pixels
from drn_cli.device import is_out_of_memory
from drn_cli.errors import DrnError
from drn_cli.inference.memory import TileSizer
from drn_cli.inference.normalization import Normalization
from drn_cli.inference.score_maps import (
    ViewScores,
    check_classes,
    check_finite,
    class_map,
    class_map_and_loss,
    probabilities,
)
from drn_cli.inference.views import PLAIN, Network, look
from drn_cli.networks.models import OUTPUT_STRIDE
from drn_cli.recipe.schema import Eval

Answer = TypeVar("Answer")
Finish = Callable[[Sequence[ViewScores], int, int], Answer]  # of an image's maps, height and width


@dataclass(frozen=True, slots=True, kw_only=True)
class SegmentationPredictor:
    """A segmenter and all it needs to read an image.

    An image that is too large for the memory is seen in tiles. Where memory runs out nevertheless,
    so are those after it.

    Attributes:
        network: From normalised images `(N, 3, H, W)` to scores of classes, `(N, classes, h, w)`,
            in evaluation mode.
        statistics: Mean and standard deviation that it was trained with.
        class_set: Names and colours of its classes.
        device: Where it runs.
        stride: Pixels to a position of the scores: `h` is `ceil(H / stride)`.
        view: How it looks at an image: sizes, mirrored, tiles.
        autocast: The type that it computes in where that is safe; None is float32 throughout.
        tiles: What is known of the memory; predictors of one network may share it.
        answers_classes: Whether the network gives classes, uint8 `(N, H, W)`, instead of scores;
            then it sees whole images, once.
        normalization: Mean and standard deviation with their source, where a file was loaded.
    """

    network: Network
    statistics: ChannelStats
    class_set: ClassSet
    device: torch.device
    stride: int = OUTPUT_STRIDE
    view: Eval = PLAIN
    autocast: torch.dtype | None = None
    tiles: TileSizer = field(
        default_factory=lambda: TileSizer(None, torch.device("cpu")), repr=False
    )
    answers_classes: bool = False
    normalization: Normalization | None = None

    @property
    def classes(self) -> int:
        return len(self.class_set)

    def __call__(self, image: Pixels) -> Tensor:
        """Find each pixel's class.

        Shapes: uint8 `(H, W, 3)` in, uint8 `(H, W)` out, on the predictor's device.

        Raises:
            NonFiniteScoresError: A score is NaN or infinite.
            DrnError: Memory does not suffice for small tiles either.
        """
        return self.batch([image])[0]

    def batch(self, images: Sequence[Pixels]) -> list[Tensor]:
        """Find the classes of images of one size, which a GPU does at once; as `__call__`."""
        if self.answers_classes:
            return self._indexed(images)
        return self._answers(images, class_map)

    def with_probabilities(self, image: Pixels) -> tuple[Tensor, Tensor]:
        """Give the classes and each class's probability, float32 `(C, H, W)`; as `__call__`."""
        if self.answers_classes:
            raise DrnError(
                "probabilities: this network gives classes alone", "export it without --argmax"
            )

        def both(maps: Sequence[ViewScores], height: int, width: int) -> tuple[Tensor, Tensor]:
            return class_map(maps, height, width), probabilities(maps, height, width)

        return self._answers([image], both)[0]

    def with_loss(self, image: Pixels, labels: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return the classes, and the sum of the cross-entropy and the number of labelled pixels.

        See `class_map_and_loss`; errors as `__call__`. The network has to return scores.
        """
        return self._answers([image], lambda maps, _, __: class_map_and_loss(maps, labels))[0]

    def score_maps(self, image: Pixels) -> list[ViewScores]:
        """Give what the network says of each view of an image; as `__call__`."""
        return self._answers([image], lambda maps, _, __: list(maps))[0]

    @torch.inference_mode()
    def _answers(self, images: Sequence[Pixels], finish: Finish[Answer]) -> list[Answer]:
        height, width, _ = images[0].shape
        while True:
            learned = self.tiles.side
            side = self.tiles.side_for(height, width, self.view)
            view = self.view.model_copy(update={"tile": side})
            try:
                answers = self._look(images, view, finish)
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
            else:
                if learned is not None:
                    self.tiles.announce(learned)
                return answers
            # Only here, after the handler, has the error's traceback let go of the tensors.
            if self.device.type == "cuda":
                torch.cuda.empty_cache()
            if len(images) > 1:
                return [self._answers([image], finish)[0] for image in images]
            self._see_less(height, width, view, learned)

    @torch.inference_mode()
    def _indexed(self, images: Sequence[Pixels]) -> list[Tensor]:
        classes = self.network(normalize(self._images(images), self.statistics))
        check_classes(classes, self.classes)
        return list(classes)

    def _look(self, images: Sequence[Pixels], view: Eval, finish: Finish[Answer]) -> list[Answer]:
        height, width, _ = images[0].shape
        maps = look(self._network, self.stride, self._images(images), self.statistics, view)
        answers = [finish(of_image, height, width) for of_image in maps]
        views = zip(*maps, strict=True)
        check_finite(torch.stack([one.scores for one in view]) for view in views)
        return answers

    def _images(self, images: Sequence[Pixels]) -> Tensor:
        """Bring images of one size to the device, uint8 `(N, H, W, 3)`."""
        # Pillow's pixels cannot be written to, which torch does not take.
        whole = (
            np.stack(images)
            if len(images) > 1
            else np.require(images[0], requirements=["C", "W"])[None]
        )
        return torch.from_numpy(whole).to(self.device)

    def _network(self, x: Tensor) -> Tensor:
        with torch.autocast(self.device.type, self.autocast, enabled=self.autocast is not None):
            return self.network(x)

    def _see_less(self, height: int, width: int, view: Eval, learned: int | None) -> None:
        seen = int(max(height, width) * max(view.scales))
        if view.tile is not None:
            seen = min(seen, view.tile)
        if not self.tiles.shrink(learned, seen):
            raise DrnError(
                f"out of memory: an image of {width}x{height} does not fit, even in tiles of "
                f"{seen} pixels",
                "fewer or smaller eval.scales take less, as do other programs that end",
            )

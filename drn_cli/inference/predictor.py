"""Semantic segmentation of images: a network with its preprocessing, tiling and memory limits."""

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
    argmax_and_loss,
    argmax_classes,
    check_classes,
    check_finite,
    probabilities,
)
from drn_cli.inference.views import PLAIN, Network, predict_views
from drn_cli.networks.models import OUTPUT_STRIDE
from drn_cli.recipe.schema import Eval

Result = TypeVar("Result")
Reduce = Callable[[Sequence[ViewScores], int, int], Result]  # views of an image, height and width


@dataclass(frozen=True, slots=True, kw_only=True)
class SegmentationPredictor:
    """A segmentation network with its preprocessing.

    Images that do not fit into memory are predicted in tiles. If memory runs out nevertheless, the
    tiles of this image and of all later ones get smaller.
    """

    # Normalized images `(N, 3, H, W)` to class scores `(N, classes, h, w)`, in evaluation mode
    network: Network
    statistics: ChannelStats  # mean and standard deviation of the training data
    class_set: ClassSet  # names and colors of the classes
    device: torch.device  # device of the network
    stride: int = OUTPUT_STRIDE  # output stride: `h` is `ceil(H / stride)`
    view: Eval = PLAIN  # scales, flip and tiling
    autocast: torch.dtype | None = None  # None is float32 throughout
    # Tile size that fits into memory; predictors of one network may share it
    tiles: TileSizer = field(
        default_factory=lambda: TileSizer(None, torch.device("cpu")), repr=False
    )
    # Whether the network returns class ids, uint8 `(N, H, W)`, instead of scores; such a network
    # takes whole images at their size
    outputs_classes: bool = False
    # Mean and standard deviation with their source, if loaded from a file
    normalization: Normalization | None = None

    @property
    def classes(self) -> int:
        return len(self.class_set)

    def __call__(self, image: Pixels) -> Tensor:
        """Return the class id of each pixel.

        Shapes: uint8 `(H, W, 3)` in, uint8 `(H, W)` out, on the predictor's device.

        Raises:
            NonFiniteScoresError: A score is NaN or infinite.
            DrnError: Not even the smallest tiles fit into memory.
        """
        return self.batch([image])[0]

    def batch(self, images: Sequence[Pixels]) -> list[Tensor]:
        """Return the class ids of images of equal size, as one batch; errors as `__call__`."""
        if not self.outputs_classes:
            return self._predict(images, argmax_classes)
        with torch.inference_mode():
            classes = self.network(normalize(self._to_device(images), self.statistics))
            check_classes(classes, self.classes)
            return list(classes)

    def with_probabilities(self, image: Pixels) -> tuple[Tensor, Tensor]:
        """Return class ids and probabilities, float32 `(C, H, W)`; errors as `__call__`."""
        if self.outputs_classes:
            raise DrnError(
                "probabilities: this network outputs class ids only", "export it without --argmax"
            )

        def both(maps: Sequence[ViewScores], height: int, width: int) -> tuple[Tensor, Tensor]:
            return argmax_classes(maps, height, width), probabilities(maps, height, width)

        return self._predict([image], both)[0]

    def with_loss(self, image: Pixels, labels: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return class ids, and float64 `(2,)`: sum of cross-entropy and number of labeled pixels.

        None replaces the latter without a view at scale 1; errors as `__call__`. Requires a
        network that returns scores.
        """
        return self._predict([image], lambda maps, _, __: argmax_and_loss(maps, labels))[0]

    def view_scores(self, image: Pixels) -> list[ViewScores]:
        """Return the scores of each view of an image; errors as `__call__`."""
        return self._predict([image], lambda maps, _, __: list(maps))[0]

    @torch.inference_mode()
    def _predict(self, images: Sequence[Pixels], reduce: Reduce[Result]) -> list[Result]:
        """Predict images of equal size, with smaller batches and tiles if memory runs out."""
        height, width, _ = images[0].shape
        while True:
            reduced_side = self.tiles.side
            side = self.tiles.side_for(height, width, self.view)
            view = self.view.model_copy(update={"tile": side})
            try:
                results = self._predict_once(images, view, reduce)
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
            else:
                if reduced_side is not None:
                    self.tiles.warn_once(reduced_side)
                return results
            # After the except block, as the traceback keeps the tensors alive until its end.
            if self.device.type == "cuda":
                torch.cuda.empty_cache()
            if len(images) > 1:
                return [self._predict([image], reduce)[0] for image in images]
            input_side = int(max(height, width) * max(view.scales))
            if view.tile is not None:
                input_side = min(input_side, view.tile)
            if not self.tiles.shrink(reduced_side, input_side):
                raise DrnError(
                    f"out of memory: an image of {width}x{height} does not fit, even in tiles of "
                    f"{input_side} pixels",
                    "use fewer or smaller eval.scales, or stop other programs",
                )

    def _predict_once(
        self, images: Sequence[Pixels], view: Eval, reduce: Reduce[Result]
    ) -> list[Result]:
        def network(x: Tensor) -> Tensor:
            with torch.autocast(self.device.type, self.autocast, enabled=self.autocast is not None):
                return self.network(x)

        height, width, _ = images[0].shape
        batch = self._to_device(images)
        scores_by_image = predict_views(network, self.stride, batch, self.statistics, view)
        results = [reduce(views, height, width) for views in scores_by_image]
        for_each_view = zip(*scores_by_image, strict=True)
        check_finite(torch.stack([one.scores for one in scores]) for scores in for_each_view)
        return results

    def _to_device(self, images: Sequence[Pixels]) -> Tensor:
        """Return images of equal size as a batch on the device, uint8 `(N, H, W, 3)`."""
        # torch requires writable memory, which arrays from Pillow do not have.
        batch = (
            np.stack(images)
            if len(images) > 1
            else np.require(images[0], requirements=["C", "W"])[None]
        )
        return torch.from_numpy(batch).to(self.device)

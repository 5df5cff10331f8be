"""A classifier that takes images as they are read."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from drn_cli.data.batches import normalize
from drn_cli.data.classification import View
from drn_cli.data.folders import ChannelStats
from drn_cli.data.images import Pixels
from drn_cli.data.resized_crop import center_crop, ten_crops
from drn_cli.inference.normalization import Normalization
from drn_cli.inference.score_maps import check_finite

Network = Callable[[Tensor], Tensor]  # (N, 3, S, S) to logits (N, classes)


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassificationPredictor:
    """A classifier and all it needs to read an image.

    Attributes:
        network: From normalised crops to logits, in evaluation mode.
        statistics: Mean and standard deviation that it was trained with.
        names: What people call each class.
        folders: What the folder of each class is called, which tells classes apart; None if
            nobody knows.
        named: Whether the names are known, and not made up.
        device: Where it runs.
        crop: Side of the crops that it sees, in pixels.
        resize: What the shorter side of an image is brought to before, in pixels.
        maps: From normalised images of any size to the scores of classes at each position,
            `(N, classes, ceil(H / 8), ceil(W / 8))`: the network without its pooling.
        view: `1-crop`, the centre, or `10-crop`, whose probabilities are averaged.
        autocast: The type that it computes in where that is safe; None is float32 throughout.
        normalization: Mean and standard deviation with their source, where a file was loaded.
    """

    network: Network
    maps: Network
    statistics: ChannelStats
    names: tuple[str, ...]
    folders: tuple[str, ...] | None
    named: bool = True
    device: torch.device
    crop: int = 224
    resize: int = 256
    view: View = "1-crop"
    autocast: torch.dtype | None = None
    normalization: Normalization | None = None

    def crops(self, image: Pixels) -> Pixels:
        """Cut out what is seen of an image: `(H, W, 3)` to `(1 or 10, crop, crop, 3)`."""
        if self.view == "10-crop":
            return ten_crops(image, self.crop, self.resize)
        return center_crop(image, self.crop, self.resize)[None]

    @torch.inference_mode()
    def log_probabilities(self, crops: Tensor) -> Tensor:
        """Classify some images.

        Args:
            crops: uint8 `(N, crops, S, S, 3)`, on the device.

        Returns:
            Logarithms of the mean over the crops of each class's probability, float64
            `(N, classes)`.

        Raises:
            NonFiniteScoresError: A logit is NaN or infinite.
        """
        images = normalize(crops.flatten(0, 1), self.statistics)
        with torch.autocast(self.device.type, self.autocast, enabled=self.autocast is not None):
            logits = self.network(images)
        # In double precision, which keeps logits apart that differ; as logarithms, which keep small
        # probabilities apart that would all be 0.
        each = logits.double().view(*crops.shape[:2], -1)
        mean = each.log_softmax(2).logsumexp(1) - math.log(crops.shape[1])
        check_finite([each])
        return mean


def best_first(log_probabilities: Tensor) -> Tensor:
    """Order classes by their probability; of equal ones the lower number comes first.

    Shapes: `(N, classes)` in, int64 `(N, classes)` out.
    """
    return log_probabilities.sort(dim=1, descending=True, stable=True).indices

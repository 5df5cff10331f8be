"""Image classification: crops of an image to class probabilities."""

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
    """A classifier with its preprocessing."""

    network: Network  # normalized crops to logits, in evaluation mode
    # The network without global pooling: normalized images of any size to scores of each class at
    # each position, `(N, classes, ceil(H / 8), ceil(W / 8))`
    maps: Network
    statistics: ChannelStats  # mean and standard deviation of the training data
    names: tuple[str, ...]  # display name of each class
    # Folder name of each class in the training data, which identifies the class; None if unknown
    folders: tuple[str, ...] | None
    named: bool = True  # whether `names` are known, not generated
    device: torch.device  # device of the network
    crop: int = 224  # side of the crops, in pixels
    # Length that the shorter side of an image is resized to before cropping, in pixels
    resize: int = 256
    view: View = "1-crop"  # `1-crop` (center), or `10-crop` (mean of the probabilities)
    autocast: torch.dtype | None = None  # None is float32 throughout
    # Mean and standard deviation with their source, if loaded from a file
    normalization: Normalization | None = None

    def crops(self, image: Pixels) -> Pixels:
        """Return the crops of an image: `(H, W, 3)` to `(1 or 10, crop, crop, 3)`."""
        if self.view == "10-crop":
            return ten_crops(image, self.crop, self.resize)
        return center_crop(image, self.crop, self.resize)[None]

    @torch.inference_mode()
    def log_probabilities(self, crops: Tensor) -> Tensor:
        """Classify a batch of images.

        Args:
            crops: uint8 `(N, crops, S, S, 3)`, on the device.

        Returns:
            Log of each class's probability, averaged over the crops, float64 `(N, classes)`.

        Raises:
            NonFiniteScoresError: A logit is NaN or infinite.
        """
        images = normalize(crops.flatten(0, 1), self.statistics)
        with torch.autocast(self.device.type, self.autocast, enabled=self.autocast is not None):
            logits = self.network(images)
        # float64 keeps the order of close logits; logs keep small probabilities from becoming 0.
        logits = logits.double().view(*crops.shape[:2], -1)
        mean = logits.log_softmax(2).logsumexp(1) - math.log(crops.shape[1])
        check_finite([logits])
        return mean


def topk(scores: Tensor, k: int) -> Tensor:
    """Return the k classes of highest score, ties in order of the class ids, unlike `torch.topk`.

    Shapes: `(N, classes)` in, int64 `(N, k)` out.
    """
    return scores.sort(dim=1, descending=True, stable=True).indices[:, :k]

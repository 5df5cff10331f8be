"""The networks: a backbone with a head, for classification or segmentation."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from drn_cli.networks.backbones import Backbone, initialize
from drn_cli.networks.catalog import Architecture, Task

OUTPUT_STRIDE = 8


class DRN(nn.Module):
    """Base class of classifiers and segmenters.

    Attributes:
        architecture: The architecture, with its width.
        arch: Name of the architecture.
        width: Channel multiplier.
        task: The task.
        classes: Number of classes.
        backbone: The network without its head.
        head: 1x1 convolution from the last feature map to class scores.
    """

    task: Task

    def __init__(self, arch: Architecture, classes: int) -> None:
        super().__init__()
        self.architecture = arch
        self.arch = arch.name
        self.width = arch.width
        self.classes = classes
        self.backbone = Backbone(arch)
        self.head = nn.Conv2d(arch.out_channels, classes, kernel_size=1)
        initialize(self)

    def features(self, x: Tensor) -> dict[str, Tensor]:
        """Return the feature map of each level, by name; see `Backbone.features`."""
        return self.backbone.features(x)

    def scores(self, x: Tensor) -> Tensor:
        """Return class scores at output stride 8, `(N, classes, ceil(H / 8), ceil(W / 8))`."""
        scores: Tensor = self.head(self.backbone(x))
        return scores


class Classifier(DRN):
    """Logits `(N, classes)` of images `(N, 3, H, W)`, of any size from 1x1."""

    task: Task = "classification"

    def forward(self, x: Tensor) -> Tensor:
        # Pooling before the linear head gives the same result and is cheaper.
        pooled = self.backbone(x).mean(dim=(2, 3), keepdim=True)
        return self.head(pooled).flatten(1)  # type: ignore[no-any-return]


class Segmenter(DRN):
    """Logits `(N, classes, H, W)` of images `(N, 3, H, W)`, of any size from 1x1."""

    task: Task = "segmentation"

    def forward(self, x: Tensor) -> Tensor:
        return upsample(self.scores(x), x.shape[-2], x.shape[-1])


def upsample(scores: Tensor, height: int, width: int) -> Tensor:
    """Upsample class scores to the size of the image.

    The original code uses a fixed transposed convolution (kernel 16, stride 8, padding 4) with the
    profile `1 - |i / 8 - 15 / 16|`. This is bilinear interpolation of a zero-padded map, which is
    faster and has no weights.

    Shapes: `(N, C, ceil(height / 8), ceil(width / 8))` in, `(N, C, height, width)` out.
    """
    padded = F.pad(scores, (1, 1, 1, 1))
    size = (OUTPUT_STRIDE * padded.shape[-2], OUTPUT_STRIDE * padded.shape[-1])
    upsampled = F.interpolate(padded, size=size, mode="bilinear", align_corners=False)
    rows = slice(OUTPUT_STRIDE, OUTPUT_STRIDE + height)
    return upsampled[..., rows, OUTPUT_STRIDE : OUTPUT_STRIDE + width]


def build(arch: Architecture, task: Task, classes: int) -> DRN:
    """Build a network with random weights."""
    return (Classifier if task == "classification" else Segmenter)(arch, classes)


def parameters(arch: Architecture, task: Task = "classification", classes: int = 1000) -> int:
    """Count a network's parameters without allocating them."""
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in build(arch, task, classes).parameters())

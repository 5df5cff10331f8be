"""A backbone with a head: a classifier or a segmenter."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from drn_cli.networks.backbones import Backbone, initialize
from drn_cli.networks.catalog import Architecture, Task

OUTPUT_STRIDE = 8


class DRN(nn.Module):
    """What classifiers and segmenters have in common.

    Attributes:
        architecture: The architecture, with its width.
        arch: The architecture's name.
        width: The architecture's channel multiplier.
        task: What the network answers.
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
        """Give the map of each level of the backbone, by name; see `Backbone.features`."""
        return self.backbone.features(x)

    def scores(self, x: Tensor) -> Tensor:
        """Score each class at each position, `(N, classes, ceil(H / 8), ceil(W / 8))`."""
        scores: Tensor = self.head(self.backbone(x))
        return scores


class Classifier(DRN):
    """Logits `(N, classes)` of images `(N, 3, H, W)`, of any size from 1x1."""

    task: Task = "classification"

    def forward(self, x: Tensor) -> Tensor:
        # Pooling before the head is the same and cheaper: the head is linear.
        pooled = self.backbone(x).mean(dim=(2, 3), keepdim=True)
        return self.head(pooled).flatten(1)  # type: ignore[no-any-return]


class Segmenter(DRN):
    """Logits `(N, classes, H, W)` of images `(N, 3, H, W)`, of any size from 1x1."""

    task: Task = "segmentation"

    def forward(self, x: Tensor) -> Tensor:
        return upsample(self.scores(x), x.shape[-2], x.shape[-1])


def upsample(scores: Tensor, height: int, width: int) -> Tensor:
    """Bring class scores back to the image's size.

    The original does it with a fixed transposed convolution (kernel 16, stride 8, padding 4)
    whose profile is `1 - |i / 8 - 15 / 16|`. That is bilinear interpolation of a map bordered by
    zeros, which is faster and has no weights to carry about.

    Shapes: `(N, C, ceil(height / 8), ceil(width / 8))` in, `(N, C, height, width)` out.
    """
    bordered = F.pad(scores, (1, 1, 1, 1))
    size = (OUTPUT_STRIDE * bordered.shape[-2], OUTPUT_STRIDE * bordered.shape[-1])
    grown = F.interpolate(bordered, size=size, mode="bilinear", align_corners=False)
    inside = slice(OUTPUT_STRIDE, OUTPUT_STRIDE + height)
    return grown[..., inside, OUTPUT_STRIDE : OUTPUT_STRIDE + width]


def build(arch: Architecture, task: Task, classes: int) -> DRN:
    """Make a network with fresh weights."""
    return (Classifier if task == "classification" else Segmenter)(arch, classes)


def parameters(arch: Architecture, task: Task = "classification", classes: int = 1000) -> int:
    """Count a network's parameters without allocating them."""
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in build(arch, task, classes).parameters())

"""The backbones DRN-A, B, C and D: from an image to a feature map at output stride 8.

Source: Yu, Koltun, Funkhouser, "Dilated Residual Networks", CVPR 2017, sections 2 to 4.
"""

import math
from collections.abc import Iterator

from torch import Tensor, nn

from drn_cli.networks.catalog import Architecture

# Levels 1 to 8 of B, C and D. Levels 5 and 6 are dilated where a ResNet has a stride; levels 7 and
# 8 reduce the dilation again, which removes gridding artifacts.
CHANNELS = (16, 32, 64, 128, 256, 512, 512, 512)
STRIDES = (1, 2, 2, 2, 1, 1, 1, 1)
DILATIONS = (1, 1, 1, 1, 2, 4, 2, 1)
RESIDUAL_LEVELS = range(3, 7)  # the levels of several blocks, bottlenecks in the deep networks


def convolution(
    in_channels: int, out_channels: int, kernel: int = 3, stride: int = 1, dilation: int = 1
) -> nn.Conv2d:
    """Build a convolution with "same" padding and without bias."""
    return nn.Conv2d(
        in_channels,
        out_channels,
        kernel,
        stride,
        padding=dilation * (kernel // 2),
        dilation=dilation,
        bias=False,
    )


class BasicBlock(nn.Module):
    """Two 3x3 convolutions, with or without a shortcut."""

    expansion = 1

    def __init__(
        self,
        in_channels: int,
        channels: int,
        stride: int = 1,
        dilation: int = 1,
        shortcut: bool = True,
    ) -> None:
        super().__init__()
        self.conv1 = convolution(in_channels, channels, stride=stride, dilation=dilation)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = convolution(channels, channels, dilation=dilation)
        self.bn2 = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU(inplace=True)
        self.shortcut = shortcut
        self.downsample = projection(in_channels, channels, stride) if shortcut else None

    def forward(self, x: Tensor) -> Tensor:
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        if self.shortcut:
            out = out + (x if self.downsample is None else self.downsample(x))
        return self.relu(out)  # type: ignore[no-any-return]


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions with a shortcut; stride and dilation are in the 3x3."""

    expansion = 4

    def __init__(self, in_channels: int, channels: int, stride: int = 1, dilation: int = 1) -> None:
        super().__init__()
        out_channels = channels * self.expansion
        self.conv1 = convolution(in_channels, channels, kernel=1)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = convolution(channels, channels, stride=stride, dilation=dilation)
        self.bn2 = nn.BatchNorm2d(channels)
        self.conv3 = convolution(channels, out_channels, kernel=1)
        self.bn3 = nn.BatchNorm2d(out_channels)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = projection(in_channels, out_channels, stride)

    def forward(self, x: Tensor) -> Tensor:
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.relu(self.bn2(self.conv2(out)))
        out = self.bn3(self.conv3(out))
        out = out + (x if self.downsample is None else self.downsample(x))
        return self.relu(out)  # type: ignore[no-any-return]


class StridedProjection(nn.Conv2d):
    """1x1 convolution with stride `step`, computed by slicing the input.

    For channels that are not a multiple of 16. With 8 channels, the backward pass of oneDNN
    (PyTorch 2.14) for a strided 1x1 convolution in channels-last memory writes past its buffer and
    crashes the process.
    """

    def __init__(self, in_channels: int, out_channels: int, step: int) -> None:
        super().__init__(in_channels, out_channels, kernel_size=1, bias=False)
        self.step = step

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x[..., :: self.step, :: self.step])


def projection(in_channels: int, out_channels: int, stride: int) -> nn.Sequential | None:
    """Build the 1x1 convolution of a shortcut; None if input and output have the same shape."""
    if stride == 1 and in_channels == out_channels:
        return None
    if stride > 1 and in_channels % 16:
        shortcut: nn.Conv2d = StridedProjection(in_channels, out_channels, stride)
    else:
        shortcut = convolution(in_channels, out_channels, kernel=1, stride=stride)
    return nn.Sequential(shortcut, nn.BatchNorm2d(out_channels))


def conv_level(
    in_channels: int, channels: int, blocks: int, stride: int, dilation: int
) -> nn.Sequential:
    """Stack convolution, batch norm and ReLU `blocks` times."""
    modules: list[nn.Module] = []
    for index in range(blocks):
        modules += [
            convolution(
                in_channels if index == 0 else channels,
                channels,
                stride=stride if index == 0 else 1,
                dilation=dilation,
            ),
            nn.BatchNorm2d(channels),
            nn.ReLU(inplace=True),
        ]
    return nn.Sequential(*modules)


def residual_level(
    block: type[BasicBlock] | type[Bottleneck],
    in_channels: int,
    channels: int,
    blocks: int,
    stride: int,
    first: int,
    rest: int,
) -> nn.Sequential:
    """Stack residual blocks: the first one has the stride and the dilation `first`."""
    out_channels = channels * block.expansion
    return nn.Sequential(
        block(in_channels, channels, stride, first),
        *(block(out_channels, channels, dilation=rest) for _ in range(1, blocks)),
    )


class Backbone(nn.Module):
    """A DRN without its head.

    `layer0` is the stem; `layer1` and up are the levels of the paper (in family A, those of
    ResNet, with the max-pool before `layer1`).

    Shapes: `(N, 3, H, W)` in, `(N, out_channels, ceil(H / 8), ceil(W / 8))` out, for any size.
    Sides that are not a multiple of 8 need no padding of the input: each strided layer rounds up,
    with its own zero padding on the right and at the bottom.
    """

    def __init__(self, arch: Architecture) -> None:
        super().__init__()
        self.out_channels = arch.out_channels
        self.pool: nn.Module = nn.Identity()
        if arch.family == "A":
            levels = _levels_a(arch)
            self.layer0 = _stem(arch.channels(64), stride=2)
            self.pool = nn.MaxPool2d(3, stride=2, padding=1)
        else:
            levels = _levels_bcd(arch)
            self.layer0 = _stem(arch.channels(CHANNELS[0]), stride=1)
        self.level_names = ["layer0"]
        for number, level in enumerate(levels, start=1):
            name = f"layer{number}"
            self.add_module(name, level)
            self.level_names.append(name)

    def features(self, x: Tensor) -> dict[str, Tensor]:
        """Return the feature map of each level, by name, from `layer0` on.

        Shapes: `(N, 3, H, W)` in, `(N, C, ceil(H / s), ceil(W / s))` out, where s goes from 1
        (2 in family A) to 8.
        """
        maps: dict[str, Tensor] = {}
        for name in self.level_names:
            x = self.get_submodule(name)(x)
            maps[name] = x
            if name == "layer0":
                x = self.pool(x)
        return maps

    def forward(self, x: Tensor) -> Tensor:
        return self.features(x)[self.level_names[-1]]


def _stem(channels: int, stride: int) -> nn.Sequential:
    return nn.Sequential(
        convolution(3, channels, kernel=7, stride=stride),
        nn.BatchNorm2d(channels),
        nn.ReLU(inplace=True),
    )


def _levels_a(arch: Architecture) -> Iterator[nn.Module]:
    """ResNet's four levels; the last two have dilation 2 and 4, except in their first block."""
    block = Bottleneck if arch.bottleneck else BasicBlock
    in_channels = arch.channels(64)
    for blocks, stock, stride, dilation in zip(
        arch.blocks, (64, 128, 256, 512), (1, 2, 1, 1), (1, 1, 2, 4), strict=True
    ):
        channels = arch.channels(stock)  # of a bottleneck, the inner channels: it has 4 times more
        yield residual_level(block, in_channels, channels, blocks, stride, 1, dilation)
        in_channels = channels * block.expansion


def _levels_bcd(arch: Architecture) -> Iterator[nn.Module]:
    in_channels = arch.channels(CHANNELS[0])
    for number, blocks in enumerate(arch.blocks, start=1):
        stock, stride, dilation = (values[number - 1] for values in (CHANNELS, STRIDES, DILATIONS))
        channels = arch.channels(stock)
        if number in RESIDUAL_LEVELS:
            block = Bottleneck if arch.bottleneck else BasicBlock
            yield residual_level(block, in_channels, channels, blocks, stride, dilation, dilation)
            in_channels = channels * block.expansion
        else:
            if arch.family == "D":
                yield conv_level(in_channels, channels, blocks, stride, dilation)
            else:
                # C omits the shortcuts of levels 7 and 8, which would propagate gridding artifacts.
                shortcut = arch.family == "B" or number < 7
                yield nn.Sequential(BasicBlock(in_channels, channels, stride, dilation, shortcut))
            in_channels = channels


def initialize(model: nn.Module) -> None:
    """Initialize convolutions from N(0, 2 / (k * k * out_channels)), as the original code does."""
    for module in model.modules():
        # Skip the meta device, on which the first random operation takes a second to import.
        if isinstance(module, nn.Conv2d) and not module.weight.is_meta:
            fan_out = module.kernel_size[0] * module.kernel_size[1] * module.out_channels
            nn.init.normal_(module.weight, std=math.sqrt(2 / fan_out))
            if module.bias is not None:
                nn.init.zeros_(module.bias)

"""DRN-A, B, C and D: from an image to a feature map of an eighth of its size.

Source: Yu, Koltun, Funkhouser, "Dilated Residual Networks", CVPR 2017, sections 2 to 4.
"""

import math
from collections.abc import Iterator

from torch import Tensor, nn

from drn_cli.networks.catalog import Architecture

# Levels 1 to 8 of B, C and D. Levels 5 and 6 are dilated where a ResNet would stride; 7 and 8
# step the dilation down again, which takes the grid pattern out of the map.
CHANNELS = (16, 32, 64, 128, 256, 512, 512, 512)
STRIDES = (1, 2, 2, 2, 1, 1, 1, 1)
DILATIONS = (1, 1, 1, 1, 2, 4, 2, 1)
RESIDUAL_LEVELS = range(3, 7)  # the levels that are bottlenecks in the deep nets


def convolution(
    in_channels: int, out_channels: int, kernel: int = 3, stride: int = 1, dilation: int = 1
) -> nn.Conv2d:
    """Make a convolution that keeps the size, up to its stride."""
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
    """Two 3x3 convolutions, with or without a shortcut around them."""

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
    """1x1, 3x3 and 1x1 convolutions with a shortcut; the 3x3 strides and dilates."""

    expansion = 4

    def __init__(
        self,
        in_channels: int,
        channels: int,
        stride: int = 1,
        dilation: int = 1,
    ) -> None:
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
    """1x1 convolution of every `step`-th position, which is what a stride computes.

    For channels that are no multiple of 16. With 8, the backward pass of oneDNN (PyTorch 2.14) for
    a strided 1x1 convolution in channels-last memory writes past its buffer and ends the process.
    """

    def __init__(self, in_channels: int, out_channels: int, step: int) -> None:
        super().__init__(in_channels, out_channels, kernel_size=1, bias=False)
        self.step = step

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x[..., :: self.step, :: self.step])


def projection(in_channels: int, out_channels: int, stride: int) -> nn.Sequential | None:
    """Make the shortcut's 1x1 convolution, where the two sides of a block differ in shape."""
    if stride == 1 and in_channels == out_channels:
        return None
    if stride > 1 and in_channels % 16:
        shortcut: nn.Conv2d = StridedProjection(in_channels, out_channels, stride)
    else:
        shortcut = convolution(in_channels, out_channels, kernel=1, stride=stride)
    return nn.Sequential(
        shortcut,
        nn.BatchNorm2d(out_channels),
    )


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
    """Stack residual blocks: the first one strides and has a dilation of its own."""
    out_channels = channels * block.expansion
    return nn.Sequential(
        block(in_channels, channels, stride, first),
        *(block(out_channels, channels, dilation=rest) for _ in range(1, blocks)),
    )


class Backbone(nn.Module):
    """A DRN without its classifier.

    `layer0` is the stem; `layer1` and up are the levels of the paper (in family A, those of
    ResNet, with the max-pool before `layer1`).

    Shapes: `(N, 3, H, W)` in, `(N, out_channels, ceil(H / 8), ceil(W / 8))` out, for any size.
    Every layer pads by itself, so a side that is no multiple of 8 is padded by its border of
    zeros, on the right and at the bottom, as each stride needs it.
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
        """Give the map of each level, by name, from `layer0` on.

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
    """ResNet's four levels; the last two dilate by 2 and 4, except in their first block."""
    block = Bottleneck if arch.bottleneck else BasicBlock
    in_channels = arch.channels(64)
    for blocks, stock, stride, dilation in zip(
        arch.blocks, (64, 128, 256, 512), (1, 2, 1, 1), (1, 1, 2, 4), strict=True
    ):
        channels = arch.channels(stock)  # the inner ones of a bottleneck, which has 4 times as many
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
                # C takes the shortcuts away where they would carry the grid to the output.
                shortcut = arch.family == "B" or number < 7
                yield nn.Sequential(BasicBlock(in_channels, channels, stride, dilation, shortcut))
            in_channels = channels


def initialize(model: nn.Module) -> None:
    """Draw convolutions from normal(0, 2 / (k * k * out_channels)); batch norm is 1 and 0."""
    for module in model.modules():
        # Without content there is nothing to draw; that torch draws it takes a second to import.
        if isinstance(module, nn.Conv2d) and not module.weight.is_meta:
            fan_out = module.kernel_size[0] * module.kernel_size[1] * module.out_channels
            nn.init.normal_(module.weight, std=math.sqrt(2 / fan_out))
            if module.bias is not None:
                nn.init.zeros_(module.bias)

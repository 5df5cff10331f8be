"""3x3 convolutions on CPUs with a quarter of the multiplications.

Winograd's minimal filtering: a tile of 4x4 results takes 36 products instead of 144 when input and
weights are transformed first (Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks",
CVPR 2016). The nine tenths of a DRN that are 3x3 convolutions of many channels gain most: a dilated
convolution is a plain one on each of the grids that the dilation skips over.

The transforms evaluate polynomials at five points and at infinity. Those of the literature (0, 1,
-1, 2, -2) lose four digits; these lose two, about as many as a sum over 512 channels does anyway.
"""

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional as F

TILE = 4  # results along a side
PATCH = TILE + 2  # inputs along a side
POINTS = (0.0, 0.75, -0.75, 1.5, -1.5)

FEWEST_CHANNELS = 128  # with fewer, the transforms cost what the products save
TILES_AT_ONCE = 256  # as many as the processor's caches hold
# Share of the direct convolution's products below which this way is quicker, as measured: the
# rest pays for the transforms.
WORTHWHILE = 0.6

Matrix = npt.NDArray[np.float64]


def fits(convolution: nn.Conv2d) -> bool:
    """Tell whether a convolution is of the kind that this computes, and gains."""
    return (
        convolution.kernel_size == (3, 3)
        and convolution.stride == (1, 1)
        and convolution.dilation == convolution.padding
        and convolution.dilation[0] == convolution.dilation[1]
        and convolution.groups == 1
        and convolution.padding_mode == "zeros"
        and min(convolution.in_channels, convolution.out_channels) >= FEWEST_CHANNELS
    )


class WinogradConvolution(nn.Module):
    """What a convolution for which `fits` says yes computes, up to rounding, for inference.

    Small maps, of which the tiles would be mostly border, are convolved directly.

    Shapes: `(N, C, H, W)` in, `(N, C', H, W)` out, in channels-last memory.
    """

    input_transform: Tensor
    output_transform: Tensor
    products: Tensor

    def __init__(self, convolution: nn.Conv2d) -> None:
        super().__init__()
        self.direct = convolution
        self.dilation = convolution.dilation[0]
        inputs, weights, outputs = _transforms()
        kernels = convolution.weight.detach().double()
        transformed = torch.einsum("ik,jl,ockl->ijco", weights, weights, kernels)
        products = transformed.reshape(PATCH**2, *transformed.shape[2:])
        for name, tensor in (
            ("input_transform", torch.kron(inputs, inputs)),
            ("products", products),
            ("output_transform", torch.kron(outputs, outputs)),
        ):
            made = tensor.to(convolution.weight.dtype).contiguous()
            self.register_buffer(name, made, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[-2:]
        down, across = (_tiles(side, self.dilation) for side in (height, width))
        products = down * across * (self.dilation * PATCH) ** 2
        if products > WORTHWHILE * 9 * height * width:
            return self.direct(x)  # type: ignore[no-any-return]
        maps = [self._one(image, down, across) for image in x.permute(0, 2, 3, 1)]
        whole = maps[0][None] if len(maps) == 1 else torch.stack(maps)
        return whole[:, :height, :width].permute(0, 3, 1, 2)

    def _one(self, x: Tensor, down: int, across: int) -> Tensor:
        """Convolve `(H, W, C)`; the result reaches to the end of the last tiles."""
        d = self.dilation
        height, width, channels = x.shape
        rows, columns = (d * (TILE * tiles + 2) for tiles in (down, across))
        padded = F.pad(x, (0, 0, d, columns - width - d, d, rows - height - d))
        row = columns * channels
        # Every tile with its border, in place: (tile, grid) down, (row, column) of the patch,
        # (tile, grid) across.
        patches = padded.as_strided(
            (down, d, PATCH, PATCH, across, d, channels),
            (TILE * d * row, row, d * row, d * channels, TILE * d * channels, channels, 1),
        )
        out = x.new_empty(down, TILE, d, across, TILE, d, len(self.bias))
        at_once = max(1, TILES_AT_ONCE // (d * d * across))
        for first in range(0, down, at_once):
            band = patches[first : first + at_once].permute(2, 3, 0, 1, 4, 5, 6)
            spread = self.input_transform @ band.reshape(PATCH**2, -1)
            multiplied = torch.bmm(spread.view(PATCH**2, -1, channels), self.products)
            gathered = self.output_transform @ multiplied.view(PATCH**2, -1)
            shape = (TILE, TILE, *band.shape[2:6], -1)
            out[first : first + at_once] = gathered.view(shape).permute(2, 0, 3, 4, 1, 5, 6)
        return out.view(down * TILE * d, across * TILE * d, -1).add_(self.bias)

    @property
    def bias(self) -> Tensor:
        assert self.direct.bias is not None  # batch norm was folded into it
        return self.direct.bias


def _tiles(side: int, dilation: int) -> int:
    """Count the tiles along a side of each of the grids that a dilation makes of a map."""
    return -(-side // (dilation * TILE))


def _transforms() -> tuple[Tensor, Tensor, Tensor]:
    """Give the transforms of input, weights and output by the method of Cook and Toom.

    Two polynomials are multiplied by multiplying their values at as many points as the product has
    coefficients; a convolution is the transpose of that.

    Shapes: `(PATCH, PATCH)`, `(PATCH, 3)`, `(TILE, PATCH)`.
    """

    def values(coefficients: int) -> Matrix:
        at_infinity = np.eye(coefficients)[-1:]
        return np.concatenate([np.vander(POINTS, coefficients, increasing=True), at_infinity])

    inputs, weights, outputs = np.linalg.inv(values(PATCH)).T, values(3), values(TILE).T
    return torch.from_numpy(inputs), torch.from_numpy(weights), torch.from_numpy(outputs)

"""Winograd convolution for CPUs: 3x3 convolutions with a quarter of the multiplications.

With transformed inputs and weights a tile of 4x4 outputs takes 36 multiplications instead of 144
(Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks", CVPR 2016). 3x3 convolutions
with many channels, nine tenths of a DRN's multiplications, gain most. A dilated convolution is an
undilated one on each of the interleaved grids that the dilation skips over.

The transforms evaluate polynomials at five points and at infinity. The points of the literature
(0, 1, -1, 2, -2) lose four digits; these lose two, about as many as a sum over 512 channels.
"""

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional as F

TILE = 4  # outputs per side
PATCH = TILE + 2  # inputs per side
POINTS = (0.0, 0.75, -0.75, 1.5, -1.5)

MIN_CHANNELS = 128  # with fewer, the transforms cost more than the multiplications save
TILES_PER_BAND = 256  # fit into the CPU's caches
# Measured share of the direct convolution's multiplications below which Winograd is faster.
WORTHWHILE = 0.6

Matrix = npt.NDArray[np.float64]


def is_supported(convolution: nn.Conv2d) -> bool:
    """Whether WinogradConvolution can replace a convolution, and is faster for large inputs."""
    return (
        convolution.kernel_size == (3, 3)
        and convolution.stride == (1, 1)
        and convolution.dilation == convolution.padding
        and convolution.dilation[0] == convolution.dilation[1]
        and convolution.groups == 1
        and convolution.padding_mode == "zeros"
        and min(convolution.in_channels, convolution.out_channels) >= MIN_CHANNELS
    )


class WinogradConvolution(nn.Module):
    """Replacement of a supported convolution for inference; equal up to rounding.

    Small inputs, whose tiles would be mostly padding, are convolved directly.

    Shapes: `(N, C, H, W)` in, `(N, C', H, W)` out, in channels-last memory format.
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
            buffer = tensor.to(convolution.weight.dtype).contiguous()
            self.register_buffer(name, buffer, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[-2:]
        # Tiles per side of each of the grids that a dilation divides the input into.
        down, across = (-(-side // (self.dilation * TILE)) for side in (height, width))
        products = down * across * (self.dilation * PATCH) ** 2
        if products > WORTHWHILE * 9 * height * width:
            return self.direct(x)  # type: ignore[no-any-return]
        outputs = [self._convolve(image, down, across) for image in x.permute(0, 2, 3, 1)]
        batch = outputs[0][None] if len(outputs) == 1 else torch.stack(outputs)
        return batch[:, :height, :width].permute(0, 3, 1, 2)

    def _convolve(self, x: Tensor, down: int, across: int) -> Tensor:
        """Convolve `(H, W, C)`; the output is rounded up to whole tiles."""
        d = self.dilation
        height, width, channels = x.shape
        rows, columns = (d * (TILE * tiles + 2) for tiles in (down, across))
        padded = F.pad(x, (0, 0, d, columns - width - d, d, rows - height - d))
        row = columns * channels
        # A view of all patches, without a copy: (tile, grid) down, (row, column) in the patch,
        # (tile, grid) across.
        patches = padded.as_strided(
            (down, d, PATCH, PATCH, across, d, channels),
            (TILE * d * row, row, d * row, d * channels, TILE * d * channels, channels, 1),
        )
        out = x.new_empty(down, TILE, d, across, TILE, d, len(self.bias))
        rows_per_band = max(1, TILES_PER_BAND // (d * d * across))
        for first in range(0, down, rows_per_band):
            band = patches[first : first + rows_per_band].permute(2, 3, 0, 1, 4, 5, 6)
            transformed = self.input_transform @ band.reshape(PATCH**2, -1)
            multiplied = torch.bmm(transformed.view(PATCH**2, -1, channels), self.products)
            results = self.output_transform @ multiplied.view(PATCH**2, -1)
            shape = (TILE, TILE, *band.shape[2:6], -1)
            out[first : first + rows_per_band] = results.view(shape).permute(2, 0, 3, 4, 1, 5, 6)
        return out.view(down * TILE * d, across * TILE * d, -1).add_(self.bias)

    @property
    def bias(self) -> Tensor:
        assert self.direct.bias is not None  # batch norm was folded into it
        return self.direct.bias


def _transforms() -> tuple[Tensor, Tensor, Tensor]:
    """Return the Cook-Toom transforms of input, weights and output.

    A product of polynomials is the product of their values at as many points as it has
    coefficients; a convolution is the transpose of this multiplication.

    Shapes: `(PATCH, PATCH)`, `(PATCH, 3)`, `(TILE, PATCH)`.
    """

    def values(coefficients: int) -> Matrix:
        at_infinity = np.eye(coefficients)[-1:]
        return np.concatenate([np.vander(POINTS, coefficients, increasing=True), at_infinity])

    inputs, weights, outputs = np.linalg.inv(values(PATCH)).T, values(3), values(TILE).T
    return torch.from_numpy(inputs), torch.from_numpy(weights), torch.from_numpy(outputs)

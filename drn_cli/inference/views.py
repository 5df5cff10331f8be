"""How a network looks at an image: at one or several sizes, mirrored too, whole or in tiles.

The protocol for several sizes is that of the paper's code: the image, its pixels as they are, is
resized to each (bicubic, sizes truncated to whole pixels, values rounded to whole levels), and the
log-probabilities of all are resized back (bilinear with anti-aliasing) and summed.
"""

from collections.abc import Callable, Iterator

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from drn_cli.data.batches import normalize
from drn_cli.data.folders import ChannelStats
from drn_cli.data.images import Pixels
from drn_cli.inference.score_maps import ViewScores
from drn_cli.inference.tiles import tiled
from drn_cli.recipe.schema import Eval

Network = Callable[[Tensor], Tensor]  # (N, 3, H, W) to scores (N, C, ceil(H / s), ceil(W / s))

PLAIN = Eval()  # the whole image, once, as it is


def look(
    network: Network, stride: int, images: Tensor, statistics: ChannelStats, view: Eval = PLAIN
) -> list[list[ViewScores]]:
    """Run a network over all views of some images of one size.

    Args:
        network: Takes normalised images.
        stride: Pixels to a cell of its scores.
        images: uint8 `(N, H, W, 3)`.
        statistics: What the network was trained with.
        view: At which sizes, mirrored too or not, whole or in tiles.

    Returns:
        For each image, a map for each view.
    """
    maps: list[list[ViewScores]] = [[] for _ in images]
    for seen, mirrored in _views(images, view):
        height, width = int(seen.shape[1]), int(seen.shape[2])

        def run(rows: slice, columns: slice, seen: Tensor = seen) -> Tensor:
            return network(normalize(seen[:, rows, columns], statistics))

        scores = tiled(run, height, width, view.tile or max(height, width), stride)
        rows_first = scores.float().permute(0, 2, 1, 3).contiguous()
        for of_image, one in zip(maps, rows_first, strict=True):
            of_image.append(ViewScores(one, height, width, stride, mirrored))
    return maps


def view_size(height: int, width: int, scale: float) -> tuple[int, int]:
    """Give height and width of a view, truncated, and at least 1."""
    return max(1, int(height * scale)), max(1, int(width * scale))


def _views(images: Tensor, view: Eval) -> Iterator[tuple[Tensor, bool]]:
    for scale in view.scales:
        seen = resized(images, *view_size(int(images.shape[1]), int(images.shape[2]), scale))
        yield seen, False
        if view.flip:
            yield seen.flip(2), True


def resized(images: Tensor, height: int, width: int) -> Tensor:
    """Resize images as Pillow does, bicubic.

    On a CPU, Pillow itself does; PyTorch's way differs by a level or two in some pixels.

    Shapes: uint8 `(N, H, W, 3)` in, `(N, height, width, 3)` out: uint8, or whole floats from 0 to
    255 on a GPU.
    """
    if images.shape[1:3] == (height, width):
        return images
    if images.device.type == "cpu":
        made = [resized_image(image.numpy(), height, width) for image in images]
        return torch.from_numpy(np.stack(made))
    return resized_floats(images.permute(0, 3, 1, 2).float(), height, width).permute(0, 2, 3, 1)


def resized_floats(images: Tensor, height: int, width: int) -> Tensor:
    """Resize `(N, 3, H, W)` along one axis, then the other, with whole levels after each.

    As Pillow does; it keeps what overshoots at an edge from coming back in the second pass.
    """
    for size in ((images.shape[2], width), (height, width)):
        images = F.interpolate(images, size, mode="bicubic", antialias=True)
        images = images.round_().clamp_(0, 255)
    return images


def resized_image(image: Pixels, height: int, width: int) -> Pixels:
    """Resize an image with Pillow, bicubic: `(H, W, 3)` in and out."""
    if image.shape[:2] == (height, width):
        return image
    whole = Image.fromarray(image)
    return np.asarray(whole.resize((width, height), Image.Resampling.BICUBIC))

"""Multi-scale, flipped and tiled prediction.

The multi-scale protocol is that of the paper's code: the uint8 image is resized to each scale
(bicubic, sizes truncated, values rounded to integers), and the log-probabilities of all scales are
resized back (bilinear with anti-aliasing) and summed.
"""

from collections.abc import Callable

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from drn_cli.data.batches import normalize
from drn_cli.data.folders import ChannelStats
from drn_cli.data.images import Pixels
from drn_cli.inference.score_maps import ViewScores
from drn_cli.inference.tiles import predict_tiled
from drn_cli.recipe.schema import Eval

Network = Callable[[Tensor], Tensor]  # (N, 3, H, W) to scores (N, C, ceil(H / s), ceil(W / s))

PLAIN = Eval()  # the whole image at scale 1, not flipped


def predict_views(
    network: Network, stride: int, images: Tensor, statistics: ChannelStats, view: Eval = PLAIN
) -> list[list[ViewScores]]:
    """Run a network on all views of a batch of images.

    Args:
        network: Takes normalized images.
        stride: Output stride of the network.
        images: uint8 `(N, H, W, 3)`.
        statistics: Mean and standard deviation of the training data.
        view: Scales, flip and tiling.

    Returns:
        The scores of each view, for each image.
    """
    maps: list[list[ViewScores]] = [[] for _ in images]
    for scale in view.scales:
        height, width = view_size(int(images.shape[1]), int(images.shape[2]), scale)
        resized = resize(images, height, width)
        for mirrored in (False, True) if view.flip else (False,):
            batch = resized.flip(2) if mirrored else resized

            def run(rows: slice, columns: slice, batch: Tensor = batch) -> Tensor:
                return network(normalize(batch[:, rows, columns], statistics))

            scores = predict_tiled(run, height, width, view.tile or max(height, width), stride)
            rows_first = scores.float().permute(0, 2, 1, 3).contiguous()
            for of_image, one in zip(maps, rows_first, strict=True):
                of_image.append(ViewScores(one, height, width, stride, mirrored))
    return maps


def view_size(height: int, width: int, scale: float) -> tuple[int, int]:
    """Return height and width at a scale, truncated, and at least 1."""
    return max(1, int(height * scale)), max(1, int(width * scale))


def resize(images: Tensor, height: int, width: int) -> Tensor:
    """Resize a batch of images like Pillow, bicubic; on a CPU, with Pillow.

    PyTorch's results differ from Pillow's by a level or two in some pixels.

    Shapes: uint8 `(N, H, W, 3)` in, `(N, height, width, 3)` out: uint8, or on a GPU float32 with
    integer values in 0..255.
    """
    if images.shape[1:3] == (height, width):
        return images
    if images.device.type == "cpu":
        resized = [resize_image(image.numpy(), height, width) for image in images]
        return torch.from_numpy(np.stack(resized))
    return resize_floats(images.permute(0, 3, 1, 2).float(), height, width).permute(0, 2, 3, 1)


def resize_floats(images: Tensor, height: int, width: int) -> Tensor:
    """Resize `(N, 3, H, W)` along one axis, then the other, and round and clip after each.

    Like Pillow: otherwise overshoots of the first pass would affect the second.
    """
    for size in ((images.shape[2], width), (height, width)):
        images = F.interpolate(images, size, mode="bicubic", antialias=True)
        images = images.round_().clamp_(0, 255)
    return images


def resize_image(image: Pixels, height: int, width: int) -> Pixels:
    """Resize an image with Pillow, bicubic: `(H, W, 3)` in and out."""
    if image.shape[:2] == (height, width):
        return image
    resized = Image.fromarray(image).resize((width, height), Image.Resampling.BICUBIC)
    return np.asarray(resized)

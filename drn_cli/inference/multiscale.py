"""Log-probabilities of one picture: at one or several sizes, mirrored, whole or in tiles."""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor
from torch.nn import functional as F

from drn_cli.recipe.schema import Eval

Network = Callable[[Tensor], Tensor]  # (1, 3, H, W) to logits (1, C, H, W)

PLAIN = Eval()  # the whole picture, once, as it is
OVERLAP = 0.25  # share of a tile that it has in common with the next


def best_class(
    network: Network,
    picture: Tensor,
    view: Eval = PLAIN,
) -> Tensor:
    """Find each pixel's class.

    The protocol is the paper's: the picture is resized to each scale (bicubic, sizes truncated),
    the log-probabilities are resized back (bilinear with anti-aliasing) and summed.

    Args:
        network: From `(1, 3, h, w)` to logits `(1, C, h, w)`.
        picture: Normalised, `(1, 3, H, W)`.
        view: At which sizes, mirrored too or not, whole or in tiles.

    Returns:
        uint8 `(H, W)`.
    """
    side = view.tile
    run = network if side is None else lambda x: tiled(network, x, side)
    if view.scales == (1.0,) and not view.flip:
        return _arg_max(run(picture))
    height, width = picture.shape[-2:]
    total: Tensor | None = None
    for seen, mirrored in _views(picture, view.scales, view.flip):
        scores = run(seen).log_softmax(1)
        if mirrored:
            scores = scores.flip(-1)
        if scores.shape[-2:] != (height, width):
            scores = F.interpolate(scores, (height, width), mode="bilinear", antialias=True)
        total = scores if total is None else total.add_(scores)
    assert total is not None
    return _arg_max(total)


def _views(picture: Tensor, scales: tuple[float, ...], flip: bool) -> Iterator[tuple[Tensor, bool]]:
    height, width = picture.shape[-2:]
    for scale in scales:
        size = (max(1, int(height * scale)), max(1, int(width * scale)))
        seen = picture
        if size != (height, width):
            seen = F.interpolate(picture, size, mode="bicubic", antialias=True)
        yield seen, False
        if flip:
            yield seen.flip(-1), True


def _arg_max(scores: Tensor) -> Tensor:
    # On CPUs `argmax(1)` of such a map takes ten times as long as `max`, which finds the same.
    return scores.max(1).indices[0].to(torch.uint8)


def tiled(network: Network, picture: Tensor, side: int) -> Tensor:
    """Run a network over overlapping square tiles and blend their probabilities.

    A tile weighs most in its middle and least at its edge, where the network saw least around it.

    Shapes: `(1, 3, H, W)` in, log-probabilities `(1, C, H, W)` out.
    """
    height, width = picture.shape[-2:]
    if height <= side and width <= side:
        return network(picture)
    total: Tensor | None = None
    weights = torch.zeros(1, 1, height, width, device=picture.device)
    for top in _starts(height, side):
        for left in _starts(width, side):
            rows, columns = slice(top, top + side), slice(left, left + side)
            probabilities = network(picture[..., rows, columns]).float().softmax(1)
            weight = _pyramid(probabilities.shape[-2], probabilities.shape[-1], picture.device)
            if total is None:
                total = weights.new_zeros(1, probabilities.shape[1], height, width)
            total[..., rows, columns] += probabilities * weight
            weights[..., rows, columns] += weight
    assert total is not None
    # A probability that is rounded to 0 would be -inf, and NaN once it is resized.
    return total.div_(weights).clamp_min_(torch.finfo(total.dtype).tiny).log_()


def _starts(length: int, side: int) -> list[int]:
    """Place tiles evenly, the first and the last flush with the edges."""
    if length <= side:
        return [0]
    step = int(side * (1 - OVERLAP))
    count = -(-(length - side) // step) + 1
    return [round(index * (length - side) / (count - 1)) for index in range(count)]


def _pyramid(height: int, width: int, device: torch.device) -> Tensor:
    def ramp(length: int) -> Tensor:
        position = torch.arange(length, device=device)
        return torch.minimum(position, length - 1 - position) + 1.0

    return torch.minimum(ramp(height)[:, None], ramp(width)[None, :])

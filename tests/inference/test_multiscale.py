import itertools

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from drn_cli.inference.multiscale import best_class, tiled
from drn_cli.recipe.schema import Eval

CLASSES = 5
MIX = torch.randn(CLASSES, 3, 1, 1, generator=torch.Generator().manual_seed(0)) * 3
KERNEL = torch.randn(CLASSES, 3, 3, 3, generator=torch.Generator().manual_seed(1))


def pixelwise(picture: Tensor) -> Tensor:
    return F.conv2d(picture, MIX)


def looking_around(picture: Tensor) -> Tensor:
    return F.conv2d(picture, KERNEL, padding=1)


def picture(height: int, width: int) -> Tensor:
    return torch.randn(1, 3, height, width, generator=torch.Generator().manual_seed(2))


def step_by_step(picture: Tensor, scales: tuple[float, ...], flip: bool) -> Tensor:
    height, width = picture.shape[-2:]
    total = torch.zeros(1, CLASSES, height, width)
    for scale in scales:
        size = (int(height * scale), int(width * scale))
        resized = F.interpolate(picture, size=size, mode="bicubic", antialias=True)
        views = [looking_around(resized)]
        if flip:
            views.append(looking_around(resized.flip(3)).flip(3))
        for logits in views:
            scores = F.log_softmax(logits, dim=1)
            total += F.interpolate(scores, size=(height, width), mode="bilinear", antialias=True)
    return total


def agree(classes: Tensor, scores: Tensor) -> bool:
    """Tell whether each class is the best, but for what rounding decides."""
    chosen = scores[0].gather(0, classes.long()[None])[0]
    return bool((scores[0].max(0).values - chosen).max() < 1e-4)


def test_one_scale_is_the_arg_max_of_the_logits() -> None:
    classes = best_class(looking_around, picture(13, 17))
    assert classes.dtype == torch.uint8
    assert torch.equal(classes.long(), looking_around(picture(13, 17)).argmax(1)[0])


@pytest.mark.parametrize(
    ("scales", "flip"),
    [((1.0,), True), ((0.5,), False), ((0.5, 1.0, 1.75), False), ((0.75, 1.0, 1.25), True)],
)
def test_scales_and_mirror_image_are_summed_as_log_probabilities(
    scales: tuple[float, ...], flip: bool
) -> None:
    whole = picture(13, 18)
    before = whole.clone()
    expected = step_by_step(whole, scales, flip)
    classes = best_class(looking_around, whole, Eval(scales=scales, flip=flip))
    assert classes.shape == (13, 18)
    assert agree(classes, expected)
    assert torch.equal(whole, before)
    # The views make a difference here, or nothing would have been checked.
    assert not torch.equal(classes, best_class(looking_around, whole))


def test_network_sees_truncated_sizes_and_never_an_empty_picture() -> None:
    sizes = []

    def network(view: Tensor) -> Tensor:
        sizes.append(tuple(view.shape[-2:]))
        return pixelwise(view)

    best_class(network, picture(5, 7), Eval(scales=(0.5, 1.0, 1.5)))
    best_class(network, picture(1, 3), Eval(scales=(0.5,)))
    assert sizes == [(2, 3), (5, 7), (7, 10), (1, 1)]


def test_several_views_see_a_mirrored_picture_for_each_scale() -> None:
    views = []

    def network(view: Tensor) -> Tensor:
        views.append(view)
        return pixelwise(view)

    best_class(network, picture(4, 6), Eval(scales=(1.0, 0.5), flip=True))
    assert len(views) == 4
    assert torch.equal(views[1], views[0].flip(-1))
    assert torch.equal(views[3], views[2].flip(-1))


@pytest.mark.parametrize(
    ("height", "width"), [(64, 64), (65, 97), (31, 201), (200, 17), (128, 129), (33, 32)]
)
def test_tiles_of_a_network_that_looks_at_single_pixels_give_the_whole(
    height: int, width: int
) -> None:
    whole = picture(height, width)
    result = tiled(pixelwise, whole, 32)
    assert result.shape == (1, CLASSES, height, width)
    assert torch.allclose(result, pixelwise(whole).log_softmax(1), atol=1e-4)


@pytest.mark.parametrize(("height", "width"), [(65, 97), (31, 201), (33, 500)])
def test_tiles_cover_every_pixel_and_overlap_by_a_quarter(height: int, width: int) -> None:
    place = torch.arange(height * width, dtype=torch.float64).view(1, 1, height, width)
    covered = torch.zeros(height * width)
    columns = set()

    def network(view: Tensor) -> Tensor:
        assert view.shape[-2] <= 32
        assert view.shape[-1] <= 32
        inside = view[0, 0].long()
        covered[inside.flatten()] += 1
        columns.add(int(inside[0, 0]) % width)
        return torch.zeros(1, CLASSES, *view.shape[-2:])

    tiled(network, place.expand(1, 3, -1, -1), 32)
    assert covered.min() >= 1
    starts = sorted(columns)
    assert starts[0] == 0
    assert starts[-1] == max(0, width - 32)
    assert all(b - a <= 24 + 1 for a, b in itertools.pairwise(starts))


def test_picture_no_larger_than_a_tile_is_seen_whole() -> None:
    whole = picture(20, 32)
    assert torch.equal(tiled(looking_around, whole, 32), looking_around(whole))


def test_middle_of_a_tile_counts_more_than_its_edge() -> None:
    # Two tiles, 0-31 and 24-55, that disagree: in their overlap the nearer middle wins.
    seen = []

    def network(view: Tensor) -> Tensor:
        seen.append(view)
        logits = torch.zeros(1, CLASSES, *view.shape[-2:])
        logits[:, len(seen)] = 5
        return logits

    result = tiled(network, picture(32, 56), 32).argmax(1)[0]
    assert len(seen) == 2
    assert (result[16, :28] == 1).all()
    assert (result[16, 28:] == 2).all()


def test_tiles_and_scales_go_together() -> None:
    whole = picture(80, 100)
    for scales in ((1.0,), (0.5, 1.0)):
        assert torch.equal(
            best_class(pixelwise, whole, Eval(scales=scales, tile=64)),
            best_class(pixelwise, whole, Eval(scales=scales)),
        )


def test_sure_network_gives_the_right_class_in_tiles_at_several_scales() -> None:
    def sure(view: Tensor) -> Tensor:
        # Differences of 400: the probabilities of all others are rounded to 0.
        return (
            pixelwise(view).argmax(1, keepdim=True).eq(torch.arange(CLASSES).view(1, -1, 1, 1))
            * 400.0
        )

    flat = picture(1, 1).expand(1, 3, 96, 80).clone()
    expected = int(pixelwise(flat)[0, :, 0, 0].argmax())
    assert (tiled(sure, flat, 64).isfinite()).all()
    classes = best_class(sure, flat, Eval(scales=(0.9, 1.0), flip=True, tile=64))
    assert (classes == expected).all()

"""Class ids and probabilities compared with a reference that resizes whole maps."""

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from drn_cli.inference import score_maps
from drn_cli.inference.score_maps import ViewScores, argmax_classes, probabilities
from drn_cli.inference.views import view_size
from drn_cli.networks.models import upsample

CLASSES = 5
SIZES = [(1, 1), (8, 8), (13, 17), (40, 56), (3, 131), (97, 9)]
MIRRORED = (False, True)
PAPER = (0.5, 0.75, 1.0, 1.25, 1.5, 1.75)


def seen(
    height: int,
    width: int,
    stride: int,
    scales: Sequence[float] = (1.0,),
    mirrored: Sequence[bool] = (False,),
    classes: int = CLASSES,
) -> list[ViewScores]:
    """Return random scores of the views of an image."""
    random = torch.Generator().manual_seed(height + 1000 * width)
    maps = []
    for scale in scales:
        rows, columns = view_size(height, width, scale)
        for mirror in mirrored:
            shape = (-(-rows // stride), classes, -(-columns // stride))
            scores = 3 * torch.randn(shape, generator=random)
            maps.append(ViewScores(scores, rows, columns, stride, mirror))
    return maps


def step_by_step(maps: Sequence[ViewScores], height: int, width: int) -> Tensor:
    """Return the sum of the views' log-probabilities, float64 `(C, height, width)`."""
    total = torch.zeros(maps[0].scores.shape[1], height, width, dtype=torch.float64)
    for one in maps:
        logits = one.scores.double().transpose(0, 1)[None]
        if one.stride == 8:
            logits = upsample(logits, one.height, one.width)
        assert logits.shape[2:] == (one.height, one.width)
        if one.mirrored:
            logits = logits.flip(3)
        scores = F.log_softmax(logits, 1)
        total += F.interpolate(scores, (height, width), mode="bilinear", antialias=True)[0]
    return total


def disagreement(classes: Tensor, scores: Tensor) -> float:
    """Return the largest gap between the best score and that of the class; 0 up to rounding."""
    chosen = scores.gather(0, classes.long()[None])[0]
    return float((scores.max(0).values - chosen).max())


@pytest.mark.parametrize("stride", [8, 1])
@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize(
    ("scales", "mirrored"),
    [
        ((1.0,), (False,)),
        ((1.0,), (True,)),
        ((0.5,), (False,)),
        ((1.75,), (True,)),
        ((0.3, 3.1), MIRRORED),
        (PAPER, (False,)),
        (PAPER, MIRRORED),
    ],
    ids=str,
)
def test_classes_and_probabilities_equal_whole_maps(
    size: tuple[int, int], stride: int, scales: tuple[float, ...], mirrored: tuple[bool, ...]
) -> None:
    maps = seen(*size, stride, scales, mirrored)
    before = [one.scores.clone() for one in maps]
    expected = step_by_step(maps, *size)

    classes = argmax_classes(maps, *size)
    assert classes.shape == size
    assert classes.dtype == torch.uint8
    assert disagreement(classes, expected) < 1e-4

    shares = probabilities(maps, *size)
    assert shares.dtype == torch.float32
    torch.testing.assert_close(shares.sum(0), torch.ones(size))
    mean = (expected / len(maps)).softmax(0)
    torch.testing.assert_close(shares.double(), mean, rtol=0, atol=1e-5)
    assert disagreement(classes, shares) < 1e-5
    assert all(torch.equal(one.scores, scores) for one, scores in zip(maps, before, strict=True))


@pytest.mark.parametrize("columns", [1, 7, 64, 1000])
@pytest.mark.parametrize("band", [1, 5 * 4 * CLASSES * 61, 1 << 30])
def test_bands_and_column_blocks_do_not_matter(
    monkeypatch: pytest.MonkeyPatch, band: int, columns: int
) -> None:
    size = (53, 61)
    maps = seen(*size, 8, (0.5, 1.0, 1.75), MIRRORED)
    expected = probabilities(maps, *size)
    monkeypatch.setitem(score_maps.BAND, "cpu", band)
    monkeypatch.setattr(score_maps, "COLUMNS", columns)
    found = probabilities(maps, *size)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)
    assert disagreement(argmax_classes(maps, *size), step_by_step(maps, *size)) < 1e-4


def test_image_wider_than_a_column_block() -> None:
    size = (9, 2 * score_maps.COLUMNS + 77)
    maps = seen(*size, 8, (0.75, 1.0), MIRRORED)
    assert disagreement(argmax_classes(maps, *size), step_by_step(maps, *size)) < 1e-4


def test_cached_weights_of_similar_sizes() -> None:
    # Weights are cached.
    for size in ((40, 24), (24, 40), (40, 25), (24, 24)):
        for stride in (8, 1):
            for mirrored in ((False,), (True,)):
                maps = seen(*size, stride, (1.0, 1.5), mirrored)
                assert disagreement(argmax_classes(maps, *size), step_by_step(maps, *size)) < 1e-4


def test_class_254() -> None:
    maps = seen(16, 24, 8, classes=255)
    maps[0].scores[:, 254] = 100
    assert (argmax_classes(maps, 16, 24) == 254).all()


def test_probabilities_of_extreme_scores() -> None:
    maps = seen(16, 24, 8, (1.0, 0.5))
    huge = [ViewScores(one.scores * 1e4, one.height, one.width, one.stride) for one in maps]
    shares = probabilities(huge, 16, 24)
    assert shares.isfinite().all()
    torch.testing.assert_close(shares.sum(0), torch.ones(16, 24))

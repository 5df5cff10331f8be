"""Crops of a classifier, against torchvision's reference transforms."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as reference

from drn_cli.data.images import Pixels, read_image
from drn_cli.data.resized_crop import CropParams, ResizedCrop, center_crop, resample, ten_crops

# Height and width: like ImageNet's, odd, square, smaller than a crop, one pixel, extreme.
SIZES = [
    (375, 500),
    (501, 333),
    (256, 256),
    (257, 256),
    (100, 60),
    (1, 1),
    (1, 9),
    (2, 90),
    (90, 7),
]


def drawn(height: int, width: int, seed: int = 0) -> Pixels:
    """Edges, gradients and noise."""
    random = np.random.default_rng((seed, height, width))
    down, across = np.mgrid[:height, :width]
    waves = [np.sin(down / (7 + 5 * n)) * np.cos(across / (23 - 4 * n)) for n in range(3)]
    edges = ((down // 11 + across // 17) % 2)[..., None] * 90
    noisy = 90 + 60 * np.stack(waves, axis=-1) + edges + random.normal(0, 12, (height, width, 3))
    return np.clip(noisy, 0, 255).astype(np.uint8)


def tensor(image: Pixels) -> torch.Tensor:
    return torch.from_numpy(image.copy()).permute(2, 0, 1).contiguous()


def pixels(image: torch.Tensor) -> Pixels:
    return image.permute(1, 2, 0).numpy()


def difference(one: Pixels, other: Pixels) -> np.ndarray:
    assert one.shape == other.shape
    assert one.dtype == other.dtype == np.uint8
    return np.abs(one.astype(int) - other)


def check_resized_crop(image: Pixels, window: CropParams, size: int) -> None:
    box = (window.top, window.left, window.height, window.width)
    made = ResizedCrop(size).apply(image, window)
    expected = reference.resized_crop(tensor(image), *box, [size, size], antialias=True)
    pillow = reference.resized_crop(Image.fromarray(image), *box, [size, size], antialias=True)
    if window.mirrored:
        expected = reference.horizontal_flip(expected)
        pillow = reference.horizontal_flip(pillow)
    assert difference(made, pixels(expected)).max() <= 1
    from_pillow = difference(made, np.asarray(pillow))
    assert from_pillow.max() <= 1
    assert (from_pillow > 0).mean() < 0.3
    assert made.flags.c_contiguous


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_training_crop_matches_torchvision(height: int, width: int) -> None:
    image = drawn(height, width)
    for index in range(6):
        window = ResizedCrop(64).draw(0, 0, index, height, width)
        check_resized_crop(image, window, 64)
    check_resized_crop(image, CropParams(0, 0, height, width, False), 224)


@pytest.mark.parametrize(("height", "width"), SIZES)
@pytest.mark.parametrize(("size", "resize"), [(224, 256), (99, 120), (64, 64), (65, 40)])
def test_center_crop_matches_torchvision(height: int, width: int, size: int, resize: int) -> None:
    image = drawn(height, width)
    made = center_crop(image, size, resize)
    for source, name in ((tensor(image), "tensor"), (Image.fromarray(image), "pillow")):
        resized = reference.resize(source, [resize], antialias=True)
        expected = reference.center_crop(resized, [size, size])
        array = pixels(expected) if name == "tensor" else np.asarray(expected)
        assert difference(made, array).max() <= 1, name
    assert made.flags.c_contiguous


@pytest.mark.parametrize(("height", "width"), SIZES)
@pytest.mark.parametrize(("size", "resize"), [(99, 120), (64, 64)])
def test_ten_crops_match_torchvision(height: int, width: int, size: int, resize: int) -> None:
    image = drawn(height, width)
    made = ten_crops(image, size, resize)
    resized = reference.resize(tensor(image), [resize], antialias=True)
    expected = [pixels(crop) for crop in reference.ten_crop(resized, [size, size])]
    assert difference(made, np.stack(expected)).max() <= 1


def test_ten_crops_of_a_small_image_are_padded_with_black() -> None:
    made = ten_crops(np.full((10, 10, 3), 200, np.uint8), 32, 16)
    assert made.shape == (10, 32, 32, 3)
    assert (made[:, 8:24, 8:24] == 200).all()
    assert made.sum() == 10 * 16 * 16 * 3 * 200


def test_photographs_match_torchvision(camvid_source: Path) -> None:
    photographs = sorted((camvid_source / "val").glob("*.png"))[::40]
    assert photographs
    for number, path in enumerate(photographs):
        image = read_image(path)
        for index in range(4):
            window = ResizedCrop().draw(number, 0, index, *image.shape[:2])
            check_resized_crop(image, window, 224)
        resized = reference.resize(tensor(image), [256], antialias=True)
        centre = pixels(reference.center_crop(resized, [224, 224]))
        assert difference(center_crop(image), centre).max() <= 1
        ten = np.stack([pixels(crop) for crop in reference.ten_crop(resized, [224, 224])])
        assert difference(ten_crops(image), ten).max() <= 1


def test_read_only_image_is_accepted() -> None:
    image = drawn(40, 50)
    image.flags.writeable = False
    assert resample(image, 20, 25).shape == (20, 25, 3)
    assert resample(image, 40, 50) is image
    assert ResizedCrop(8).apply(image, CropParams(0, 0, 40, 50, True)).shape == (8, 8, 3)


def test_draw_is_a_function_of_seed_epoch_and_sample() -> None:
    crop = ResizedCrop()
    first = crop.draw(1, 2, 3, 375, 500)
    assert crop.draw(1, 2, 3, 375, 500) == first
    others = [crop.draw(*numbers, 375, 500) for numbers in ((0, 2, 3), (1, 0, 3), (1, 2, 0))]
    assert len({first, *others}) == 4


def test_flip_does_not_change_the_window() -> None:
    plain, mirrored = ResizedCrop(8, flip=False), ResizedCrop(8, flip=True)
    image = drawn(60, 80)
    seen = set()
    for index in range(20):
        one = plain.draw(0, 0, index, 60, 80)
        other = mirrored.draw(0, 0, index, 60, 80)
        assert not one.mirrored
        assert (one.top, one.left, one.height, one.width) == (
            other.top,
            other.left,
            other.height,
            other.width,
        )
        upright, turned = plain.apply(image, one), mirrored.apply(image, other)
        assert (turned == (upright[:, ::-1] if other.mirrored else upright)).all()
        seen.add(other.mirrored)
    assert seen == {False, True}


def test_flip_does_not_depend_on_the_image() -> None:
    crop = ResizedCrop()
    for index in range(20):
        sides = {crop.draw(0, 0, index, *size).mirrored for size in SIZES}
        assert len(sides) == 1


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_windows_are_inside_the_image(height: int, width: int) -> None:
    for index in range(200):
        window = ResizedCrop().draw(0, 0, index, height, width)
        assert window.height > 0 and window.width > 0
        assert 0 <= window.top <= height - window.height
        assert 0 <= window.left <= width - window.width


def test_windows_reach_all_edges() -> None:
    drawn = [ResizedCrop().draw(0, 0, index, 8, 8) for index in range(100)]
    small = [window for window in drawn if window.height < 8 and window.width < 8]
    assert {0, 1} <= {window.top for window in small} & {window.left for window in small}
    assert any(window.top + window.height == 8 for window in small)
    assert any(window.left + window.width == 8 for window in small)


def test_windows_are_distributed_as_in_torchvision() -> None:
    height, width, count = 300, 400, 3000
    torch.manual_seed(0)
    transform = v2.RandomResizedCrop(224)
    blank = torch.zeros(3, height, width)
    theirs = [transform.make_params([blank]) for _ in range(count)]
    ours = [ResizedCrop().draw(0, 0, index, height, width) for index in range(count)]

    def traits(top: int, left: int, down: int, across: int) -> list[float]:
        area = down * across / (height * width)
        lying = [top / (height - down + 1), left / (width - across + 1)]
        return [area, area**2, math.log(across / down), math.log(across / down) ** 2, *lying]

    one = np.array([traits(w.top, w.left, w.height, w.width) for w in ours])
    other = np.array([traits(t["top"], t["left"], t["height"], t["width"]) for t in theirs])
    error = np.sqrt((one.var(axis=0) + other.var(axis=0)) / count)
    assert (np.abs(one.mean(axis=0) - other.mean(axis=0)) < 4 * error).all()
    assert min(w.height * w.width for w in ours) > 0.078 * height * width
    assert max(w.height * w.width for w in ours) > 0.95 * height * width
    assert min(w.width / w.height for w in ours) > 0.74
    assert max(w.width / w.height for w in ours) < 1.35
    assert 0.47 < np.mean([w.mirrored for w in ours]) < 0.53


@pytest.mark.parametrize(("height", "width"), [(1000, 10), (7, 900), (1, 60), (50, 1)])
def test_fallback_window_is_centered(height: int, width: int) -> None:
    # No window of 8% of such an image fits, so torchvision has no choice either.
    expected = v2.RandomResizedCrop(224).make_params([torch.zeros(3, height, width)])
    window = ResizedCrop(flip=False).draw(0, 0, 0, height, width)
    assert window == CropParams(
        expected["top"], expected["left"], expected["height"], expected["width"], False
    )


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((30, 4000), (0, 1980, 30, 40)),
        ((30, 4001), (0, 1980, 30, 40)),
        ((4000, 30), (1980, 0, 40, 30)),
        ((1, 1000), (0, 499, 1, 1)),
    ],
)
def test_image_too_narrow_for_any_window_gives_the_largest_allowed_one(
    size: tuple[int, int], expected: tuple[int, ...]
) -> None:
    window = ResizedCrop(flip=False).draw(0, 0, 0, *size)
    assert window == CropParams(*expected, False)

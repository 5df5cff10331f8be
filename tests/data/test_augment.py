import itertools
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import step_by_step

from drn_cli.data.augment import Augmentation, AugmentParams
from drn_cli.data.images import read_image, read_label

STILL = AugmentParams(angle=0, ratio=1, down=0, across=0, mirrored=False)


def pair(height: int, width: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    image = random.integers(0, 256, (height, width, 3)).astype(np.uint8)
    return image, random.integers(0, 19, (height, width)).astype(np.uint8)


def draws(augmentation: Augmentation, count: int) -> list[AugmentParams]:
    return [augmentation.draw(7, epoch, index) for epoch in range(20) for index in range(count)]


def decibels(result: np.ndarray, expected: np.ndarray) -> float:
    """Return the peak signal-to-noise ratio of 8-bit pixels."""
    error = np.mean((result.astype(np.float64) - expected) ** 2)
    return float(10 * np.log10(255**2 / error)) if error else np.inf


@pytest.mark.parametrize("seed", range(40))
def test_crop_without_rotation_equals_the_steps_done_one_by_one(seed: int) -> None:
    random = np.random.default_rng(seed)
    height, width = (int(n) for n in random.integers(5, 70, 2))
    augmentation = Augmentation(crop=int(random.integers(1, 90)), scale=2)
    image, label = pair(height, width, seed)
    draw = augmentation.draw(1, 2, seed)
    if seed % 4 == 0:  # sides at which a label's place falls between two pixels
        draw = replace(draw, ratio=(0.5, 0.75, 1.5, 2)[seed // 4 % 4])
    image = 80 + image // 3  # filters overshoot: no clipping between Pillow's two passes
    result = augmentation.apply(image, label, draw)
    expected = step_by_step.augment(image, label, draw, augmentation.crop)
    assert np.abs(result[0].astype(int) - expected[0]).max() <= 1
    assert np.array_equal(result[1], expected[1])


PHOTOGRAPHS = ("0001TP_006690", "0006R0_f01920", "0016E5_07961")


@pytest.mark.parametrize("name", PHOTOGRAPHS)
@pytest.mark.parametrize("ratio", [0.5, 0.61, 0.75, 0.93, 1, 1.07, 1.3, 1.61, 1.9, 2])
def test_photographs_match_the_steps_done_one_by_one(
    camvid_source: Path, name: str, ratio: float
) -> None:
    splits = ("train", "val")
    split = next(split for split in splits if (camvid_source / split / f"{name}.png").is_file())
    image = read_image(camvid_source / split / f"{name}.png")
    label = read_label(camvid_source / f"{split}annot" / f"{name}.png")
    augmentation = Augmentation(crop=160)
    for angle in range(-10, 11):
        random = np.random.default_rng((int(ratio * 100), angle + 10))
        draw = AugmentParams(
            angle, ratio, random.random(), random.random(), mirrored=angle % 2 == 0
        )
        result = augmentation.apply(image, label, draw)
        expected = step_by_step.augment(image, label, draw, 160)
        assert decibels(result[0], expected[0]) > 45, draw
        assert (result[1] == expected[1]).mean() > 0.995, draw


@pytest.mark.parametrize(("height", "width", "crop"), [(40, 60, 72), (33, 70, 40), (70, 33, 90)])
@pytest.mark.parametrize("angle", [-10, 7])
@pytest.mark.parametrize("ratio", [0.5, 1, 1.4])
def test_reflection_matches_the_steps_done_one_by_one(
    height: int, width: int, crop: int, angle: int, ratio: float
) -> None:
    y, x = np.indices((height, width))
    waves = [np.sin(y / 5) * 60 + 128, np.cos(x / 4) * 60 + 128, (x + y) * 255 / (height + width)]
    image, label = np.stack(waves, axis=-1).astype(np.uint8), (x // 8).astype(np.uint8)
    for at in (0.0, 0.5, 0.999):
        draw = AugmentParams(angle, ratio, at, 1 - at - 1e-9, mirrored=False)
        result = Augmentation(crop).apply(image, label, draw)
        expected = step_by_step.augment(image, label, draw, crop)
        assert decibels(result[0], expected[0]) > 45
        assert (result[1] == expected[1]).mean() > 0.99


def disc(height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Draw a bright off-center disc with a soft edge on black, and its label."""
    y, x = np.indices((height, width))
    outside = np.hypot(y - 54, x - 75) - 12
    bright = np.clip(0.5 - outside, 0, 1) * 255
    return np.repeat(bright.astype(np.uint8)[..., None], 3, axis=2), (outside < 0).astype(np.uint8)


def centre(weights: np.ndarray) -> np.ndarray:
    y, x = np.indices(weights.shape)
    return np.array([(weights * y).sum(), (weights * x).sum()]) / weights.sum()


@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize("ratio", [0.5, 0.62, 0.75, 0.87, 1, 1.13, 1.5, 1.77, 2])
def test_image_and_label_stay_within_half_a_pixel(ratio: float, mirrored: bool) -> None:
    image, label = disc(120, 141)
    for angle in range(-10, 11):
        draw = AugmentParams(angle, ratio, down=0.45, across=0.55, mirrored=mirrored)
        crop, labels = Augmentation(crop=58).apply(image, label, draw)
        apart = centre(crop[..., 0].astype(float)) - centre((labels == 1).astype(float))
        assert np.abs(apart).max() < 0.5, (angle, apart)
        area = (labels == 1).sum() / (np.pi * 12**2 * ratio**2)
        assert 0.85 < area < 1.15


def test_image_smaller_than_the_crop_is_centered_and_reflected() -> None:
    image, label = pair(3, 4)
    padded, labels = Augmentation(crop=9).apply(image, label, STILL)
    inside = np.zeros((9, 9), bool)
    inside[3:6, 2:6] = True
    assert np.array_equal(padded[inside].reshape(3, 4, 3), image)
    assert np.array_equal(labels[inside].reshape(3, 4), label)
    assert (labels[~inside] == 255).all()
    assert np.array_equal(padded[2, 2:6], image[1])  # about the edge pixel, without repeating it
    assert np.array_equal(padded[6, 2:6], image[1])
    assert np.array_equal(padded[3:6, 1], image[:, 1])
    assert np.array_equal(padded[3:6, 6], image[:, 2])


def test_augments_image_of_one_pixel() -> None:
    image, label = np.array([[[9, 8, 7]]], np.uint8), np.array([[3]], np.uint8)
    augmentation = Augmentation(crop=5, scale=2, rotate=10)
    for draw in draws(augmentation, 3):
        crop, labels = augmentation.apply(image, label, draw)
        assert crop.shape == (5, 5, 3)
        assert (crop == [9, 8, 7]).all()
        assert set(np.unique(labels)) == {3, 255}


def test_flips_image_and_label() -> None:
    image, label = pair(6, 6)
    crop, labels = Augmentation(crop=6).apply(image, label, replace(STILL, mirrored=True))
    assert np.array_equal(crop, image[:, ::-1])
    assert np.array_equal(labels, label[:, ::-1])


def test_crops_reach_the_last_row_and_column() -> None:
    image, label = pair(9, 10)
    augmentation = Augmentation(crop=8, flip=False)
    seen = Counter()
    for draw in draws(augmentation, 60):
        crop, labels = augmentation.apply(image, label, draw)
        places = [
            (y, x)
            for y, x in itertools.product(range(2), range(3))
            if np.array_equal(image[y : y + 8, x : x + 8], crop)
        ]
        assert len(places) == 1
        y, x = places[0]
        assert np.array_equal(labels, label[y : y + 8, x : x + 8])
        seen[places[0]] += 1
    assert set(seen) == set(itertools.product(range(2), range(3)))
    assert min(seen.values()) > 0.7 * 1200 / 6


def test_result_converts_to_torch() -> None:
    image, label = pair(9, 10)
    for mirrored in (False, True):
        for part in Augmentation(crop=8).apply(image, label, replace(STILL, mirrored=mirrored)):
            assert part.dtype == np.uint8
            assert part.flags.c_contiguous
            assert all(stride > 0 for stride in part.strides)


def test_draws_are_a_function_of_seed_epoch_and_sample() -> None:
    augmentation = Augmentation(crop=8, scale=2, rotate=10)
    assert augmentation.draw(1, 2, 3) == augmentation.draw(1, 2, 3)
    numbers = list(itertools.product(range(3), range(5), range(20)))
    assert len({augmentation.draw(*number) for number in numbers}) == len(numbers)


def test_angles_are_uniform_integers_including_both_ends() -> None:
    angles = Counter(draw.angle for draw in draws(Augmentation(crop=8, rotate=5), 110))
    assert set(angles) == set(range(-5, 6))
    assert all(type(angle) is int for angle in angles)
    assert min(angles.values()) > 0.7 * 200
    assert max(angles.values()) < 1.3 * 200


def test_ratios_are_uniform() -> None:
    ratios = np.array([draw.ratio for draw in draws(Augmentation(crop=8, scale=2), 100)])
    assert ratios.min() >= 0.5
    assert ratios.max() <= 2
    counts, _ = np.histogram(ratios, bins=10, range=(0.5, 2))
    assert counts.min() > 0.7 * 200
    assert counts.max() < 1.3 * 200


def test_positions_are_uniform_below_one() -> None:
    drawn = draws(Augmentation(crop=8), 100)
    for values in ([draw.down for draw in drawn], [draw.across for draw in drawn]):
        assert min(values) >= 0
        assert max(values) < 1
        counts, _ = np.histogram(values, bins=10, range=(0, 1))
        assert counts.min() > 0.7 * 200


def test_parameters_are_independent() -> None:
    drawn = draws(Augmentation(crop=8, scale=2, rotate=90), 100)
    values = [(d.angle, d.ratio, d.down, d.across, d.mirrored) for d in drawn]
    correlation = np.corrcoef(np.array(values, np.float64).T)
    assert np.abs(correlation - np.eye(5)).max() < 0.1


def test_about_half_are_flipped() -> None:
    mirrored = [draw.mirrored for draw in draws(Augmentation(crop=8), 100)]
    assert 900 < sum(mirrored) < 1100


@pytest.mark.parametrize(
    ("change", "field", "value"),
    [({"rotate": 0}, "angle", 0), ({"scale": 1.0}, "ratio", 1), ({"flip": False}, "mirrored", 0)],
)
def test_disabling_one_augmentation_keeps_the_others(
    change: dict[str, float], field: str, value: float
) -> None:
    everything = Augmentation(crop=8, scale=2, rotate=10)
    for with_it, without in zip(
        draws(everything, 5), draws(replace(everything, **change), 5), strict=True
    ):
        assert getattr(without, field) == value
        assert replace(without, **{field: getattr(with_it, field)}) == with_it


def test_image_and_label_stay_aligned() -> None:
    # Large blocks whose colour is their label: away from the blocks' edges both must agree.
    label = np.kron(np.arange(30).reshape(5, 6), np.ones((24, 24))).astype(np.uint8)
    image = np.stack([label * 8, 255 - label * 8, label * 4], axis=-1)
    augmentation = Augmentation(crop=64, scale=2, rotate=10)
    for index in range(25):
        crop, labels = augmentation.apply(image, label, augmentation.draw(3, 0, index))
        windows = np.lib.stride_tricks.sliding_window_view(labels, (9, 9))
        flat = (windows == windows[..., :1, :1]).all(axis=(2, 3)) & (windows[..., 0, 0] != 255)
        middle, colours = labels[4:-4, 4:-4][flat], crop[4:-4, 4:-4][flat].astype(int)
        assert len(middle) > 100
        wrong = np.abs(colours[:, 0] - middle.astype(int) * 8) > 2
        assert not wrong.any()

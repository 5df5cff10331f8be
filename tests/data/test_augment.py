import itertools
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from drn_cli.data.augment import Augmentation, Draw, pad, resize, rotate

Pair = tuple[np.ndarray, np.ndarray]
STILL = Draw(angle=0, ratio=1, down=0, across=0, mirrored=False)


def pair(height: int, width: int, seed: int = 0) -> Pair:
    random = np.random.default_rng(seed)
    image = random.integers(0, 256, (height, width, 3)).astype(np.uint8)
    return image, random.integers(0, 19, (height, width)).astype(np.uint8)


def step_by_step(image: np.ndarray, label: np.ndarray, draw: Draw, crop: int) -> Pair:
    """Follow the original's words: whole pictures at every step, the middle cut out."""
    height, width = label.shape
    if draw.angle:
        border = ((height, height), (width, width))
        middle = (width, height, 2 * width, 2 * height)
        picture = Image.fromarray(np.pad(image, (*border, (0, 0)), "reflect"))
        labels = Image.fromarray(np.pad(label, border, constant_values=255))
        picture = picture.rotate(draw.angle, resample=Image.Resampling.BILINEAR).crop(middle)
        labels = labels.rotate(draw.angle, resample=Image.Resampling.NEAREST).crop(middle)
        image, label = np.asarray(picture), np.asarray(labels)
    if draw.ratio != 1:
        size = (int(width * draw.ratio), int(height * draw.ratio))
        shrinks = draw.ratio < 1
        kernel = Image.Resampling.LANCZOS if shrinks else Image.Resampling.BICUBIC
        image = np.asarray(Image.fromarray(image).resize(size, kernel))
        label = np.asarray(Image.fromarray(label).resize(size, Image.Resampling.NEAREST))
    height, width = label.shape
    top, left = max(0, crop - height) // 2, max(0, crop - width) // 2
    bottom, right = max(0, crop - height) - top, max(0, crop - width) - left
    image = np.pad(image, ((top, bottom), (left, right), (0, 0)), "reflect")
    label = np.pad(label, ((top, bottom), (left, right)), constant_values=255)
    height, width = label.shape
    y, x = int(draw.down * (height - crop + 1)), int(draw.across * (width - crop + 1))
    image, label = image[y : y + crop, x : x + crop], label[y : y + crop, x : x + crop]
    if draw.mirrored:
        image, label = np.fliplr(image), np.fliplr(label)
    return image, label


def draws(augmentation: Augmentation, count: int) -> list[Draw]:
    return [augmentation.draw(7, epoch, index) for epoch in range(20) for index in range(count)]


def rotated_whole(image: np.ndarray, label: np.ndarray, angle: int) -> Pair:
    height, width = label.shape
    crops = [
        step_by_step(
            image, label, replace(STILL, angle=angle, down=at, across=at), min(label.shape)
        )
        for at in (0, 0.999)
    ]
    (first, first_label), (last, last_label) = crops
    axis, rest = (0, height - width) if height > width else (1, width - height)
    if not rest:
        return first, first_label
    tail = slice(-rest, None)
    cut = (tail,) if axis == 0 else (slice(None), tail)
    return (
        np.concatenate([first, last[cut]], axis),
        np.concatenate([first_label, last_label[cut]], axis),
    )


SIZES = pytest.mark.parametrize(("height", "width"), [(40, 60), (60, 41), (33, 33), (61, 48)])


@SIZES
@pytest.mark.parametrize("angle", [-180, -135, -90, -45, -10, -1, 1, 3, 10, 30, 45, 90, 180])
def test_rotation_is_that_of_the_picture_reflected_all_around(
    height: int, width: int, angle: int
) -> None:
    image, label = pair(height, width)
    turned, _ = rotate(image, label, angle)
    assert np.array_equal(turned, rotated_whole(image, label, angle)[0])


@SIZES
@pytest.mark.parametrize("angle", [-90, -10, -1, 1, 3, 10, 30, 180])
@pytest.mark.parametrize("axis", [0, 1])
def test_rotated_labels_come_from_the_same_place(
    height: int, width: int, angle: int, axis: int
) -> None:
    # Labels are their own rows or columns. Where a pixel falls between two, Pillow's fixed-point
    # arithmetic picks one or the other, depending on the width of the border.
    label = np.indices((height, width))[axis].astype(np.uint8)
    image = np.zeros((height, width, 3), np.uint8)
    _, labels = rotate(image, label, angle)
    _, expected = rotated_whole(image, label, angle)
    different = labels != expected
    assert different.mean() < 0.003
    inside = (labels != 255) & (expected != 255)
    assert np.abs(labels.astype(int) - expected)[inside].max() <= 1
    assert (inside | (labels == expected)).mean() > 0.998


def test_rotation_by_degrees_is_counter_clockwise() -> None:
    image, label = pair(5, 5)
    turned, labels = rotate(image, label, 90)
    assert np.array_equal(turned, np.rot90(image))
    assert np.array_equal(labels, np.rot90(label))


def test_label_beyond_the_picture_is_ignored_after_a_rotation() -> None:
    image, label = np.full((40, 40, 3), 200, np.uint8), np.zeros((40, 40), np.uint8)
    turned, labels = rotate(image, label, 45)
    assert labels[0, 0] == labels[0, -1] == labels[-1, 0] == labels[-1, -1] == 255
    assert labels[20, 20] == labels[1, 20] == 0
    assert set(np.unique(labels)) == {0, 255}
    assert (turned == 200).all()  # the picture is reflected instead


@pytest.mark.parametrize("seed", range(30))
def test_crop_without_rotation_equals_the_steps_done_one_by_one(seed: int) -> None:
    random = np.random.default_rng(seed)
    height, width = (int(n) for n in random.integers(5, 70, 2))
    augmentation = Augmentation(crop=int(random.integers(1, 90)), scale=2)
    image, label = pair(height, width, seed)
    draw = augmentation.draw(1, 2, seed)
    result = augmentation.apply(image, label, draw)
    expected = step_by_step(image, label, draw, augmentation.crop)
    assert np.array_equal(result[0], expected[0])
    assert np.array_equal(result[1], expected[1])


@pytest.mark.parametrize("seed", range(30))
def test_crop_with_rotation_equals_the_steps_done_one_by_one(seed: int) -> None:
    random = np.random.default_rng(seed)
    height, width = (int(n) for n in random.integers(40, 70, 2))
    augmentation = Augmentation(crop=int(random.integers(32, 90)), scale=2, rotate=10)
    image, label = pair(height, width, seed)
    draw = augmentation.draw(1, 2, seed)
    result = augmentation.apply(image, label, draw)
    expected = step_by_step(image, label, draw, augmentation.crop)
    assert np.array_equal(result[0], expected[0])
    assert (result[1] != expected[1]).mean() < 0.02  # a label between two pixels, see above


@pytest.mark.parametrize("ratio", [0.37, 0.5, 1.3, 2])
def test_resized_labels_are_labels_and_sizes_are_truncated(ratio: float) -> None:
    image, label = pair(33, 47)
    label[label > 9] = 255
    small, labels = resize(image, label, ratio)
    assert labels.shape == small.shape[:2] == (int(33 * ratio), int(47 * ratio))
    assert set(np.unique(labels)) <= set(np.unique(label))


def test_resize_never_loses_the_picture() -> None:
    image, label = pair(1, 3)
    small, labels = resize(image, label, 0.25)
    assert small.shape == (1, 1, 3)
    assert labels.shape == (1, 1)


def test_picture_smaller_than_the_crop_is_centred_and_reflected() -> None:
    image, label = pair(3, 4)
    padded, labels = pad(image, label, 8, 9)
    assert padded.shape == (8, 9, 3)
    inside = np.zeros((8, 9), bool)
    inside[2:5, 2:6] = True
    assert np.array_equal(padded[inside].reshape(3, 4, 3), image)
    assert np.array_equal(labels[inside].reshape(3, 4), label)
    assert (labels[~inside] == 255).all()
    assert np.array_equal(padded[1, 2:6], image[1])  # about the edge pixel, without repeating it
    assert np.array_equal(padded[5, 2:6], image[1])
    assert np.array_equal(padded[2:5, 1], image[:, 1])
    assert np.array_equal(padded[2:5, 6], image[:, 2])


def test_picture_of_the_crops_size_is_left_alone() -> None:
    image, label = pair(6, 7)
    padded, labels = pad(image, label, 6, 7)
    assert np.array_equal(padded, image)
    assert np.array_equal(labels, label)


def test_picture_of_one_pixel_can_be_augmented() -> None:
    image, label = np.array([[[9, 8, 7]]], np.uint8), np.array([[3]], np.uint8)
    augmentation = Augmentation(crop=5, scale=2, rotate=10)
    for draw in draws(augmentation, 3):
        crop, labels = augmentation.apply(image, label, draw)
        assert crop.shape == (5, 5, 3)
        assert (crop == [9, 8, 7]).all()
        assert set(np.unique(labels)) == {3, 255}


def test_mirror_swaps_left_and_right_of_both() -> None:
    image, label = pair(6, 6)
    crop, labels = Augmentation(crop=6).apply(image, label, replace(STILL, mirrored=True))
    assert np.array_equal(crop, image[:, ::-1])
    assert np.array_equal(labels, label[:, ::-1])


def test_crops_can_lie_anywhere_up_to_the_last_row_and_column() -> None:
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


def test_result_can_be_handed_to_torch() -> None:
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


def test_angles_are_whole_and_uniform_with_both_ends() -> None:
    angles = Counter(draw.angle for draw in draws(Augmentation(crop=8, rotate=5), 110))
    assert set(angles) == set(range(-5, 6))
    assert all(type(angle) is int for angle in angles)
    assert min(angles.values()) > 0.7 * 200
    assert max(angles.values()) < 1.3 * 200


def test_ratios_are_uniform_from_shrinking_to_growing() -> None:
    ratios = np.array([draw.ratio for draw in draws(Augmentation(crop=8, scale=2), 100)])
    assert ratios.min() >= 0.5
    assert ratios.max() <= 2
    counts, _ = np.histogram(ratios, bins=10, range=(0.5, 2))
    assert counts.min() > 0.7 * 200
    assert counts.max() < 1.3 * 200


def test_places_are_uniform_and_below_one() -> None:
    drawn = draws(Augmentation(crop=8), 100)
    for values in ([draw.down for draw in drawn], [draw.across for draw in drawn]):
        assert min(values) >= 0
        assert max(values) < 1
        counts, _ = np.histogram(values, bins=10, range=(0, 1))
        assert counts.min() > 0.7 * 200


def test_values_of_a_draw_do_not_depend_on_each_other() -> None:
    drawn = draws(Augmentation(crop=8, scale=2, rotate=90), 100)
    values = [(d.angle, d.ratio, d.down, d.across, d.mirrored) for d in drawn]
    correlation = np.corrcoef(np.array(values, np.float64).T)
    assert np.abs(correlation - np.eye(5)).max() < 0.1


def test_about_half_are_mirrored() -> None:
    mirrored = [draw.mirrored for draw in draws(Augmentation(crop=8), 100)]
    assert 900 < sum(mirrored) < 1100


@pytest.mark.parametrize(
    ("change", "field", "value"),
    [({"rotate": 0}, "angle", 0), ({"scale": 1.0}, "ratio", 1), ({"flip": False}, "mirrored", 0)],
)
def test_turning_one_kind_off_leaves_the_others_alone(
    change: dict[str, float], field: str, value: float
) -> None:
    everything = Augmentation(crop=8, scale=2, rotate=10)
    for with_it, without in zip(
        draws(everything, 5), draws(replace(everything, **change), 5), strict=True
    ):
        assert getattr(without, field) == value
        assert replace(without, **{field: getattr(with_it, field)}) == with_it


def test_picture_and_label_stay_aligned() -> None:
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

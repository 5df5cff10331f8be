import cv2
import numpy as np
import pytest
import step_by_step

from drn_cli.data.window import AxisSpan, CropWindow, crop, scaled_length


def whole(height: int, width: int) -> CropWindow:
    return CropWindow(AxisSpan(0, height), AxisSpan(0, width))


def noise(height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(0)
    image = random.integers(0, 256, (height, width, 3)).astype(np.uint8)
    return image, random.integers(0, 19, (height, width)).astype(np.uint8)


@pytest.mark.parametrize("angle", [90, -90, 180])
def test_rotation_is_counterclockwise(angle: int) -> None:
    image, label = noise(5, 5)
    turned, labels = crop(image, label, angle, 1, whole(5, 5))
    assert np.array_equal(turned, np.rot90(image, angle // 90))
    assert np.array_equal(labels, np.rot90(label, angle // 90))


def test_rotation_by_360_degrees_is_identity() -> None:
    image, label = noise(5, 7)
    turned, labels = crop(image, label, 360, 1, whole(5, 7))
    assert np.array_equal(turned, image)
    assert np.array_equal(labels, label)


def test_label_beyond_the_image_is_ignored_after_a_rotation() -> None:
    image, label = np.full((40, 40, 3), 200, np.uint8), np.zeros((40, 40), np.uint8)
    turned, labels = crop(image, label, 45, 1, whole(40, 40))
    assert labels[0, 0] == labels[0, -1] == labels[-1, 0] == labels[-1, -1] == 255
    assert labels[20, 20] == labels[1, 20] == 0
    assert set(np.unique(labels)) == {0, 255}
    assert (turned == 200).all()  # the image is reflected instead


@pytest.mark.parametrize(("height", "width"), [(40, 60), (60, 41), (33, 33)])
@pytest.mark.parametrize("angle", [-180, -135, -45, -10, -1, 1, 10, 30, 135])
def test_rotation_is_that_of_the_reflected_image(height: int, width: int, angle: int) -> None:
    image, label = noise(height, width)
    turned, labels = crop(image, label, angle, 1, whole(height, width))
    expected, expected_labels = step_by_step.rotate(image, label, angle)
    # Noise is the hardest: a 32nd of a pixel, which is OpenCV's finest step, is several levels.
    assert np.abs(turned.astype(int) - expected).mean() < 2
    assert (labels == expected_labels).mean() > 0.97


@pytest.mark.parametrize("angle", [-170, -135, -45, -8, 3, 30, 90.5, 180.5])
@pytest.mark.parametrize(("height", "width"), [(24, 37), (37, 24), (9, 60)])
def test_rotated_window_equals_the_rotation_of_the_reflected_image(
    height: int, width: int, angle: float
) -> None:
    """Every window, at the far edges too, against OpenCV on the image reflected all around."""
    image, label = noise(height, width)
    image = cv2.GaussianBlur(image, (0, 0), 1.5)  # 1/32 of a pixel must not matter
    margin = max(height, width)
    border = ((margin, margin), (margin, margin))
    reflected = np.pad(image, (*border, (0, 0)), "reflect")
    surrounded = np.pad(label, border, constant_values=255)
    centre = (margin + (width - 1) / 2, margin + (height - 1) / 2)
    matrix = cv2.getRotationMatrix2D(centre, angle, 1)
    size = (width + 2 * margin, height + 2 * margin)
    middle = (slice(margin, margin + height), slice(margin, margin + width))
    expected = cv2.warpAffine(reflected, matrix, size, flags=cv2.INTER_LINEAR)[middle]
    labels = cv2.warpAffine(surrounded, matrix, size, flags=cv2.INTER_NEAREST)[middle]
    random = np.random.default_rng(1)
    for _ in range(60):
        top, left = int(random.integers(0, height)), int(random.integers(0, width))
        rows = AxisSpan(top, int(random.integers(top + 1, height + 1)))
        columns = AxisSpan(left, int(random.integers(left + 1, width + 1)))
        window = CropWindow(rows, columns)
        part, part_labels = crop(image, label, angle, 1, window)
        assert np.abs(part.astype(int) - window.of(expected)).max() <= 3
        assert np.count_nonzero(part_labels != window.of(labels)) <= 1 + part_labels.size // 20


@pytest.mark.parametrize("ratio", [0.26, 0.5, 0.75, 0.9, 1.1, 4 / 3, 1.9])
@pytest.mark.parametrize(("height", "width"), [(33, 47), (47, 12), (3, 60)])
def test_resized_window_matches_pillow(height: int, width: int, ratio: float) -> None:
    image, label = noise(height, width)
    image = 80 + image // 3  # filters overshoot: no clipping between Pillow's two passes
    expected, expected_labels = step_by_step.resize(image, label, ratio)
    random = np.random.default_rng(2)
    for _ in range(60):
        top = int(random.integers(0, expected_labels.shape[0]))
        left = int(random.integers(0, expected_labels.shape[1]))
        rows = AxisSpan(top, int(random.integers(top + 1, expected_labels.shape[0] + 1)))
        columns = AxisSpan(left, int(random.integers(left + 1, expected_labels.shape[1] + 1)))
        window = CropWindow(rows, columns)
        part, labels = crop(image, label, 0, ratio, window)
        assert np.array_equal(labels, window.of(expected_labels))
        assert np.abs(part.astype(int) - window.of(expected)).max() <= 1


@pytest.mark.parametrize("ratio", [0.5, 0.7, 1, 1.6])
@pytest.mark.parametrize("angle", [0, 8])
def test_window_is_part_of_the_whole(ratio: float, angle: int) -> None:
    image, label = noise(61, 83)
    image = 80 + image // 3  # filters overshoot: no clipping between Pillow's two passes
    height, width = scaled_length(61, ratio), scaled_length(83, ratio)
    everything, labels = crop(image, label, angle, ratio, whole(height, width))
    assert everything.shape == (height, width, 3)
    random = np.random.default_rng(1)
    for _ in range(20):
        top, left = random.integers(0, height - 3), random.integers(0, width - 3)
        bottom, right = random.integers(top + 1, height + 1), random.integers(left + 1, width + 1)
        window = CropWindow(AxisSpan(int(top), int(bottom)), AxisSpan(int(left), int(right)))
        part, part_labels = crop(image, label, angle, ratio, window)
        # OpenCV rounds places to 1/32 of a pixel before version 5, Pillow each of two passes.
        assert np.abs(part.astype(int) - window.of(everything)).max() <= 4
        assert np.mean(part_labels == window.of(labels)) > 0.97


def test_sides_longer_than_opencv_supports() -> None:
    image = np.zeros((4, 40_000, 3), np.uint8)
    image[:, 39_990:] = 250
    label = (image[..., 0] > 0).astype(np.uint8)
    window = CropWindow(AxisSpan(0, 4), AxisSpan(39_900, 40_000))
    turned, labels = crop(image, label, 0.001, 1, window)
    assert turned.shape == (4, 100, 3)
    assert (turned[0, -5:] == 250).all()
    assert (turned[0, :80] == 0).all()
    assert labels[1, -5:].tolist() == [1] * 5


@pytest.mark.parametrize("ratio", [0.37, 0.5, 1.3, 2])
def test_resized_labels_are_labels_and_sizes_are_truncated(ratio: float) -> None:
    image, label = noise(33, 47)
    label[label > 9] = 255
    size = int(33 * ratio), int(47 * ratio)
    assert (scaled_length(33, ratio), scaled_length(47, ratio)) == size
    small, labels = crop(image, label, 0, ratio, whole(*size))
    assert labels.shape == small.shape[:2] == size
    assert set(np.unique(labels)) <= set(np.unique(label))


def test_resized_image_has_at_least_one_pixel() -> None:
    assert scaled_length(1, 0.25) == 1
    image, label = noise(1, 3)
    small, labels = crop(image, label, 0, 0.25, whole(1, 1))
    assert small.shape == (1, 1, 3)
    assert labels.shape == (1, 1)

"""Multi-scale and flipped prediction compared with the protocol in Pillow and NumPy."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from drn_cli.data.batches import normalize
from drn_cli.data.folders import ChannelStats
from drn_cli.inference.preparation import for_inference
from drn_cli.inference.score_maps import argmax_classes
from drn_cli.inference.views import predict_views, resize, resize_floats, resize_image
from drn_cli.networks import create_model
from drn_cli.networks.models import DRN
from drn_cli.recipe.schema import Eval

STATISTICS = ChannelStats((0.2, 0.4, 0.6), (0.1, 0.2, 0.3))
CLASSES = 5
MIX = torch.randn(CLASSES, 3, 1, 1, generator=torch.Generator().manual_seed(0))
PAPER = (0.5, 0.75, 1.0, 1.25, 1.5, 1.75)


def noise(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3)).astype(np.uint8)


def smooth(height: int, width: int, seed: int = 0) -> np.ndarray:
    small = Image.fromarray(noise(height // 16 + 2, width // 16 + 2, seed))
    return np.asarray(small.resize((width, height), Image.Resampling.BICUBIC))


def batch(*images: np.ndarray) -> Tensor:
    return torch.from_numpy(np.stack(images))


def normalised(image: np.ndarray) -> Tensor:
    """Return the normalized image as `(1, 3, H, W)`."""
    values = ((image / 255 - STATISTICS.mean) / STATISTICS.std).astype(np.float32)
    return torch.from_numpy(np.ascontiguousarray(values.transpose(2, 0, 1)))[None]


@torch.no_grad()
def segmenter(arch: str, image: np.ndarray) -> DRN:
    """Build a network with random weights whose classes have equal mean scores."""
    torch.manual_seed(0)
    model = create_model(arch, "segmentation", CLASSES).eval()
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.normal_(module.weight, std=module.weight[0].numel() ** -0.5)
        elif isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
            nn.init.normal_(module.running_mean, std=0.1)
    model.head.weight.mul_(20)
    model.head.bias.copy_(-model.scores(normalised(image)).mean((0, 2, 3)))
    return model


@torch.no_grad()
def step_by_step(model: DRN, image: np.ndarray, view: Eval) -> np.ndarray:
    """Return the sum of the log-probabilities of all views, `(C, H, W)`."""
    height, width, _ = image.shape
    total = np.zeros((CLASSES, height, width))
    for scale in view.scales:
        size = (int(width * scale), int(height * scale))
        seen = np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BICUBIC))
        for mirrored in (False, True) if view.flip else (False,):
            logits = model(normalised(seen[:, ::-1] if mirrored else seen))[0].double().numpy()
            logits -= logits.max(0)
            scores = logits - np.log(np.exp(logits).sum(0))
            for number, of_class in enumerate(scores.astype(np.float32)):
                of_view = Image.fromarray(of_class[:, ::-1] if mirrored else of_class)
                whole = of_view.resize((width, height), Image.Resampling.BILINEAR)
                total[number] += np.asarray(whole)
    return total


@torch.no_grad()
def classes_of(model: DRN, image: np.ndarray, view: Eval) -> np.ndarray:
    [maps] = predict_views(model.scores, 8, batch(image), STATISTICS, view)
    return argmax_classes(maps, *image.shape[:2]).numpy()


@pytest.mark.parametrize(
    ("arch", "flip"), [("drn_a_18", False), ("drn_a_18", True), ("drn_d_22", False)]
)
def test_classes_equal_reference_protocol(arch: str, flip: bool) -> None:
    image, view = smooth(59, 75), Eval(scales=PAPER, flip=flip)
    model = segmenter(arch, image)
    expected = step_by_step(model, image, view)
    ready = for_inference(model, torch.device("cpu")) if arch == "drn_d_22" else model
    classes = classes_of(ready, image, view)

    # A level of a pixel's colour decides where two classes are as good as equal.
    second, first = np.sort(expected, 0)[-2:]
    chosen = np.take_along_axis(expected, classes[None].astype(np.int64), 0)[0]
    assert (chosen == first).mean() > 0.999
    assert (first - chosen).max() < 0.01 * np.median(first - second)

    # It is no easy case: every class occurs, and looking otherwise gives another answer.
    assert np.bincount(expected.argmax(0).flatten(), minlength=CLASSES).min() > 50
    for other in (Eval(), Eval(scales=PAPER) if flip else Eval(scales=PAPER[:-1])):
        assert (classes_of(ready, image, other) != classes).mean() > 0.03


def on_cpu(images: Tensor, height: int, width: int) -> Tensor:
    return resize(images, height, width)


def on_gpu(images: Tensor, height: int, width: int) -> Tensor:
    channels_first = images.permute(0, 3, 1, 2).float()
    return resize_floats(channels_first, height, width).permute(0, 2, 3, 1)


def edges(height: int, width: int) -> np.ndarray:
    """Return an image of black and white, where bicubic filters overshoot."""
    return (
        (noise(height // 4 + 1, width // 4 + 1) // 128 * 255)
        .repeat(4, 0)
        .repeat(4, 1)[:height, :width]
    )


@pytest.mark.parametrize("way", [on_cpu, on_gpu])
@pytest.mark.parametrize("make", [noise, smooth, edges])
@pytest.mark.parametrize("size", [(37, 46), (9, 11), (56, 70), (131, 162), (75, 40), (200, 93)])
def test_resize_equals_pillow(
    way: Callable[[Tensor, int, int], Tensor],
    make: Callable[[int, int], np.ndarray],
    size: tuple[int, int],
) -> None:
    images = [make(75, 93), make(75, 93)[::-1]]
    found = way(batch(*images), *size).numpy()
    assert found.shape == (2, *size, 3)
    assert np.array_equal(found, found.astype(np.uint8))
    for image, made in zip(images, found, strict=True):
        pillow = Image.fromarray(image).resize(size[::-1], Image.Resampling.BICUBIC)
        difference = np.abs(made.astype(int) - np.asarray(pillow).astype(int))
        assert difference.max() <= 2
        assert difference.mean() < 0.05


def test_normalize_of_integer_floats() -> None:
    image = noise(9, 13)
    floats = batch(image).float()
    found = normalize(floats, STATISTICS)
    torch.testing.assert_close(found, normalised(image), rtol=1e-5, atol=1e-5)
    assert torch.equal(floats, batch(image).float())  # the flipped view uses them


def test_resize_image() -> None:
    image = noise(30, 41)
    image.setflags(write=False)  # as Pillow gives them
    assert resize_image(image, 30, 41) is image
    found = resize_image(image, 20, 55)
    assert found.dtype == np.uint8
    assert np.array_equal(found, resize(batch(image), 20, 55)[0].numpy())
    flipped = resize_image(image[:, ::-1], 20, 55)
    assert np.array_equal(flipped, resize(batch(image[:, ::-1]), 20, 55)[0].numpy())


class Recorder:
    """A network of single pixels that records its inputs."""

    def __init__(self) -> None:
        self.seen: list[Tensor] = []

    def __call__(self, images: Tensor) -> Tensor:
        self.seen.append(images.clone())
        return F.conv2d(images, MIX)

    @property
    def sizes(self) -> list[tuple[int, ...]]:
        return [tuple(x.shape[2:]) for x in self.seen]


def test_view_sizes() -> None:
    network = Recorder()
    [maps] = predict_views(network, 1, batch(noise(5, 7)), STATISTICS, Eval(scales=(0.5, 1.0, 1.5)))
    assert network.sizes == [(2, 3), (5, 7), (7, 10)]
    assert [(one.height, one.width) for one in maps] == network.sizes
    tiny = Recorder()
    [[one]] = predict_views(tiny, 1, batch(noise(1, 3)), STATISTICS, Eval(scales=(0.25,)))
    assert tiny.sizes == [(1, 1)]
    assert argmax_classes([one], 1, 3).shape == (1, 3)


def test_order_of_views() -> None:
    network, image = Recorder(), noise(12, 20)
    images = batch(image)
    [maps] = predict_views(network, 1, images, STATISTICS, Eval(scales=(1.0, 0.5), flip=True))
    assert [one.mirrored for one in maps] == [False, True, False, True]
    half = resize(images, 6, 10)[0].numpy()
    shown = [image, image[:, ::-1], half, half[:, ::-1]]
    for seen, expected in zip(network.seen, shown, strict=True):
        torch.testing.assert_close(seen, normalised(expected), rtol=1e-5, atol=1e-5)
    assert np.array_equal(images[0].numpy(), image)


def test_scores_are_contiguous_float32() -> None:
    def network(images: Tensor) -> Tensor:
        return F.conv2d(F.avg_pool2d(images, 8, ceil_mode=True), MIX).bfloat16()

    [maps] = predict_views(network, 8, batch(noise(20, 36)), STATISTICS, Eval(flip=True))
    for one in maps:
        assert one.scores.shape == (3, CLASSES, 5)
        assert one.scores.dtype == torch.float32
        assert one.scores.is_contiguous()
        assert (one.height, one.width, one.stride) == (20, 36, 8)


@torch.no_grad()
@pytest.mark.parametrize("view", [Eval(), Eval(scales=(0.5, 1.0), flip=True), Eval(tile=64)])
def test_batch_of_views_equals_single_images(view: Eval) -> None:
    images = [smooth(72, 90, seed) for seed in range(3)]
    ready = for_inference(segmenter("drn_a_18", images[0]), torch.device("cpu"))
    together = predict_views(ready.scores, 8, batch(*images), STATISTICS, view)
    assert len(together) == len(images)
    for image, maps in zip(images, together, strict=True):
        [alone] = predict_views(ready.scores, 8, batch(image), STATISTICS, view)
        for found, expected in zip(maps, alone, strict=True):
            torch.testing.assert_close(found.scores, expected.scores, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(together[0][0].scores, together[1][0].scores, atol=0.1)


def test_views_are_tiled() -> None:
    image = noise(80, 100)
    for scales in ((1.0,), (0.5, 1.0, 1.5)):
        whole, tiled = Recorder(), Recorder()
        [expected] = predict_views(
            whole, 1, batch(image), STATISTICS, Eval(scales=scales, flip=True)
        )
        view = Eval(scales=scales, flip=True, tile=64)
        [found] = predict_views(tiled, 1, batch(image), STATISTICS, view)
        assert 32 < max(max(size) for size in tiled.sizes) <= 64
        for one, other in zip(found, expected, strict=True):
            torch.testing.assert_close(one.scores, other.scores, rtol=1e-5, atol=1e-5)
    assert (40, 50) in tiled.sizes  # what is no larger than a tile stays whole


def test_confident_network_with_tiles_and_scales() -> None:
    def sure(images: Tensor) -> Tensor:
        # Differences of 400: the probabilities of all others are rounded to 0.
        best = F.conv2d(images, MIX).argmax(1, keepdim=True)
        return 400.0 * best.eq(torch.arange(CLASSES).view(1, -1, 1, 1))

    flat = np.full((96, 80, 3), (10, 200, 90), np.uint8)
    expected = int(F.conv2d(normalised(flat), MIX)[0, :, 0, 0].argmax())
    view = Eval(scales=(0.9, 1.0), flip=True, tile=64)
    [maps] = predict_views(sure, 1, batch(flat), STATISTICS, view)
    assert all(math.isfinite(float(one.scores.sum())) for one in maps)
    assert (argmax_classes(maps, 96, 80) == expected).all()

"""Top-1 and top-5 accuracy: values, and independence of processes, threads and batches."""

import math
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torchvision.transforms import v2

from drn_cli.data.batches import Batch
from drn_cli.data.class_folders import ClassSample
from drn_cli.data.classification import ClassificationTestSet, View
from drn_cli.data.folders import ChannelStats
from drn_cli.distributed.group import Group
from drn_cli.errors import DrnError
from drn_cli.evaluation.classification import (
    BatchRanking,
    ImageRanking,
    TopKScores,
    batched,
    rank_classes,
    score,
    worst_images,
)
from drn_cli.inference.classifier import ClassificationPredictor

CPU = torch.device("cpu")
ALONE = Group(0, 1, CPU)
STATISTICS = ChannelStats((0.5, 0.4, 0.3), (0.2, 0.3, 0.25))
CROP, RESIZE = 24, 28
CLASSES = 9
IMAGES = 23


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> list[ClassSample]:
    """Noise of several sizes, and classes at random."""
    folder = tmp_path_factory.mktemp("noise")
    random = np.random.default_rng(0)
    made = []
    for number in range(IMAGES):
        size = (*random.integers(20, 60, 2), 3)
        path = folder / f"{number}.png"
        Image.fromarray(random.integers(0, 256, size).astype(np.uint8)).save(path)
        made.append(ClassSample(path, int(random.integers(CLASSES))))
    return made


@pytest.fixture
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def threads_of_a_later_thread() -> int:
    """Return the number of PyTorch threads in a Python thread started now."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(torch.get_num_threads).result()


def linear() -> nn.Module:
    """Return a network that uses every pixel, so that images of noise differ."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * CROP * CROP, CLASSES))


def classifier(
    network: Callable[[Tensor], Tensor] | None = None, view: View = "1-crop"
) -> ClassificationPredictor:
    network = network or linear()
    return ClassificationPredictor(
        network=network,
        maps=network,
        statistics=STATISTICS,
        names=tuple(map(str, range(CLASSES))),
        folders=None,
        device=CPU,
        crop=CROP,
        resize=RESIZE,
        view=view,
    )


def expected(samples: Sequence[ClassSample], view: str = "1-crop") -> TopKScores:
    """Score with torchvision's transforms and a loop over the images."""
    network, images = linear(), []
    cut = v2.CenterCrop(CROP) if view == "1-crop" else v2.TenCrop(CROP)
    for number, sample in enumerate(samples):
        pixels = v2.functional.to_image(Image.open(sample.image))
        crops = cut(v2.functional.resize(pixels, RESIZE, antialias=True))
        ready = [
            v2.functional.normalize(crop / 255, STATISTICS.mean, STATISTICS.std)
            for crop in ([crops] if view == "1-crop" else crops)
        ]
        with torch.no_grad():
            likely = network(torch.stack(ready)).softmax(1).mean(0).tolist()
        order = sorted(range(CLASSES), key=lambda one: -likely[one])
        rank, five = order.index(sample.target) + 1, tuple(order[:5])
        shares = tuple(likely[one] for one in five)
        image = str(sample.image)
        images.append(ImageRanking(number, image, sample.target, rank, five, shares))
    top1, top5 = (sum(one.rank <= k for one in images) / len(images) for k in (1, 5))
    return TopKScores(top1, top5, len(samples), tuple(images))


def numbers(scores: TopKScores | None) -> TopKScores:
    """Remove the scores per image."""
    assert scores is not None
    return replace(scores, per_image=())


@pytest.mark.parametrize("view", ["1-crop", "10-crop"])
def test_scores_equal_torchvision_transforms_and_a_loop(
    samples: list[ClassSample], view: View
) -> None:
    seen: list[int] = []
    scores = score(classifier(view=view), samples, ALONE, step=lambda: seen.append(1))
    assert scores == numbers(expected(samples, view)), "per_image is empty by default"
    assert 0 < scores.top1 < scores.top5 < 1, "extreme scores would prove little"
    assert len(seen) == IMAGES


@pytest.mark.parametrize("view", ["1-crop", "10-crop"])
def test_per_image_rankings_are_in_list_order(samples: list[ClassSample], view: View) -> None:
    scores = score(classifier(view=view), samples, ALONE, per_image=True)
    right = expected(samples, view)
    assert numbers(scores) == numbers(right)
    assert scores is not None
    for found, one in zip(scores.per_image, right.per_image, strict=True):
        assert replace(found, probabilities=()) == replace(one, probabilities=())
        assert found.probabilities == pytest.approx(one.probabilities, rel=1e-4)


def test_worst_images_sorts_by_rank_then_confidence() -> None:
    """Of equal ranks, wrong predictions by decreasing confidence, right ones by increasing."""
    ranks = [(1, 0.9), (3, 0.4), (9, 0.5), (7, 0.1), (3, 0.8), (1, 0.3), (3, 0.4)]
    images = [ImageRanking(n, "", 0, rank, (0,), (p,)) for n, (rank, p) in enumerate(ranks)]
    assert [one.number for one in worst_images(images)] == [2, 3, 4, 1, 6, 5, 0]


def test_one_crop_and_ten_crops_differ(samples: list[ClassSample]) -> None:
    assert numbers(expected(samples)) != numbers(expected(samples, "10-crop"))


@pytest.mark.parametrize(("view", "size"), [("1-crop", 4), ("1-crop", 64), ("10-crop", 3)])
def test_batches_equal_single_images(samples: list[ClassSample], view: View, size: int) -> None:
    dataset = ClassificationTestSet(samples, view, CROP, RESIZE)
    batches: list[Batch] = []

    def keep(batch: Batch) -> BatchRanking:
        batches.append(batch)
        return BatchRanking(*[batch.labels] * 4)

    results = list(batched(keep, dataset, size, CPU))
    assert all(one.rank is batch.labels for one, batch in zip(results, batches, strict=True))
    assert max(len(batch.labels) for batch in batches) == min(size, IMAGES)
    items = [dataset[index] for index in range(IMAGES)]
    assert torch.cat([batch.labels for batch in batches]).tolist() == [item[1] for item in items]
    images = torch.cat([batch.images for batch in batches])
    assert np.array_equal(images.numpy(), np.stack([item[0] for item in items]))


def test_batches_name_a_broken_image_and_restore_the_thread_count(
    samples: list[ClassSample], tmp_path: Path, threads: None
) -> None:
    dataset = ClassificationTestSet([*samples, broken(tmp_path)], "1-crop", CROP, RESIZE)
    torch.set_num_threads(2)
    with pytest.raises(DrnError, match=r"cut_off\.png: broken image"):
        list(batched(lambda batch: BatchRanking(*[batch.labels] * 4), dataset, 4, CPU))
    assert threads_of_a_later_thread() == 2


def scored(group: Group, samples: list[ClassSample], view: View) -> tuple[Any, int]:
    seen: list[int] = []
    return score(
        classifier(view=view), samples, group, per_image=True, step=lambda: seen.append(1)
    ), len(seen)


def stopped(group: Group, samples: list[ClassSample]) -> Any:
    return score(classifier(), samples, group, stop=lambda: group.rank == 1)


def test_two_processes_give_the_same_scores(samples: list[ClassSample], spawn: Any) -> None:
    first, second = spawn(scored, 2, samples, "10-crop")
    alone = scored(ALONE, samples, "10-crop")
    assert first[0] == second[0] == alone[0], "including the rankings, bit for bit"
    assert (first[1], second[1]) == (12, 11), "no image is seen twice"


def test_process_without_images_returns_the_scores(samples: list[ClassSample], spawn: Any) -> None:
    results = spawn(scored, 3, samples[:2], "1-crop")
    assert [seen for _, seen in results] == [1, 1, 0]
    assert {scores for scores, _ in results} == {scored(ALONE, samples[:2], "1-crop")[0]}


def test_stop_in_one_process_stops_all(samples: list[ClassSample], spawn: Any) -> None:
    assert spawn(stopped, 2, samples) == [None, None]


def test_stop_returns_none(samples: list[ClassSample]) -> None:
    seen: list[int] = []
    scores = score(
        classifier(), samples, ALONE, step=lambda: seen.append(1), stop=lambda: len(seen) == 3
    )
    assert scores is None
    assert len(seen) == 3


def test_thread_count_does_not_change_scores_and_is_restored(
    samples: list[ClassSample], threads: None
) -> None:
    model, used = linear(), set()

    def network(x: Tensor) -> Tensor:
        used.add((len(x), torch.get_num_threads(), torch.is_inference_mode_enabled()))
        logits: Tensor = model(x)
        return logits

    for number in (1, 3):
        torch.set_num_threads(number)
        assert score(classifier(network), samples, ALONE) == numbers(expected(samples))
        assert torch.get_num_threads() == threads_of_a_later_thread() == number
    assert used == {(1, 1, True)}, "batches of one image, one thread, no gradients"


@pytest.mark.parametrize("precision", [None, torch.bfloat16])
def test_autocast_reaches_the_network(
    samples: list[ClassSample], precision: torch.dtype | None
) -> None:
    model, types = linear(), set()

    def network(x: Tensor) -> Tensor:
        logits: Tensor = model(x)
        types.add(logits.dtype)
        return logits

    scores = score(replace(classifier(network), autocast=precision), samples, ALONE)
    assert types == {precision or torch.float32}
    assert scores is not None
    assert scores.top1 == pytest.approx(expected(samples).top1, abs=3 / IMAGES)


def broken(folder: Path) -> ClassSample:
    path = folder / "cut_off.png"
    Image.new("RGB", (40, 30), "red").save(path)
    path.write_bytes(path.read_bytes()[:60])
    return ClassSample(path, 0)


def test_broken_image_is_an_error_and_the_thread_count_is_restored(
    samples: list[ClassSample], tmp_path: Path, threads: None
) -> None:
    torch.set_num_threads(2)
    with pytest.raises(DrnError, match=r"cut_off\.png: broken image"):
        score(classifier(), [*samples[:3], broken(tmp_path), *samples[3:]], ALONE)
    assert threads_of_a_later_thread() == 2


def test_class_out_of_range_is_an_error(samples: list[ClassSample]) -> None:
    unknown = ClassSample(samples[4].image, CLASSES)
    with pytest.raises(
        DrnError, match=f"4.png: class {CLASSES} is out of range: .* {CLASSES} classes"
    ):
        score(classifier(), [*samples, unknown], ALONE)


def ranking(logits: Any, target: int) -> BatchRanking:
    """Rank an image from the logits of its crops, in a batch with one that is certainly right."""
    values = torch.tensor(logits, dtype=torch.float32)
    certain = torch.zeros_like(values)
    certain[:, 0] = 1
    answers = torch.cat([certain, values])
    crops = torch.zeros(2, len(values), CROP, CROP, 3, dtype=torch.uint8)
    scores = classifier(lambda x: answers[: len(x)]).log_probabilities(crops)
    both = rank_classes(scores, torch.tensor([0, target]))
    assert both.rank[0] == 1, "images of a batch are independent"
    return BatchRanking(*(column[1] for column in both))


@pytest.mark.parametrize("target", range(7))
def test_rank_of_each_class(target: int) -> None:
    found = ranking([[-2.0, -1.0, 0.0, 1.0, 2.0, 3.0, 4.0]], target)
    assert found.rank == 7 - target
    assert found.best.tolist() == [6, 5, 4, 3, 2]
    shares = np.exp(np.arange(4, -1, -1)) / np.exp(np.arange(-2, 5)).sum()
    assert found.probabilities.tolist() == pytest.approx(shares.tolist())


def test_all_classes_are_kept_of_three() -> None:
    assert [int(ranking([[1.0, 3.0, 2.0]], target).rank) for target in range(3)] == [3, 1, 2]
    assert ranking([[1.0, 3.0, 2.0]], 0).best.tolist() == [1, 2, 0]


def test_equal_logits_rank_classes_in_order() -> None:
    assert [int(ranking([[0.5] * 7], target).rank) for target in range(7)] == list(range(1, 8))


def test_very_small_probabilities_keep_their_order() -> None:
    """They all underflow to 0."""
    logits = [[0.0, -6000.0, -5000.0, -1000.0, -2000.0, -3000.0, -4000.0]]
    assert ranking(logits, 6).rank == 5
    assert ranking(logits, 2).rank == 6


def test_nearly_equal_logits_keep_their_order() -> None:
    """A softmax in single precision would make them equal."""
    assert [int(ranking([[0.0, 1e-9, 0.0]], target).rank) for target in range(3)] == [2, 1, 3]


def test_probabilities_of_crops_are_averaged_not_logits() -> None:
    certain_of_0, lean_to_1 = [[100.0, 0.0]], [[0.0, 2.0]] * 9
    assert ranking(certain_of_0 + lean_to_1, 1).rank == 1
    assert ranking(certain_of_0 * 6 + lean_to_1[:4], 1).rank == 2
    share = 0.4 / (1 + math.exp(-2))
    mixed = ranking(certain_of_0 * 6 + lean_to_1[:4], 1)
    assert mixed.probabilities.tolist() == pytest.approx([1 - share, share])


def test_json() -> None:
    assert TopKScores(0.25, 0.5, 8).to_json() == {"images": 8, "top1": 0.25, "top5": 0.5}

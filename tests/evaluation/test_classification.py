"""Scoring a classifier on class folders: the numbers, and what they do not depend on."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
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
from drn_cli.data.classification import ClassificationTestSet
from drn_cli.data.folders import Statistics
from drn_cli.distributed.group import Group
from drn_cli.errors import DrnError
from drn_cli.evaluation.classification import TopScores, in_batches, right, score

ALONE = Group(0, 1, torch.device("cpu"))
STATISTICS = Statistics((0.5, 0.4, 0.3), (0.2, 0.3, 0.25))
CROP, RESIZE = 24, 28
VIEW = {"statistics": STATISTICS, "crop": CROP, "resize": RESIZE}
CLASSES = 9
PICTURES = 23


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> list[ClassSample]:
    """Noise of several sizes, and classes at random."""
    folder = tmp_path_factory.mktemp("noise")
    random = np.random.default_rng(0)
    made = []
    for number in range(PICTURES):
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
    """Tell with how many threads PyTorch works in a thread that starts now."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(torch.get_num_threads).result()


def linear() -> nn.Module:
    """A network that sees every pixel, and so tells pieces of noise apart."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * CROP * CROP, CLASSES))


def expected(samples: Sequence[ClassSample], view: str = "1-crop") -> TopScores:
    """Score as one would write it down: torchvision's transforms, a picture at a time, a loop."""
    network, first, five = linear(), 0, 0
    cut = v2.CenterCrop(CROP) if view == "1-crop" else v2.TenCrop(CROP)
    for sample in samples:
        pixels = v2.functional.to_image(Image.open(sample.image))
        crops = cut(v2.functional.resize(pixels, RESIZE, antialias=True))
        ready = [
            v2.functional.normalize(crop / 255, STATISTICS.mean, STATISTICS.std)
            for crop in ([crops] if view == "1-crop" else crops)
        ]
        with torch.no_grad():
            probabilities = network(torch.stack(ready)).softmax(1).mean(0).tolist()
        ranking = sorted(range(CLASSES), key=lambda one: -probabilities[one])
        first += ranking[0] == sample.target
        five += sample.target in ranking[:5]
    return TopScores(first / len(samples), five / len(samples), len(samples))


@pytest.mark.parametrize("view", ["1-crop", "10-crop"])
def test_scores_are_those_of_torchvisions_transforms_and_a_loop(
    samples: list[ClassSample], view: str
) -> None:
    seen: list[int] = []
    scores = score(linear(), samples, ALONE, **VIEW, view=view, step=lambda: seen.append(1))
    assert scores == expected(samples, view)
    assert 0 < scores.top1 < scores.top5 < 1, "such scores would prove little"
    assert len(seen) == PICTURES


def test_views_differ(samples: list[ClassSample]) -> None:
    assert expected(samples) != expected(samples, "10-crop")


@pytest.mark.parametrize(("view", "at_once"), [("1-crop", 4), ("1-crop", 64), ("10-crop", 3)])
def test_batches_give_what_single_pictures_give(
    samples: list[ClassSample], view: str, at_once: int
) -> None:
    dataset = ClassificationTestSet(samples, view, CROP, RESIZE)
    batches: list[Batch] = []

    def count(batch: Batch) -> Tensor:
        batches.append(batch)
        return torch.tensor([len(batches), 0])

    results = list(in_batches(count, dataset, at_once, torch.device("cpu")))
    assert [pictures for _, pictures in results] == [len(batch.labels) for batch in batches]
    assert max(len(batch.labels) for batch in batches) == min(at_once, PICTURES)
    items = [dataset[index] for index in range(PICTURES)]
    assert torch.cat([batch.labels for batch in batches]).tolist() == [item[1] for item in items]
    images = torch.cat([batch.images for batch in batches])
    assert np.array_equal(images.numpy(), np.stack([item[0] for item in items]))


def test_batches_name_a_broken_picture_and_put_the_threads_back(
    samples: list[ClassSample], tmp_path: Path, threads: None
) -> None:
    dataset = ClassificationTestSet([*samples, broken(tmp_path)], "1-crop", CROP, RESIZE)
    torch.set_num_threads(2)
    with pytest.raises(DrnError, match=r"cut_off\.png: broken picture"):
        list(in_batches(lambda batch: torch.zeros(2), dataset, 4, torch.device("cpu")))
    assert threads_of_a_later_thread() == 2


def scored(group: Group, samples: list[ClassSample], view: str) -> tuple[Any, int]:
    seen: list[int] = []
    scores = score(linear(), samples, group, **VIEW, view=view, step=lambda: seen.append(1))
    return scores, len(seen)


def stopped(group: Group, samples: list[ClassSample]) -> Any:
    return score(linear(), samples, group, **VIEW, stop=lambda: group.rank == 1)


def test_number_of_processes_changes_nothing(samples: list[ClassSample], spawn: Any) -> None:
    first, second = spawn(scored, 2, samples, "10-crop")
    assert first[0] == second[0] == expected(samples, "10-crop")
    assert (first[1], second[1]) == (12, 11), "no picture is seen twice"


def test_process_without_a_picture_has_the_scores_too(
    samples: list[ClassSample], spawn: Any
) -> None:
    results = spawn(scored, 3, samples[:2], "1-crop")
    assert [seen for _, seen in results] == [1, 1, 0]
    assert {scores for scores, _ in results} == {expected(samples[:2])}


def test_one_process_that_stops_stops_all(samples: list[ClassSample], spawn: Any) -> None:
    assert spawn(stopped, 2, samples) == [None, None]


def test_stop_gives_up_early(samples: list[ClassSample]) -> None:
    seen: list[int] = []
    scores = score(
        linear(), samples, ALONE, **VIEW, step=lambda: seen.append(1), stop=lambda: len(seen) == 3
    )
    assert scores is None
    assert len(seen) == 3


def test_number_of_threads_changes_nothing_and_is_put_back(
    samples: list[ClassSample], threads: None
) -> None:
    model, used = linear(), set()

    def network(x: Tensor) -> Tensor:
        used.add((len(x), torch.get_num_threads(), torch.is_inference_mode_enabled()))
        return model(x)

    for number in (1, 3):
        torch.set_num_threads(number)
        assert score(network, samples, ALONE, **VIEW) == expected(samples)
        assert torch.get_num_threads() == threads_of_a_later_thread() == number
    assert used == {(1, 1, True)}, "a picture is alone, in one thread, without gradients"


@pytest.mark.parametrize("precision", [None, torch.bfloat16])
def test_autocast_reaches_the_network(
    samples: list[ClassSample], precision: torch.dtype | None
) -> None:
    model, types = linear(), set()

    def network(x: Tensor) -> Tensor:
        logits: Tensor = model(x)
        types.add(logits.dtype)
        return logits

    scores = score(network, samples, ALONE, **VIEW, precision=precision)
    assert types == {precision or torch.float32}
    assert scores.top1 == pytest.approx(expected(samples).top1, abs=3 / PICTURES)


def broken(folder: Path) -> ClassSample:
    path = folder / "cut_off.png"
    Image.new("RGB", (40, 30), "red").save(path)
    path.write_bytes(path.read_bytes()[:60])
    return ClassSample(path, 0)


def test_broken_picture_is_an_error_and_the_threads_are_put_back(
    samples: list[ClassSample], tmp_path: Path, threads: None
) -> None:
    torch.set_num_threads(2)
    with pytest.raises(DrnError, match=r"cut_off\.png: broken picture"):
        score(linear(), [*samples[:3], broken(tmp_path), *samples[3:]], ALONE, **VIEW)
    assert threads_of_a_later_thread() == 2


def test_class_that_the_network_does_not_have_is_an_error(samples: list[ClassSample]) -> None:
    stranger = ClassSample(samples[4].image, CLASSES)
    with pytest.raises(DrnError, match=f"4.png: is of class {CLASSES}; the network has {CLASSES}"):
        score(linear(), [*samples, stranger], ALONE, **VIEW)


def counted(logits: Any, target: int) -> list[int]:
    """Count a picture, given its crops' logits, beside one that is certain to be right."""
    values = torch.tensor(logits, dtype=torch.float32)
    certain = torch.zeros_like(values)
    certain[:, 0] = 1
    both = right(torch.stack([certain, values]), torch.tensor([0, target])) - 1
    return both.tolist()


@pytest.mark.parametrize(("target", "hits"), [(6, [1, 1]), (2, [0, 1]), (1, [0, 0]), (0, [0, 0])])
def test_first_and_first_five_by_hand(target: int, hits: list[int]) -> None:
    assert counted([[-2.0, -1.0, 0.0, 1.0, 2.0, 3.0, 4.0]], target) == hits


def test_of_three_classes_all_are_among_the_first_five() -> None:
    assert [counted([[1.0, 3.0, 2.0]], target) for target in range(3)] == [[0, 1], [1, 1], [0, 1]]


def test_network_that_says_the_same_of_all_classes_has_the_first_right_alone() -> None:
    assert [counted([[0.5] * 7], target) for target in range(7)] == [[1, 1], *[[0, 1]] * 4] + [
        [0, 0]
    ] * 2


@pytest.mark.parametrize("classes", [3, 7])
@pytest.mark.parametrize("where", ["all", "the target", "another"])
def test_nan_is_never_right(classes: int, where: str) -> None:
    logits = [0.0] * classes
    logits[1] = 5.0
    for index in {"all": range(classes), "the target": [1], "another": [2]}[where]:
        logits[index] = float("nan")
    assert counted([logits], 1) == [0, 0]


def test_classes_far_behind_keep_their_order() -> None:
    """Their probabilities would all be 0."""
    logits = [[0.0, -6000.0, -5000.0, -1000.0, -2000.0, -3000.0, -4000.0]]
    assert counted(logits, 6) == [0, 1]
    assert counted(logits, 2) == [0, 0]


def test_probabilities_of_the_crops_are_averaged_and_not_their_logits() -> None:
    one_is_certain_of_0, nine_lean_to_1 = [[100.0, 0.0]], [[0.0, 2.0]] * 9
    assert counted(one_is_certain_of_0 + nine_lean_to_1, 1) == [1, 1]
    assert counted(one_is_certain_of_0 * 6 + nine_lean_to_1[:4], 1) == [0, 1]


def test_json_has_fractions_of_one() -> None:
    assert TopScores(0.25, 0.5, 8).to_json() == {"images": 8, "top1": 0.25, "top5": 0.5}

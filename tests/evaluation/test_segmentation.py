"""Segmentation scores: values, and independence of processes and threads."""

import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from drn_cli.data.batches import normalize
from drn_cli.data.classes import generic
from drn_cli.data.decoding import read_pair
from drn_cli.data.folders import IMAGENET, ListDataset, Sample
from drn_cli.data.images import Pixels, read_label
from drn_cli.distributed.group import Group
from drn_cli.errors import DrnError
from drn_cli.evaluation.confusion import ImageScores, SegmentationScores
from drn_cli.evaluation.label_maps import MapReader
from drn_cli.evaluation.segmentation import compare, evaluate
from drn_cli.inference.predictor import SegmentationPredictor
from drn_cli.networks import create_model
from drn_cli.recipe.schema import Eval

ALONE = Group(0, 1, torch.device("cpu"))


@pytest.fixture
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def predictor(network: object) -> SegmentationPredictor:
    return SegmentationPredictor(
        network=network,
        stride=1,
        statistics=IMAGENET,
        class_set=generic(3),
        device=torch.device("cpu"),
    )


def always_class_one(x: Tensor) -> Tensor:
    return torch.tensor([0.0, 1.0, 0.0]).view(1, 3, 1, 1).expand(1, 3, *x.shape[-2:])


def strongest_channel(x: Tensor) -> Tensor:
    """Return the color channels as scores of the classes, biased to the second."""
    return x + torch.tensor([0.0, 1.8, 0.0]).view(1, 3, 1, 1)


def test_scores_of_a_constant_prediction(data_folder: Path) -> None:
    samples = ListDataset.open(data_folder).samples("val")
    labels = np.stack([read_label(sample.label) for sample in samples if sample.label])
    seen = []
    scores = evaluate(predictor(always_class_one), samples, ALONE, step=lambda: seen.append(1))
    share = (labels == 1).sum() / (labels != 255).sum()
    assert scores.iou == (0, pytest.approx(share), 0)
    assert scores.pixel_accuracy == pytest.approx(share)
    assert scores.images == len(seen) == len(samples)


def test_thread_count_does_not_change_scores_and_is_restored(
    data_folder: Path, threads: None
) -> None:
    samples = ListDataset.open(data_folder).samples("val")
    torch.manual_seed(0)
    model = create_model("drn_d_22", "segmentation", 3).eval()
    used = set()

    def network(x: Tensor) -> Tensor:
        used.add(torch.get_num_threads())
        return model(x)

    matrices = []
    for number in (1, 2, 3):
        torch.set_num_threads(number)
        matrices.append(evaluate(predictor(network), samples, ALONE).matrix)
        assert torch.get_num_threads() == number
    assert used == {1}, "each image is computed in one thread"
    assert (matrices[0] == matrices[1]).all()
    assert (matrices[0] == matrices[2]).all()


def test_broken_label_is_an_error_and_the_thread_count_is_restored(
    own_data_folder: Path, threads: None
) -> None:
    samples = ListDataset.open(own_data_folder).samples("val")
    assert samples[2].label is not None
    samples[2].label.write_bytes(b"no image")
    torch.set_num_threads(2)
    with pytest.raises(Exception, match=f"{samples[2].label.name}: not an image"):
        evaluate(predictor(always_class_one), samples, ALONE)
    assert torch.get_num_threads() == 2


def test_per_image_scores_equal_those_of_single_images(data_folder: Path) -> None:
    samples = ListDataset.open(data_folder).samples("val")
    segmenter = predictor(strongest_channel)
    together = evaluate(segmenter, samples, ALONE, per_image=True)
    assert len(set(together.per_image)) == len(samples)
    for number, (sample, one) in enumerate(zip(samples, together.per_image, strict=True)):
        alone = evaluate(segmenter, [sample], ALONE)
        assert one == ImageScores(
            number,
            str(sample.image),
            str(sample.label),
            alone.iou,
            alone.miou,
            alone.pixel_accuracy,
        )
    assert len({one.miou for one in together.per_image}) > 1, "equal images would prove little"
    assert evaluate(segmenter, samples, ALONE).per_image == ()


def test_read_replaces_the_reader(data_folder: Path) -> None:
    samples = ListDataset.open(data_folder).samples("val")

    def read(sample: Sample) -> tuple[Pixels, Pixels]:
        """Return half of the image, with the first class relabeled as the second."""
        image, label = read_pair(sample, 3)
        return image[:24], np.where(label == 0, 1, label)[:24]

    labels = np.stack([read(sample)[1] for sample in samples])
    scores = evaluate(predictor(always_class_one), samples, ALONE, read=read)
    valid = (labels != 255).sum()
    assert scores.matrix.sum() == valid
    assert scores.pixel_accuracy == pytest.approx((labels == 1).sum() / valid)
    assert scores.iou[0] is None


def test_stop_returns_none(data_folder: Path) -> None:
    samples, seen = ListDataset.open(data_folder).samples("val"), []
    segmenter, step = predictor(always_class_one), lambda: seen.append(1)
    assert evaluate(segmenter, samples, ALONE, step=step, stop=lambda: len(seen) == 2) is None
    assert len(seen) == 2


READ_MAPS = MapReader(3, "class-ids", "class-ids")


@pytest.fixture(scope="module")
def predictions(tmp_path_factory: pytest.TempPathFactory) -> list[Sample]:
    """Seven saved predictions of different sizes with their labels, void in both."""
    folder, random = tmp_path_factory.mktemp("saved"), np.random.default_rng(0)
    samples = []
    for number in range(7):
        sample = Sample(folder / f"{number}.png", folder / f"{number}_label.png")
        size = random.integers(5, 40, 2)
        for path in (sample.image, sample.label):
            Image.fromarray(random.choice([0, 1, 2, 255], size).astype(np.uint8)).save(path)
        samples.append(sample)
    return samples


def counted(samples: Sequence[Sample]) -> np.ndarray:
    """Count by numpy; void predictions are in the last column."""
    matrix = np.zeros((3, 4), int)
    for sample in samples:
        prediction, label = (read_label(path) for path in (sample.image, sample.label))
        valid = label != 255
        np.add.at(matrix, (label[valid], prediction[valid].clip(max=3)), 1)
    return matrix


def test_saved_predictions_are_compared(predictions: list[Sample]) -> None:
    seen = []
    scores = compare(
        predictions, 3, ALONE, read=READ_MAPS, per_image=True, step=lambda: seen.append(1)
    )
    assert np.array_equal(scores.matrix, counted(predictions))
    assert scores.images == len(seen) == 7
    assert scores.per_image == tuple(
        ImageScores.of(counted([one]), n, str(one.image), str(one.label))
        for n, one in enumerate(predictions)
    )
    assert compare(predictions, 3, ALONE, read=READ_MAPS).per_image == ()


def test_label_out_of_range_is_an_error(
    predictions: list[Sample], tmp_path: Path, threads: None
) -> None:
    unknown = Sample(predictions[0].image, tmp_path / "unknown.png")
    Image.fromarray(np.full_like(read_label(unknown.image), 7)).save(unknown.label)
    torch.set_num_threads(2)
    with pytest.raises(DrnError, match=r"unknown\.png: .*label 7"):
        compare([*predictions, unknown], 3, ALONE, read=READ_MAPS)
    assert torch.get_num_threads() == 2


def shared(
    group: Group, folder: Path, saved: list[Sample]
) -> tuple[SegmentationScores, SegmentationScores, int]:
    samples, seen = ListDataset.open(folder).samples("val"), []
    step = lambda: seen.append(1)  # noqa: E731
    segmenter = predictor(strongest_channel)
    scores = evaluate(segmenter, samples, group, per_image=True, step=step)
    return scores, compare(saved, 3, group, read=READ_MAPS, per_image=True, step=step), len(seen)


def test_two_processes_give_the_same_scores(
    data_folder: Path, predictions: list[Sample], spawn: Any
) -> None:
    """Odd numbers of images: shards of unequal size."""
    *alone, _ = shared(ALONE, data_folder, predictions)
    results = spawn(shared, 2, data_folder, predictions)
    assert [seen for *_, seen in results] == [3 + 4, 2 + 3], "no image is seen twice"
    for *scores, _ in results:
        for one, expected in zip(scores, alone, strict=True):
            assert np.array_equal(one.matrix, expected.matrix)
            assert one.images == expected.images
            assert one.per_image == expected.per_image
            assert (one.iou, one.miou) == (expected.iou, expected.miou)


MEMORY = """
import sys
from pathlib import Path
import torch
from drn_cli.data.classes import generic
from drn_cli.data.folders import IMAGENET, Sample
from drn_cli.distributed.group import Group
from drn_cli.evaluation.label_maps import MapReader, PairReader
from drn_cli.evaluation.segmentation import compare, evaluate
from drn_cli.inference.predictor import SegmentationPredictor

def peak():
    [line] = [line for line in open("/proc/self/status") if line.startswith("VmHWM")]
    return int(line.split()[1]) / 1024

cpu = torch.device("cpu")
segmenter = SegmentationPredictor(
    network=lambda x: x, stride=1, statistics=IMAGENET, class_set=generic(3), device=cpu
)
large, small = (Sample(path, path) for path in map(Path, sys.argv[1:]))
options = {"group": Group(0, 1, cpu), "per_image": True}

def evaluated(count):
    evaluate(segmenter, [small] * count, read=PairReader(3, "class-ids"), **options)
    return peak()

def compared(count):
    compare([large] * count, 3, read=MapReader(3, "class-ids", "class-ids"), **options)
    return peak()

for score in (evaluated, compared):
    print(-score(10) + score(60))
"""


def test_memory_does_not_grow_with_the_number_of_images(tmp_path: Path) -> None:
    """50 more images and label maps take 32 MB, 50 more predictions and label maps 100 MB."""
    files = tmp_path / "large.png", tmp_path / "small.png"
    for path, side in zip(files, (1024, 400), strict=True):
        Image.new("L", (side, side), 1).save(path)
    done = subprocess.run(
        [sys.executable, "-c", MEMORY, *files],
        # Freed arrays are returned to the system, so that the peak does not depend on chance.
        env=os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert max(map(float, done.stdout.split())) < 10, done.stdout


@pytest.mark.parametrize(
    ("scales", "flip", "expected"),
    [((1.0,), False, True), ((0.5, 1.0), True, True), ((0.5, 2.0), False, False)],
)
def test_loss_is_the_plain_cross_entropy_at_scale_1(data_folder, scales, flip, expected):
    samples = ListDataset.open(data_folder).samples("val")
    pixels = replace(predictor(strongest_channel), view=Eval(scales=scales, flip=flip))
    scores = evaluate(pixels, samples, ALONE, loss=True)
    assert scores is not None
    if not expected:
        assert scores.loss is None
        return
    total, count = 0.0, 0
    for sample in samples:
        image, label = read_pair(sample, 3)
        logits = strongest_channel(normalize(torch.from_numpy(image)[None], IMAGENET))
        target = torch.from_numpy(label)[None].long()
        total += float(F.cross_entropy(logits, target, ignore_index=255, reduction="sum"))
        count += int((target != 255).sum())
    assert scores.loss == pytest.approx(total / count, rel=1e-6)
    assert scores.to_json(generic(3))["loss"] == scores.loss
    without = evaluate(pixels, samples, ALONE)
    assert without is not None and without.loss is None
    assert (without.matrix == scores.matrix).all()

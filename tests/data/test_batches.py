import multiprocessing
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import Dataset

from drn_cli.data.augment import Augmentation
from drn_cli.data.batches import Batch, TrainDataset, TrainLoader, normalize, on_device
from drn_cli.data.cache import DecodedCache
from drn_cli.data.decoding import decode
from drn_cli.data.folders import ChannelStats, Sample
from drn_cli.data.images import write_png
from drn_cli.data.order import EpochSampler, SampleKey
from drn_cli.errors import DrnError

CLASSES = 5
AUGMENTATION = Augmentation(crop=12, scale=1.5, rotate=10)


def written(folder: Path, name: str, image: np.ndarray, label: np.ndarray) -> Sample:
    sample = Sample(folder / f"{name}.png", folder / f"{name}_label.png")
    write_png(sample.image, image)
    write_png(sample.label, label)
    return sample


@pytest.fixture
def samples(tmp_path: Path) -> list[Sample]:
    random = np.random.default_rng(0)
    return [
        written(
            tmp_path,
            str(number),
            random.integers(0, 256, (16, 20, 3)).astype(np.uint8),
            random.integers(0, CLASSES, (16, 20)).astype(np.uint8),
        )
        for number in range(7)
    ]


def batches_of(
    samples: list[Sample],
    workers: int,
    batch_size: int = 3,
    rank: int = 0,
    world: int = 1,
    start: str = "fork",
    cache: DecodedCache | None = None,
) -> TrainLoader:
    dataset = TrainDataset(samples, CLASSES, AUGMENTATION, 5, cache)
    order = EpochSampler(len(samples), batch_size, seed=5)
    return TrainLoader(
        dataset, order, rank=rank, world=world, workers=workers, pin=False, start_method=start
    )


def same(first: Iterator[Batch], second: Iterator[Batch]) -> bool:
    return all(
        torch.equal(a.images, b.images) and torch.equal(a.labels, b.labels)
        for a, b in zip(first, second, strict=True)
    )


def test_batches_hold_the_augmented_samples_of_the_order(samples: list[Sample]) -> None:
    batches = batches_of(samples, workers=0)
    seen = list(batches.epoch(2))
    assert len(seen) == 2
    for batch, turns in zip(seen, EpochSampler(7, 3, seed=5).parts(2, 0, 1), strict=True):
        assert batch.images.dtype == batch.labels.dtype == torch.uint8
        assert batch.images.shape == (3, 12, 12, 3)
        assert batch.labels.shape == (3, 12, 12)
        for n, turn in enumerate(turns):
            image, label = decode(samples[turn.sample])
            draw = AUGMENTATION.draw(5, 2, turn.sample)
            expected = AUGMENTATION.apply(image, label, draw)
            assert np.array_equal(batch.images[n].numpy(), expected[0])
            assert np.array_equal(batch.labels[n].numpy(), expected[1])


@pytest.mark.filterwarnings("ignore:This DataLoader will create 4 worker")  # more than cores
@pytest.mark.parametrize(
    ("workers", "start"), [(1, "fork"), (2, "fork"), (4, "fork"), (2, "spawn"), (1, "forkserver")]
)
def test_batches_are_the_same_with_workers(samples: list[Sample], workers: int, start: str) -> None:
    alone, together = batches_of(samples, 0), batches_of(samples, workers, start=start)
    for epoch in (0, 1):
        assert same(alone.epoch(epoch), together.epoch(epoch))
    assert same(alone.epoch(2, first_step=1), together.epoch(2, first_step=1))
    assert not same(alone.epoch(0), together.epoch(1))


@pytest.mark.parametrize(("workers", "start"), [(0, "fork"), (2, "fork"), (1, "spawn")])
def test_batches_are_the_same_with_cache(
    samples: list[Sample], tmp_path: Path, workers: int, start: str
) -> None:
    cache = DecodedCache(tmp_path / "cache", tmp_path)
    plain = batches_of(samples, 0)
    cached = batches_of(samples, workers, start=start, cache=cache)
    for epoch in (0, 1, 2):  # while it fills, and after
        assert same(plain.epoch(epoch), cached.epoch(epoch))
    # An epoch of two batches of three leaves one out; three epochs saw all, or all but one.
    assert len(list((tmp_path / "cache").iterdir())) >= 6
    rank = batches_of(samples, 1, rank=1, world=2, cache=cache)
    assert same(batches_of(samples, 0, rank=1, world=2).epoch(1), rank.epoch(1))


def test_starting_at_a_step_gives_the_same_batches(samples: list[Sample]) -> None:
    whole = list(batches_of(samples, 0, batch_size=2).epoch(1))
    for start in range(4):
        rest = batches_of(samples, 0, batch_size=2).epoch(1, first_step=start)
        assert same(iter(whole[start:]), rest)


def test_ranks_read_their_parts_of_the_same_batches(samples: list[Sample]) -> None:
    whole = list(batches_of(samples, 0, batch_size=3).epoch(0))
    parts = [list(batches_of(samples, 0, 3, rank, world=2).epoch(0)) for rank in range(2)]
    for batch, first, second in zip(whole, *parts, strict=True):
        assert torch.equal(batch.images, torch.cat([first.images, second.images]))
        assert torch.equal(batch.labels, torch.cat([first.labels, second.labels]))


@pytest.mark.parametrize("workers", [0, 2])
def test_broken_image_raises_one_error_with_its_name(samples: list[Sample], workers: int) -> None:
    samples[3].image.write_bytes(samples[3].image.read_bytes()[:200])
    with pytest.raises(DrnError, match="broken image") as caught:
        list(batches_of(samples, workers, batch_size=7).epoch(0))
    assert caught.value.message.startswith(f"{samples[3].image}: ")
    assert "\n" not in caught.value.message
    assert "Traceback" not in caught.value.message


def test_hint_of_an_error_in_a_worker_is_kept(samples: list[Sample]) -> None:
    Image.fromarray(np.full((16, 20), 9, np.uint8)).save(samples[3].label)
    with pytest.raises(DrnError, match="have the label 9") as caught:
        list(batches_of(samples, 1, batch_size=7).epoch(0))
    assert "data.classes" in str(caught.value.hint)


def test_normalizes_each_channel() -> None:
    images = torch.from_numpy(
        np.random.default_rng(0).integers(0, 256, (2, 3, 4, 3)).astype(np.uint8)
    )
    before = images.clone()
    statistics = ChannelStats((0.1, 0.5, 0.9), (0.2, 0.3, 0.4))
    result = normalize(images, statistics)
    assert result.dtype == torch.float32
    assert result.shape == (2, 3, 3, 4)
    assert result.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(images, before)
    for channel in range(3):
        plain = images[..., channel].numpy() / 255
        expected = (plain - statistics.mean[channel]) / statistics.std[channel]
        assert np.allclose(result[:, channel].numpy(), expected, atol=1e-5)


def test_class_ids_are_int64(samples: list[Sample]) -> None:
    order = EpochSampler(7, 7, seed=0)
    options = {"rank": 0, "world": 1, "pin": False}
    for workers in (0, 1):
        (batch,) = TrainLoader(Numbers(), order, workers=workers, **options).epoch(0)
        expected = [turn.sample for turn in next(order.parts(0, 0, 1))]
        assert batch.labels.dtype == torch.int64
        assert batch.labels.tolist() == expected
        assert batch.images[:, 0, 0, 0].tolist() == expected


class Numbers(Dataset[Any]):
    def __getitem__(self, turn: SampleKey) -> tuple[np.ndarray, int]:
        return np.full((4, 4, 3), turn.sample, np.uint8), turn.sample


def test_batches_are_moved_to_the_device(samples: list[Sample]) -> None:
    moved = on_device(batches_of(samples, 0).epoch(0), torch.device("cpu"))
    assert same(moved, batches_of(samples, 0).epoch(0))


def test_workers_ignore_signals_to_the_process_group(samples: list[Sample]) -> None:
    batches = batches_of(samples, workers=1, batch_size=1).epoch(0)
    seen = [next(batches)]
    for reader in multiprocessing.active_children():
        for name in ("-INT", "-TERM"):  # from another process than the parent
            subprocess.run(["kill", name, str(reader.pid)], check=True)
    seen += list(batches)
    assert same(iter(seen), batches_of(samples, workers=0, batch_size=1).epoch(0))


LEFT_OVER = """
import sys
from pathlib import Path
from drn_cli.data.augment import Augmentation
from drn_cli.data.batches import TrainLoader, TrainDataset
from drn_cli.data.order import EpochSampler
from drn_cli.data.folders import Sample

sample = Sample(Path(sys.argv[1]), Path(sys.argv[2]))
dataset = TrainDataset([sample] * 4, 5, Augmentation(crop=12), 0)
batches = TrainLoader(dataset, EpochSampler(4, 1, 0), rank=0, world=1, workers=1, pin=False)
running = batches.epoch(0)
next(running)
raise SystemExit(3)
"""


def test_workers_end_with_the_program(samples: list[Sample]) -> None:
    command = [sys.executable, "-c", LEFT_OVER, str(samples[0].image), str(samples[0].label)]
    assert subprocess.run(command, timeout=120, check=False).returncode == 3

import pickle
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from drn_cli.data.class_folders import ClassSample
from drn_cli.data.classification import ClassificationSet, ClassificationTestSet
from drn_cli.data.images import read_image
from drn_cli.data.order import SampleKey
from drn_cli.data.resized_crop import ResizedCrop, center_crop, ten_crops
from drn_cli.errors import DrnError


@pytest.fixture
def samples(tmp_path: Path) -> list[ClassSample]:
    random = np.random.default_rng(0)
    made = []
    for number, size in enumerate(((40, 60), (70, 30), (32, 32))):
        path = tmp_path / f"{number}.jpg"
        Image.fromarray(random.integers(0, 256, (*size, 3)).astype(np.uint8)).save(path)
        made.append(ClassSample(path, target=5 * number))
    return made


def test_training_item_is_the_crop_of_its_key(samples: list[ClassSample]) -> None:
    crop = ResizedCrop(24)
    dataset = ClassificationSet(samples, crop, seed=3)
    for epoch, number in ((0, 0), (1, 0), (4, 1), (0, 2)):
        found, target = dataset[SampleKey(epoch, number)]
        image = read_image(samples[number].image)
        window = crop.draw(3, epoch, number, *image.shape[:2])
        assert found.shape == (24, 24, 3)
        assert found.dtype == np.uint8
        assert (found == crop.apply(image, window)).all()
        assert target == 5 * number


def test_crops_differ_by_epoch_and_seed(samples: list[ClassSample]) -> None:
    first, second = (ClassificationSet(samples, ResizedCrop(24), seed) for seed in (0, 1))
    crops = [first[SampleKey(0, 0)][0], first[SampleKey(1, 0)][0], second[SampleKey(0, 0)][0]]
    assert (first[SampleKey(0, 0)][0] == crops[0]).all()
    assert not (crops[0] == crops[1]).all()
    assert not (crops[0] == crops[2]).all()


def test_evaluation_items_are_fixed_crops(samples: list[ClassSample]) -> None:
    one = ClassificationTestSet(samples, "1-crop", size=20, resize=28)
    ten = ClassificationTestSet(samples, "10-crop", size=20, resize=28)
    assert len(one) == len(ten) == 3
    for number, sample in enumerate(samples):
        image = read_image(sample.image)
        found, target = one[number]
        assert (found == center_crop(image, 20, 28)).all()
        assert target == 5 * number
        found, target = ten[number]
        assert found.shape == (10, 20, 20, 3)
        assert (found == ten_crops(image, 20, 28)).all()
        assert target == 5 * number


def test_default_evaluation_crop_is_224_of_256(samples: list[ClassSample]) -> None:
    found, _ = ClassificationTestSet(samples)[0]
    assert (found == center_crop(read_image(samples[0].image), 224, 256)).all()


def test_broken_image_returns_its_error(samples: list[ClassSample]) -> None:
    samples[1].image.write_bytes(samples[1].image.read_bytes()[:200])
    for item in (
        ClassificationSet(samples, ResizedCrop(8), 0)[SampleKey(0, 1)],
        ClassificationTestSet(samples)[1],
    ):
        assert isinstance(item, DrnError)
        assert "1.jpg: broken image" in item.message
        assert pickle.loads(pickle.dumps(item)).message == item.message


def test_unknown_view(samples: list[ClassSample]) -> None:
    with pytest.raises(DrnError, match="'5-crop' is not a view"):
        ClassificationTestSet(samples, "5-crop")

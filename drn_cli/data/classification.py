"""Datasets of image classification: crops for training and for evaluation.

Both return uint8 pixels, which are normalized on the device. For a sample that cannot be read they
return its error: raised in a data loader worker, it would reach the user as a long traceback.
"""

from collections.abc import Sequence
from typing import Any, Literal, get_args

import numpy as np
from torch.utils.data import Dataset

from drn_cli.data.class_folders import ClassSample
from drn_cli.data.images import Pixels, read_image
from drn_cli.data.order import SampleKey
from drn_cli.data.resized_crop import ResizedCrop, center_crop, ten_crops
from drn_cli.errors import DrnError

View = Literal["1-crop", "10-crop"]


class ClassificationSet(Dataset[Any]):
    """Random resized crops `(crop, crop, 3)` and class ids."""

    def __init__(self, samples: Sequence[ClassSample], crop: ResizedCrop, seed: int) -> None:
        self.samples, self.crop, self.seed = samples, crop, seed

    def __getitem__(self, key: SampleKey) -> tuple[Pixels, int] | DrnError:
        sample = self.samples[key.sample]
        try:
            image = read_image(sample.image)
        except DrnError as error:
            return error
        window = self.crop.draw(self.seed, key.epoch, key.sample, *image.shape[:2])
        return self.crop.apply(image, window), sample.target


class ClassificationTestSet(Dataset[Any]):
    """Evaluation crops and class ids.

    Args:
        samples: Samples to read.
        view: `1-crop`, the center `(size, size, 3)`; or `10-crop`, the corners and the center,
            also mirrored: `(10, size, size, 3)`.
        size: Side of a crop, in pixels.
        resize: Length that the shorter side of each image is resized to first, in pixels.

    Raises:
        DrnError: The view is unknown.
    """

    def __init__(
        self,
        samples: Sequence[ClassSample],
        view: View = "1-crop",
        size: int = 224,
        resize: int = 256,
    ) -> None:
        if view not in get_args(View):
            raise DrnError(f"{view!r} is not a view of a test image", "1-crop or 10-crop")
        self.samples, self.size, self.resize = samples, size, resize
        self.cut = center_crop if view == "1-crop" else ten_crops

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> tuple[Pixels, int] | DrnError:
        sample = self.samples[index]
        try:
            image = read_image(sample.image)
        except DrnError as error:
            return error
        return self.cut(image, self.size, self.resize), sample.target

    def blank(self) -> Pixels:
        """Return black crops as a placeholder for an unreadable image."""
        side = max(self.size, self.resize)
        return self.cut(np.zeros((side, side, 3), np.uint8), self.size, self.resize)

"""From class samples to what a classifier takes: crops to train on, crops to be tested on.

Both hand over uint8 pixels as they were cut; the device normalises them. An item that cannot be
read is its error: raised in a reading process, it would reach the user as a page of traceback.
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
    """Random resized crops: `(crop, crop, 3)` and the number of the class."""

    def __init__(self, samples: Sequence[ClassSample], crop: ResizedCrop, seed: int) -> None:
        self.samples, self.crop, self.seed = samples, crop, seed

    def __getitem__(self, turn: SampleKey) -> tuple[Pixels, int] | DrnError:
        sample = self.samples[turn.sample]
        try:
            image = read_image(sample.image)
        except DrnError as error:
            return error
        window = self.crop.draw(self.seed, turn.epoch, turn.sample, *image.shape[:2])
        return self.crop.apply(image, window), sample.target


class ClassificationTestSet(Dataset[Any]):
    """The crops that a classifier is tested on, and the number of the class.

    Args:
        samples: What to read.
        view: `1-crop`, the centre: `(size, size, 3)`; or `10-crop`, the corners and the centre,
            and those mirrored: `(10, size, size, 3)`.
        size: Side of a crop, in pixels.
        resize: What the shorter side of each image is brought to before, in pixels.

    Raises:
        DrnError: There is no such view.
    """

    def __init__(
        self,
        samples: Sequence[ClassSample],
        view: View = "1-crop",
        size: int = 224,
        resize: int = 256,
    ) -> None:
        if view not in get_args(View):
            raise DrnError(f"{view!r} is no view of a test image", "1-crop or 10-crop")
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
        """Return black crops, to stand for an image that cannot be read."""
        side = max(self.size, self.resize)
        return self.cut(np.zeros((side, side, 3), np.uint8), self.size, self.resize)

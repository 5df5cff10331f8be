"""An image and its label put into a data folder, and the lists and info.json over all of them."""

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from drn_cli.data.classes import IGNORED, ClassSet
from drn_cli.data.images import Pixels, read_image, write_png
from drn_cli.data.orientation import find_orientation_mismatch, first_and_count, size_error
from drn_cli.data.parallel import RunningStats
from drn_cli.data.prepare.common import count_pixels, place, write_info, write_list
from drn_cli.errors import DrnError

log = logging.getLogger(__name__)

SPLITS = ("train", "val", "test")


@dataclass(frozen=True, slots=True)
class WrittenPair:
    """Where an image and its label are in a data folder; a label is an index map in PNG."""

    split: str
    image: str
    label: str | None


@dataclass(frozen=True, slots=True)
class Seen:
    """What was seen of a pair on its way.

    Attributes:
        moments: Sums over the image.
        pixels: int64 `(256,)`, pixels of each id.
        turned: How the image is turned by its EXIF orientation and the label is not, if so.
    """

    moments: RunningStats
    pixels: npt.NDArray[np.int64]
    turned: str | None = None


def place_pair(
    folder: Path, placed: WrittenPair, image: Path, label: Path | None, ids: Pixels | None
) -> Seen:
    """Put an image and the ids of its label into a data folder.

    Args:
        folder: The data folder. Folders in it are there already.
        placed: Their names in it.
        image: Where the image comes from.
        label: Where the label comes from.
        ids: The class ids that the label shows, `(H, W)`.

    Raises:
        DrnError: A broken image, or a label of another size.
    """
    decoded = read_image(image)
    # A hard link to a symbolic link would be a symbolic link, and lead nowhere from its new place.
    place(image, folder / placed.image)
    pixels = np.zeros(256, np.int64)
    if ids is not None and label is not None and placed.label is not None:
        if ids.shape != decoded.shape[:2]:
            sizes = [(pixels.shape[1], pixels.shape[0]) for pixels in (ids, decoded)]
            raise size_error(label, sizes[0], image, sizes[1])
        pixels = np.bincount(ids.ravel(), minlength=256)
        write_png(folder / placed.label, ids)
    turned = find_orientation_mismatch(image, label) if label else None
    return Seen(RunningStats.of(decoded), pixels, turned and f"{image}: {turned}")


def make_folders(folder: Path, placed: Sequence[WrittenPair]) -> None:
    """Make the folders that images and labels go to.

    Raises:
        DrnError: Two of them go to the same place. The second would be written over the first,
            and through a hard link into its source.
    """
    paths = [path for one in placed for path in (one.image, one.label) if path]
    twice = [path for path, count in Counter(paths).items() if count > 1]
    if twice:
        raise DrnError(f"{twice[0]}: two files of the source would go to this place")
    for parent in sorted({(folder / path).parent for path in paths}):
        parent.mkdir(parents=True, exist_ok=True)


def write_lists_and_info(
    folder: Path,
    placed: Sequence[WrittenPair],
    seen: Sequence[Seen],
    class_set: ClassSet,
    **extra: Any,
) -> None:
    """Write the lists of all splits that have images, and what was seen of them.

    Labels are listed where every image of the split has one.
    """
    turned = [part.turned for part in seen if part.turned]
    if turned:
        log.warning("%s", first_and_count(turned))
    for split in SPLITS:
        chosen = [one for one in placed if one.split == split]
        labels = [one.label for one in chosen if one.label]
        if chosen:
            write_list(folder, f"{split}_images.txt", [one.image for one in chosen])
        if labels and len(labels) == len(chosen):
            write_list(folder, f"{split}_labels.txt", labels)
    training = [part for one, part in zip(placed, seen, strict=True) if one.split == "train"]
    pixels = np.sum([part.pixels for part in training], axis=0)
    write_info(
        folder,
        RunningStats.total(part.moments for part in training).statistics(),
        class_set,
        training_pixels=pixels[: len(class_set)].tolist(),
        training_pixels_void=int(pixels[IGNORED]),
        class_pixels=count_pixels(
            (
                (one.split, one.label, part.pixels)
                for one, part in zip(placed, seen, strict=True)
                if one.label
            ),
            len(class_set),
        ),
        **extra,
    )
